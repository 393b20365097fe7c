package groupmanager

import (
	"math/bits"
	"net/http"
	"strings"

	"github.com/kpush/kpush/webhooks/delivery"
)

// blamesBeforeCut is how many failures that only may be owed to its records a delivery
// has before it is cut: a receiver that fails now and then is not worth a search.
const blamesBeforeCut = 3

// blame says whether a failure may be owed to the records of its delivery.
type blame uint8

const (
	blameless blame = iota // the receiver was not reached, spoke of its load, or of the ack
	blameMay               // it broke over the delivery, or over anything
	blameIs                // it read the delivery and refused it
)

// blameOf judges a failed attempt. What the receiver said with Retry-After is about its
// load. 401, 403, 404, 405 and 407 are more often about the webhook than about records.
func blameOf(r delivery.Result) blame {
	switch {
	case r.Verdict != delivery.Failed || r.RetryAfter > 0:
		return blameless
	case strings.HasPrefix(r.Code, "http_"):
		switch r.Status {
		case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
			return blameless
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound,
			http.StatusMethodNotAllowed, http.StatusProxyAuthRequired:
			return blameMay
		}
		switch r.Status / 100 {
		case 4:
			return blameIs
		case 5:
			return blameMay
		}
	case r.Code == delivery.CodeConnectionReset, r.Code == delivery.CodeTimeout,
		r.Code == delivery.CodeTruncated, r.Code == delivery.CodeMalformed:
		return blameMay
	}
	return blameless
}

// bisector decides when a delivery that keeps failing is cut in two, to find the record
// that the receiver cannot take. One record among n costs at most 2·log2(n) requests and,
// where the failures only may be owed to it, two more.
//
// An outage looks the same at first. So a search has a budget: as many cuts as lead to a
// single record of the largest delivery. It is full again when something was delivered, or
// when a single record was given up. A lane to which everything fails cuts that often and
// no more. It is plain data, without a clock, and not safe for concurrent use.
type bisector struct {
	budget    int
	left      int // of the budget
	delivered int // deliveries that succeeded
}

// suspicion is what a bisector knows of one delivery.
type suspicion struct {
	piece  bool // it came out of a cut: one failure is enough
	blames int  // failures that may be owed to its records
	since  int  // deliveries that had succeeded when that began

	earlyBlames int // those of blames that were of attempts before the backoff was over
}

// newBisector is for deliveries of at most that many records.
func newBisector(records int) bisector {
	budget := max(1, bits.Len(uint(records-1)))
	return bisector{budget: budget, left: budget}
}

// succeeded counts a delivery that the receiver took.
func (b *bisector) succeeded() {
	b.delivered++
	b.left = b.budget
}

// isolated tells that a single record was given up.
func (b *bisector) isolated() { b.left = b.budget }

// cut tells whether a delivery of n records is to be cut in two after a failure, and
// whether its halves go at once: where the failure is owed to the records, or something
// else was delivered since it began to fail. Otherwise they wait like the delivery would
// have. last says that it would be given up instead.
func (b *bisector) cut(s *suspicion, n int, what blame, last bool) (cut, atOnce bool) {
	if what == blameless {
		return false, false
	}
	if s.blames++; s.blames == 1 && !s.piece {
		s.since = b.delivered
	}
	enough := what == blameIs || s.piece || last || s.blames >= blamesBeforeCut
	if n < 2 || !enough || b.left == 0 {
		return false, false
	}
	b.left--
	return true, what == blameIs || b.delivered > s.since
}

// half is the suspicion of what comes out of a cut.
func (s *suspicion) half() suspicion { return suspicion{piece: true, since: s.since} }
