package server

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/kpush/kpush/webhooks"
)

// etag is a revision as a strong entity tag.
func etag(revision int64) string { return `"` + strconv.FormatInt(revision, 10) + `"` }

const maxIfMatch = 1024 // bytes

// entityTag matches one entity tag; a weak one is legal and never matches.
var entityTag = regexp.MustCompile(`^(W/)?"[!#-~]*"$`)

// parseIfMatch reads * or a list of entity tags: the revisions, of which one has to
// stand, are those of tags that we made.
func parseIfMatch(header string) (revisions []int64, err error) {
	if strings.TrimSpace(header) == "*" {
		return []int64{webhooks.AnyRevision}, nil
	}
	if len(header) > maxIfMatch {
		return nil, invalid("header/If-Match", fmt.Sprintf("must be at most %d bytes", maxIfMatch))
	}
	for tag := range strings.SplitSeq(header, ",") {
		tag = strings.TrimSpace(tag)
		if !entityTag.MatchString(tag) {
			return nil, invalid("header/If-Match", `must be *, or an ETag as it was told, with its quotes`)
		}
		revision, err := strconv.ParseInt(strings.Trim(tag, `"`), 10, 64)
		if err == nil && revision >= 0 && tag == etag(revision) {
			revisions = append(revisions, revision)
		}
	}
	return revisions, nil
}
