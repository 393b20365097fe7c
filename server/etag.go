package server

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// etag is a revision as a strong entity tag.
func etag(revision int64) string { return `"` + strconv.FormatInt(revision, 10) + `"` }

// ifMatch is the value of an If-Match header.
type ifMatch struct {
	any  bool // *
	tags []string
}

// entityTag matches one entity tag; a weak one is legal and never matches.
var entityTag = regexp.MustCompile(`^(W/)?"[!#-~]*"$`)

// parseIfMatch reads * or a list of entity tags.
func parseIfMatch(header string) (ifMatch, error) {
	if strings.TrimSpace(header) == "*" {
		return ifMatch{any: true}, nil
	}
	var m ifMatch
	for tag := range strings.SplitSeq(header, ",") {
		tag = strings.TrimSpace(tag)
		if !entityTag.MatchString(tag) {
			return ifMatch{}, invalid("header/If-Match", `must be *, or an ETag as it was told, with its quotes`)
		}
		m.tags = append(m.tags, tag)
	}
	return m, nil
}

// admits tells whether a revision is one of those meant.
func (m ifMatch) admits(revision int64) bool {
	return m.any || slices.Contains(m.tags, etag(revision))
}
