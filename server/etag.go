package server

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// etag is a revision as a strong entity tag.
func etag(revision int64) string { return `"` + strconv.FormatInt(revision, 10) + `"` }

// ifMatch is the value of an If-Match header.
type ifMatch struct {
	any       bool    // *
	revisions []int64 // those of tags that we made
}

const maxIfMatch = 1024 // bytes

// entityTag matches one entity tag; a weak one is legal and never matches.
var entityTag = regexp.MustCompile(`^(W/)?"[!#-~]*"$`)

// parseIfMatch reads * or a list of entity tags.
func parseIfMatch(header string) (ifMatch, error) {
	if strings.TrimSpace(header) == "*" {
		return ifMatch{any: true}, nil
	}
	if len(header) > maxIfMatch {
		return ifMatch{}, invalid("header/If-Match", fmt.Sprintf("must be at most %d bytes", maxIfMatch))
	}
	var m ifMatch
	for tag := range strings.SplitSeq(header, ",") {
		tag = strings.TrimSpace(tag)
		if !entityTag.MatchString(tag) {
			return ifMatch{}, invalid("header/If-Match", `must be *, or an ETag as it was told, with its quotes`)
		}
		revision, err := strconv.ParseInt(strings.Trim(tag, `"`), 10, 64)
		if err == nil && tag == etag(revision) {
			m.revisions = append(m.revisions, revision)
		}
	}
	return m, nil
}
