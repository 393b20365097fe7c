package groupmanager

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kpush/kpush/webhooks/delivery"
)

func TestBlame(t *testing.T) {
	for _, test := range []struct {
		claim  string
		result delivery.Result
		want   blame
	}{
		{"a bad request is about its records", delivery.Result{Status: 400, Code: "http_400"}, blameIs},
		{"and an unprocessable one", delivery.Result{Status: 422, Code: "http_422"}, blameIs},
		{"a missing path may be", delivery.Result{Status: 404, Code: "http_404"}, blameMay},
		{"a refused credential may be", delivery.Result{Status: 401, Code: "http_401"}, blameMay},
		{"a server's error may be", delivery.Result{Status: 500, Code: "http_500"}, blameMay},
		{"a dropped connection may be", delivery.Result{Code: delivery.CodeConnectionReset}, blameMay},
		{"no answer may be", delivery.Result{Code: delivery.CodeTimeout}, blameMay},
		{"a wait that is asked for is about load", delivery.Result{Status: 503, Code: "http_503", RetryAfter: time.Second}, blameless},
		{"429 is about load", delivery.Result{Status: 429, Code: "http_429"}, blameless},
		{"408 is about time", delivery.Result{Status: 408, Code: "http_408"}, blameless},
		{"nobody was reached", delivery.Result{Code: delivery.CodeConnectRefused}, blameless},
		{"a nack says itself what it wants", delivery.Result{Code: "nacked"}, blameless},
		{"an ack that is missing is no word about records", delivery.Result{Code: codeAckTimeout}, blameless},
		{"a single record that is too large is alone already", delivery.Result{Verdict: delivery.TooLarge, Status: 413, Code: "http_413"}, blameless},
		{"the receiver is gone", delivery.Result{Verdict: delivery.Gone, Status: 410, Code: "http_410"}, blameless},
	} {
		if got := blameOf(test.result); got != test.want {
			t.Errorf("%s: blame %d, want %d", test.claim, got, test.want)
		}
	}
}

// trial is a lane with ordering partition, or none, that delivers n records to a
// simulated receiver by the bisector alone.
type trial struct {
	b        bisector
	answer   blame // of a refusal
	takes    func(from, to int) bool
	attempts int // failures after which a record or delivery is given up; 0: never
	inOrder  bool

	requests, cuts, first int // first: requests until a record was given up or found alone
	took, lost            map[int]int
}

type part struct {
	from, to, failed int
	suspicion
}

func (tr *trial) run(n, most int) {
	tr.took, tr.lost = map[int]int{}, map[int]int{}
	queue := []part{{from: 0, to: n}}
	for len(queue) > 0 && tr.requests < most {
		p := queue[0]
		queue = queue[1:]
		tr.requests++
		if tr.takes(p.from, p.to) {
			tr.b.succeeded()
			for i := p.from; i < p.to; i++ {
				tr.took[i]++
			}
			continue
		}
		if p.to-p.from == 1 && tr.first == 0 {
			tr.first = tr.requests
		}
		p.failed++
		last := tr.attempts > 0 && p.failed >= tr.attempts
		cut, _ := tr.b.cut(&p.suspicion, p.to-p.from, tr.answer, last)
		var next []part
		switch {
		case cut:
			tr.cuts++
			middle := p.from + (p.to-p.from)/2
			next = []part{{p.from, middle, p.failed - 1, p.half()}, {middle, p.to, p.failed - 1, p.half()}}
		case last:
			for i := p.from; i < p.to; i++ {
				tr.lost[i] = p.to - p.from
			}
			if p.to-p.from == 1 {
				tr.b.isolated()
			}
		default:
			next = []part{p}
		}
		if tr.inOrder {
			queue = append(next, queue...)
		} else {
			queue = append(queue, next...)
		}
	}
}

func TestOneBadRecordOfAThousandCosts22RequestsAtMost(t *testing.T) {
	worst := 0
	for _, answer := range []blame{blameMay, blameIs} {
		for _, inOrder := range []bool{true, false} {
			for bad := range 1000 {
				tr := trial{b: newBisector(1000), answer: answer, inOrder: inOrder, attempts: 5,
					takes: func(from, to int) bool { return bad < from || bad >= to }}
				tr.run(1000, 10_000)
				if len(tr.took) != 999 || tr.lost[bad] != 1 || len(tr.lost) != 1 {
					t.Fatalf("record %d bad: %d delivered and %v given up, want the others and it alone", bad, len(tr.took), tr.lost)
				}
				worst = max(worst, tr.first-1)
				if tr.first-1 > 22 {
					t.Errorf("record %d bad: %d extra requests until it was alone, want 22 at most", bad, tr.first-1)
				}
			}
		}
	}
	t.Logf("%d extra requests at worst", worst)
}

// However many records are bad, each good one is delivered once and each bad one is
// given up alone, as long as a search may go on.
func TestBadRecordsAreGivenUpAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 200).Draw(t, "records")
		bad := rapid.SliceOfNDistinct(rapid.IntRange(0, n-1), 0, min(n, 20), rapid.ID[int]).Draw(t, "bad")
		is := make([]bool, n)
		for _, i := range bad {
			is[i] = true
		}
		tr := trial{b: newBisector(200), inOrder: true, attempts: rapid.IntRange(1, 5).Draw(t, "attempts"),
			answer: rapid.SampledFrom([]blame{blameMay, blameIs}).Draw(t, "answer"),
			takes: func(from, to int) bool {
				for _, b := range is[from:to] {
					if b {
						return false
					}
				}
				return true
			}}
		tr.run(n, 100_000)
		for i := range n {
			if is[i] && tr.lost[i] != 1 || !is[i] && (tr.took[i] != 1 || tr.lost[i] != 0) {
				t.Fatalf("record %d (bad: %v) was delivered %d times and given up among %d", i, is[i], tr.took[i], tr.lost[i])
			}
		}
	})
}

// While everything fails and nothing is given up, a lane is cut as often as leads to one
// record, whatever is under way; and again after the next success only.
func TestAnOutageShattersNothing(t *testing.T) {
	for _, inOrder := range []bool{true, false} {
		for _, answer := range []blame{blameMay, blameIs} {
			tr := trial{b: newBisector(1000), answer: answer, inOrder: inOrder, takes: func(int, int) bool { return false }}
			tr.run(1000, 10_000)
			if tr.cuts > 10 {
				t.Errorf("%d cuts in an outage, want 10 at most", tr.cuts)
			}
		}
	}
	tr := trial{b: newBisector(1000), answer: blameless, takes: func(int, int) bool { return false }}
	if tr.run(1000, 10_000); tr.cuts > 0 {
		t.Errorf("%d cuts by answers about load, want none", tr.cuts)
	}
}

// A receiver that fails at random gets about the requests that it would get anyway.
func TestAFlappingReceiverIsNotSearchedForLong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		requests, plain := 0, 0
		b := newBisector(100)
		for range 200 {
			tr := trial{b: b, answer: blameMay, inOrder: true, takes: func(int, int) bool {
				seed = seed*6364136223846793005 + 1442695040888963407
				return seed>>63 == 0
			}}
			tr.run(100, 100_000)
			requests, plain, b = requests+tr.requests, plain+2, tr.b
			if len(tr.took) != 100 {
				t.Fatalf("%d of 100 records delivered", len(tr.took))
			}
		}
		if requests > 3*plain {
			t.Errorf("%d requests where %d were to be expected without a search", requests, plain)
		}
	})
}
