package acker

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

var morning = time.UnixMilli(1_790_000_000_000).UTC()

// books is a ledger with the deliveries made so far, by number, so that a test
// can tell its story in steps.
type books struct {
	*Ledger
	t          *testing.T
	deliveries []*Delivery
}

type step func(*books)

func deliver(runs ...Run) step {
	return func(b *books) {
		b.t.Helper()
		d, err := b.Deliver(runs)
		if err != nil {
			b.t.Fatalf("deliver %v: %v", runs, err)
		}
		b.deliveries = append(b.deliveries, d)
	}
}

func send(i int) step   { return func(b *books) { b.Send(b.deliveries[i], morning) } }
func lease(i int) step  { return func(b *books) { b.Lease(b.deliveries[i]) } }
func fail(i int) step   { return func(b *books) { b.Fail(b.deliveries[i]) } }
func settle(i int) step { return func(b *books) { b.Settle(b.deliveries[i]) } }
func split(i, n int) step {
	return func(b *books) { b.deliveries = append(b.deliveries, b.Split(b.deliveries[i], n)) }
}
func resume(runs ...Run) step { return func(b *books) { b.ResumeAcked(runs) } }
func advance(p int64) step {
	return func(b *books) { b.Advance(p) }
}

// said is a statement that must be counted.
func said(s Statement) step {
	return func(b *books) {
		b.t.Helper()
		if _, err := b.Apply(s); err != nil {
			b.t.Fatalf("%+v: %v", s, err)
		}
	}
}

func ackOf(first, last, upTo int64) Statement { return Statement{Ack, first, last, upTo, nil} }
func nackOf(first, last int64) Statement      { return Statement{Nack, first, last, last, nil} }
func extendOf(first, last int64) Statement    { return Statement{Extend, first, last, last, nil} }
func rejectOf(first, last int64) Statement    { return Statement{Reject, first, last, last, nil} }
func partialOf(first, last int64, failures ...Failure) Statement {
	return Statement{Partial, first, last, last, failures}
}
func ackUpTo(offset int64) Statement { return Statement{Ack, Everything, offset, offset, nil} }

// String shows the books: the offset to commit, then each delivery as what is
// open of it, its state and its attempts.
func (b *books) String() string {
	text := []string{fmt.Sprintf("next %d", b.Next())}
	for _, d := range b.Ledger.deliveries {
		text = append(text, fmt.Sprintf("%d-%d %v %d", d.First(), d.Last(), d.State(), d.Attempts()))
	}
	return strings.Join(text, "; ")
}

func describe(a Answer, err error) string {
	switch err {
	case nil:
	case ErrConflict:
		return "conflict"
	case ErrOutOfRange:
		return "out of range"
	default:
		return err.Error()
	}
	text := []string{"counted"}
	if a.Repeat {
		text[0] = "repeat"
	}
	if a.Cover >= 0 {
		text = append(text, fmt.Sprintf("cover %d", a.Cover))
	}
	if a.BlockedBy >= 0 {
		text = append(text, fmt.Sprintf("blocked by %d", a.BlockedBy))
	}
	for _, d := range a.Touched {
		text = append(text, fmt.Sprintf("touched %d-%d", d.First(), d.Last()))
	}
	for _, p := range a.Pieces {
		text = append(text, fmt.Sprintf("%v %d-%d", p.Action, p.First(), p.Last()))
	}
	return strings.Join(text, ", ")
}

func play(t *testing.T, steps []step) *books {
	t.Helper()
	b := &books{Ledger: NewLedger(), t: t}
	for _, s := range steps {
		s(b)
	}
	return b
}

func TestStatements(t *testing.T) {
	ten, next10 := Run{0, 9}, Run{10, 19}
	sent := []step{deliver(ten), send(0)}
	leased := []step{deliver(ten), send(0), lease(0)}
	two := []step{deliver(ten), deliver(next10), send(0), send(1)} // ordering: none
	holed := []step{deliver(Run{0, 4}, Run{7, 9}), send(0)}
	halved := []step{deliver(Run{0, 99}), send(0), fail(0), split(0, 50)}

	for _, test := range []struct {
		claim string
		given []step
		say   Statement
		want  string
		books string
	}{
		// Acks of a whole delivery.
		{"an ack of the delivery settles it", leased, ackOf(0, 9, 9), "counted, cover 10, touched 10-9", "next 10"},
		{"an ack before the response of the POST counts", sent, ackOf(0, 9, 9), "counted, cover 10, touched 10-9", "next 10"},
		{"the same ack again is a repeat", slices.Concat(sent, []step{said(ackOf(0, 9, 9))}), ackOf(0, 9, 9), "repeat, cover 10", "next 10"},
		{"an ack of attempt 1 counts while attempt 2 is under way", slices.Concat(sent, []step{fail(0), send(0)}), ackOf(0, 9, 9), "counted, cover 10, touched 10-9", "next 10"},
		{"an ack counts after the lease ran out and before the next attempt", slices.Concat(leased, []step{fail(0)}), ackOf(0, 9, 9), "counted, cover 10, touched 10-9", "next 10"},
		{"an ack of what was dead-lettered is a repeat", slices.Concat(sent, []step{settle(0)}), ackOf(0, 9, 9), "repeat, cover 10", "next 10"},

		// Partial acks.
		{"a partial ack keeps a lease and its attempts", leased, ackOf(0, 9, 4), "counted, cover 5, touched 5-9", "next 5; 5-9 leased 1"},
		{"a partial ack keeps a request under way", sent, ackOf(0, 9, 4), "counted, cover 5, touched 5-9", "next 5; 5-9 sent 1"},
		{"a partial ack of what waits leaves the rest waiting", slices.Concat(sent, []step{fail(0)}), ackOf(0, 9, 4), "counted, cover 5, touched 5-9", "next 5; 5-9 waiting 1"},
		{"a partial ack below an earlier one is a repeat", slices.Concat(leased, []step{said(ackOf(0, 9, 4))}), ackOf(0, 9, 2), "repeat, cover 3", "next 5; 5-9 leased 1"},
		{"the first token settles what a partial ack left", slices.Concat(leased, []step{said(ackOf(0, 9, 4))}), ackOf(0, 9, 9), "counted, cover 10, touched 10-9", "next 10"},
		{"the next attempt's token, of the rest alone, settles the rest", slices.Concat(leased, []step{said(ackOf(0, 9, 4)), fail(0), send(0)}), ackOf(5, 9, 9), "counted, cover 10, touched 10-9", "next 10"},
		{"a partial ack up to the end of a run opens the next run", holed, ackOf(0, 9, 4), "counted, cover 5, touched 7-9", "next 7; 7-9 sent 1"},

		// Splits.
		{"an attempt 1 token settles both halves", halved, ackOf(0, 99, 99), "counted, cover 100, touched 50-49, touched 100-99", "next 100"},
		{"a partial ack by it may end in the second half", halved, ackOf(0, 99, 59), "counted, cover 60, touched 50-49, touched 60-99", "next 60; 60-99 waiting 1"},
		{"a token of the second half leaves the first", slices.Concat(halved, []step{send(1)}), ackOf(50, 99, 99), "counted, cover 100, blocked by 0, touched 100-99", "next 0; 0-49 waiting 1; 100-99 settled 2"},
		{"a nack by it is about both halves", halved, nackOf(0, 99), "counted, touched 0-49, touched 50-99", "next 0; 0-49 nacked 1; 50-99 nacked 1"},

		// By fields.
		{"by fields everything sent up to the offset is acked", two, ackUpTo(14), "counted, cover 15, touched 10-9, touched 15-19", "next 15; 15-19 sent 1"},
		{"by fields what was never sent stays open", []step{deliver(ten), deliver(next10), send(1)}, ackUpTo(19), "counted, cover 20, blocked by 0, touched 20-19", "next 0; 0-9 waiting 0; 20-19 settled 1"},
		{"by fields below the commit is a repeat", slices.Concat(sent, []step{said(ackUpTo(9))}), ackUpTo(3), "repeat, cover 4", "next 10"},
		{"by fields a delivery nacked on the way conflicts", slices.Concat(two, []step{said(nackOf(0, 9))}), ackUpTo(19), "conflict", "next 0; 0-9 nacked 1; 10-19 sent 1"},
		{"by fields below the nacked delivery does not", slices.Concat(two, []step{said(nackOf(10, 19))}), ackUpTo(9), "counted, cover 10, touched 10-9", "next 10; 10-19 nacked 1"},

		// Out of order.
		{"an ack above an open delivery names it", two, ackOf(10, 19, 19), "counted, cover 20, blocked by 0, touched 20-19", "next 0; 0-9 sent 1; 20-19 settled 1"},
		{"the hole filled, the commit jumps over both", slices.Concat(two, []step{said(ackOf(10, 19, 19))}), ackOf(0, 9, 9), "counted, cover 10, touched 10-9", "next 20"},
		{"a repeat above an open delivery names it too", slices.Concat(two, []step{said(ackOf(10, 19, 19))}), ackOf(10, 19, 19), "repeat, cover 20, blocked by 0", "next 0; 0-9 sent 1; 20-19 settled 1"},

		// Out of range.
		{"nothing was sent yet", []step{deliver(ten)}, ackUpTo(0), "out of range", "next 0; 0-9 waiting 0"},
		{"nothing was entered yet", nil, ackUpTo(0), "out of range", "next -1"},
		{"an offset beyond the last sent", sent, ackUpTo(10), "out of range", "next 0; 0-9 sent 1"},
		{"an offset between the last sent and the position", slices.Concat(sent, []step{advance(20), said(ackUpTo(9))}), ackUpTo(15), "out of range", "next 20"},
		{"a negative offset", sent, ackUpTo(-1), "out of range", "next 0; 0-9 sent 1"},
		{"the least offset there is", sent, ackOf(math.MinInt64, 9, 9), "out of range", "next 0; 0-9 sent 1"},
		{"the highest offset there is", sent, ackUpTo(math.MaxInt64), "out of range", "next 0; 0-9 sent 1"},
		{"an offset below the first of this tenure", []step{deliver(next10), send(0)}, ackUpTo(9), "out of range", "next 10; 10-19 sent 1"},
		{"an offset below the first of this tenure, though the commit is past both", []step{deliver(next10), send(0), said(ackUpTo(19))}, ackUpTo(9), "out of range", "next 20"},
		{"a delivery of before this tenure", []step{deliver(next10), send(0)}, ackOf(5, 14, 14), "out of range", "next 10; 10-19 sent 1"},
		{"an offset in a hole", holed, ackOf(0, 9, 5), "out of range", "next 0; 0-9 sent 1"},
		{"an offset in a hole by fields", holed, ackUpTo(6), "out of range", "next 0; 0-9 sent 1"},
		{"an offset in a hole between deliveries", []step{deliver(Run{0, 4}), deliver(Run{7, 9}), send(0), send(1)}, ackUpTo(5), "out of range", "next 0; 0-4 sent 1; 7-9 sent 1"},
		{"an offset in a hole above an open delivery, though settled around", slices.Concat([]step{deliver(Run{0, 1}), deliver(Run{2, 4}, Run{7, 9}), send(0), send(1), said(ackOf(2, 9, 9))}), ackOf(2, 9, 5), "out of range", "next 0; 0-1 sent 1; 10-9 settled 1"},
		{"an offset in a hole below the commit is a repeat", slices.Concat(holed, []step{said(ackOf(0, 9, 8))}), ackOf(0, 9, 5), "repeat, cover 6", "next 9; 9-9 sent 1"},
		{"an offset above the delivery named", two, ackOf(0, 9, 12), "out of range", "next 0; 0-9 sent 1; 10-19 sent 1"},
		{"an offset below the delivery named", two, ackOf(10, 19, 9), "out of range", "next 0; 0-9 sent 1; 10-19 sent 1"},
		{"bounds that begin inside a delivery", sent, ackOf(5, 9, 9), "out of range", "next 0; 0-9 sent 1"},
		{"bounds that end inside a delivery", two, ackOf(0, 14, 5), "out of range", "next 0; 0-9 sent 1; 10-19 sent 1"},
		{"bounds over a delivery never sent", []step{deliver(ten), deliver(next10), send(1)}, ackOf(0, 19, 19), "out of range", "next 0; 0-9 waiting 0; 10-19 sent 1"},
		{"a delivery skipped before it was ever sent", []step{deliver(ten), deliver(next10), deliver(Run{20, 29}), send(0), send(2), settle(1)}, ackUpTo(15), "out of range", "next 0; 0-9 sent 1; 20-19 settled 0; 20-29 sent 1"},

		// Nacks.
		{"a nack of what is under way stands", sent, nackOf(0, 9), "counted, touched 0-9", "next 0; 0-9 nacked 1"},
		{"a nack of a lease stands", leased, nackOf(0, 9), "counted, touched 0-9", "next 0; 0-9 nacked 1"},
		{"a nack after the attempt failed stands", slices.Concat(sent, []step{fail(0)}), nackOf(0, 9), "counted, touched 0-9", "next 0; 0-9 nacked 1"},
		{"a nack again is a repeat", slices.Concat(leased, []step{said(nackOf(0, 9))}), nackOf(0, 9), "repeat, touched 0-9", "next 0; 0-9 nacked 1"},
		{"a nack after the ack conflicts", slices.Concat(leased, []step{said(ackOf(0, 9, 9))}), nackOf(0, 9), "conflict", "next 10"},
		{"a nack after the dead letter conflicts", slices.Concat(sent, []step{settle(0)}), nackOf(0, 9), "conflict", "next 10"},
		{"a nack after a partial ack is about the rest", slices.Concat(leased, []step{said(ackOf(0, 9, 4))}), nackOf(0, 9), "counted, touched 5-9", "next 5; 5-9 nacked 1"},
		{"a nack of what was not sent in this tenure", []step{deliver(ten)}, nackOf(0, 9), "out of range", "next 0; 0-9 waiting 0"},
		{"an ack after the nack conflicts", slices.Concat(leased, []step{said(nackOf(0, 9))}), ackOf(0, 9, 9), "conflict", "next 0; 0-9 nacked 1"},
		{"a partial ack after the nack conflicts", slices.Concat(leased, []step{said(nackOf(0, 9))}), ackOf(0, 9, 4), "conflict", "next 0; 0-9 nacked 1"},
		{"a partial ack from before the nack is a repeat", slices.Concat(leased, []step{said(ackOf(0, 9, 4)), said(nackOf(0, 9))}), ackOf(0, 9, 4), "repeat, cover 5", "next 5; 5-9 nacked 1"},
		{"once the next attempt is sent an ack of any attempt counts", slices.Concat(leased, []step{said(nackOf(0, 9)), send(0)}), ackOf(0, 9, 9), "counted, cover 10, touched 10-9", "next 10"},
		{"an ack over a nacked half moves nothing of the other", slices.Concat(halved, []step{send(0), send(1), said(nackOf(50, 99))}), ackOf(0, 99, 99), "conflict", "next 0; 0-49 sent 2; 50-99 nacked 2"},

		// Extensions.
		{"an extend of a lease is counted", leased, extendOf(0, 9), "counted, touched 0-9", "next 0; 0-9 leased 1"},
		{"an extend before the response of the POST is counted", sent, extendOf(0, 9), "counted, touched 0-9", "next 0; 0-9 sent 1"},
		{"an extend after a partial ack is about the rest", slices.Concat(leased, []step{said(ackOf(0, 9, 4))}), extendOf(0, 9), "counted, touched 5-9", "next 5; 5-9 leased 1"},
		{"an extend after the lease ran out conflicts", slices.Concat(leased, []step{fail(0)}), extendOf(0, 9), "conflict", "next 0; 0-9 waiting 1"},
		{"an extend after the nack conflicts", slices.Concat(leased, []step{said(nackOf(0, 9))}), extendOf(0, 9), "conflict", "next 0; 0-9 nacked 1"},
		{"an extend after the ack conflicts", slices.Concat(leased, []step{said(ackOf(0, 9, 9))}), extendOf(0, 9), "conflict", "next 10"},

		// Rejections.
		{"a reject stands", leased, rejectOf(0, 9), "counted, touched 0-9", "next 0; 0-9 rejected 1"},
		{"a reject again is a repeat", slices.Concat(leased, []step{said(rejectOf(0, 9))}), rejectOf(0, 9), "repeat, touched 0-9", "next 0; 0-9 rejected 1"},
		{"a reject after the nack conflicts", slices.Concat(leased, []step{said(nackOf(0, 9))}), rejectOf(0, 9), "conflict", "next 0; 0-9 nacked 1"},
		{"a nack after the reject conflicts", slices.Concat(leased, []step{said(rejectOf(0, 9))}), nackOf(0, 9), "conflict", "next 0; 0-9 rejected 1"},
		{"an ack after the reject conflicts", slices.Concat(leased, []step{said(rejectOf(0, 9))}), ackOf(0, 9, 9), "conflict", "next 0; 0-9 rejected 1"},
		{"a reject after the ack conflicts", slices.Concat(leased, []step{said(ackOf(0, 9, 9))}), rejectOf(0, 9), "conflict", "next 10"},
		{"once the next attempt is sent an ack of what was rejected counts", slices.Concat(leased, []step{said(rejectOf(0, 9)), send(0)}), ackOf(0, 9, 9), "counted, cover 10, touched 10-9", "next 10"},

		// All but some records.
		{"what is not listed is acked", leased, partialOf(0, 9, Failure{3, Retry}), "counted, cover 10, blocked by 3, touched 3-2, retry 3-3", "next 3; 3-3 nacked 1; 10-9 settled 1"},
		{"what is to be dead-lettered stays open, what is skipped does not", leased, partialOf(0, 9, Failure{0, Skip}, Failure{3, DeadLetter}, Failure{4, DeadLetter}), "counted, cover 10, blocked by 3, touched 1-0, skip 1-0, dead_letter 3-4", "next 3; 3-4 rejected 1; 10-9 settled 1"},
		{"nothing is left if all failures are skipped", leased, partialOf(0, 9, Failure{9, Skip}), "counted, cover 10, touched 9-8, skip 10-9", "next 10"},
		{"one that lists nothing acks all", leased, partialOf(0, 9), "counted, cover 10, touched 10-9", "next 10"},
		{"records across a hole are one piece", holed, partialOf(0, 9, Failure{4, Retry}, Failure{7, Retry}), "counted, cover 10, blocked by 4, touched 4-3, retry 4-7", "next 4; 4-7 nacked 1; 10-9 settled 1"},
		{"the same again is a repeat", slices.Concat(leased, []step{said(partialOf(0, 9, Failure{3, Retry}, Failure{5, DeadLetter}, Failure{7, Skip}))}), partialOf(0, 9, Failure{3, Retry}, Failure{5, DeadLetter}, Failure{7, Skip}), "repeat, cover 10, blocked by 3, touched 3-3, touched 5-5", "next 3; 3-3 nacked 1; 5-4 settled 1; 5-5 rejected 1; 7-6 settled 1; 8-7 settled 1; 10-9 settled 1"},
		{"another one conflicts", slices.Concat(leased, []step{said(partialOf(0, 9, Failure{3, Retry}))}), partialOf(0, 9, Failure{3, Skip}), "conflict", "next 3; 3-3 nacked 1; 10-9 settled 1"},
		{"an ack of the whole after it conflicts", slices.Concat(leased, []step{said(partialOf(0, 9, Failure{3, Retry}))}), ackOf(0, 9, 9), "conflict", "next 3; 3-3 nacked 1; 10-9 settled 1"},
		{"it conflicts with a nack that acks nothing", slices.Concat(leased, []step{said(nackOf(0, 9))}), partialOf(0, 9, Failure{3, Retry}), "conflict", "next 0; 0-9 nacked 1"},
		{"to retry what was acked conflicts", slices.Concat(leased, []step{said(ackOf(0, 9, 4))}), partialOf(0, 9, Failure{3, Retry}), "conflict", "next 5; 5-9 leased 1"},
		{"an offset in a hole is out of range", holed, partialOf(0, 9, Failure{5, Retry}), "out of range", "next 0; 0-9 sent 1"},
		{"an offset outside of the delivery is out of range", two, partialOf(0, 9, Failure{10, Retry}), "out of range", "next 0; 0-9 sent 1; 10-19 sent 1"},
		{"an offset listed twice is out of range", leased, partialOf(0, 9, Failure{3, Retry}, Failure{3, Skip}), "out of range", "next 0; 0-9 leased 1"},

		{"an unknown outcome is refused", leased, Statement{Partial + 1, 0, 9, 9, nil}, "applying a statement: outcome(5) is not an outcome", "next 0; 0-9 leased 1"},
	} {
		t.Run(test.claim, func(t *testing.T) {
			b := play(t, test.given)
			if got := describe(b.Apply(test.say)); got != test.want {
				t.Errorf("%+v: got %q, want %q", test.say, got, test.want)
			}
			if got := b.String(); got != test.books {
				t.Errorf("books: got %q, want %q", got, test.books)
			}
		})
	}
}

// The receiver's word may overtake the response of its own request: what the
// lane then makes of the response must change nothing.
func TestVerdictAfterTheReceiversWordIsMoot(t *testing.T) {
	for _, test := range []struct {
		claim string
		word  Statement
		want  string
	}{
		{"after an ack", ackOf(0, 9, 9), "next 10"},
		{"after a nack", nackOf(0, 9), "next 0; 0-9 nacked 1"},
	} {
		t.Run(test.claim, func(t *testing.T) {
			b := play(t, []step{deliver(Run{0, 9}), send(0), said(test.word)})
			d := b.deliveries[0]
			if b.Fail(d) || b.Lease(d) {
				t.Errorf("a verdict moved the delivery to %v", d.State())
			}
			if got := b.String(); got != test.want {
				t.Errorf("books: got %q, want %q", got, test.want)
			}
		})
	}
}

func TestDeliver(t *testing.T) {
	known := []step{deliver(Run{10, 19}), advance(25)}
	for _, test := range []struct {
		claim string
		runs  []Run
		ok    bool
	}{
		{"at the position", []Run{{25, 29}}, true},
		{"with holes", []Run{{25, 25}, {27, 27}, {30, 40}}, true},
		{"up to the highest offset that has a next one", []Run{{25, math.MaxInt64 - 1}}, true},
		{"no records", nil, false},
		{"below what was entered", []Run{{5, 9}}, false},
		{"over what was entered", []Run{{19, 29}}, false},
		{"below the position", []Run{{20, 29}}, false},
		{"a run that ends before it begins", []Run{{30, 29}}, false},
		{"runs that touch", []Run{{25, 26}, {27, 28}}, false},
		{"runs that overlap", []Run{{25, 27}, {27, 28}}, false},
		{"runs that descend", []Run{{30, 31}, {25, 26}}, false},
		{"the highest offset there is", []Run{{25, math.MaxInt64}}, false},
	} {
		t.Run(test.claim, func(t *testing.T) {
			b := play(t, known)
			d, err := b.Deliver(test.runs)
			if (err == nil) != test.ok || (d != nil) != test.ok {
				t.Errorf("deliver %v: got %v, %v; want accepted %v", test.runs, d, err, test.ok)
			}
			if want := "next 10; 10-19 waiting 0"; !test.ok && b.String() != want {
				t.Errorf("books after a refusal: got %q, want %q", b, want)
			}
		})
	}
	if _, err := NewLedger().Deliver([]Run{{-1, 3}}); err == nil {
		t.Error("a negative offset was entered")
	}
}

func TestNext(t *testing.T) {
	for _, test := range []struct {
		claim string
		given []step
		want  int64
	}{
		{"unknown at first", nil, -1},
		{"the position when nothing was entered", []step{advance(7)}, 7},
		{"the lowest open record", []step{deliver(Run{3, 9}), advance(10)}, 3},
		{"one past the last entered", []step{deliver(Run{3, 9}), settle(0)}, 10},
		{"the position past a marker", []step{deliver(Run{3, 9}), settle(0), advance(12)}, 12},
		{"the position told while records were open", []step{deliver(Run{3, 9}), advance(12), settle(0)}, 12},
		{"a position does not move back", []step{advance(12), advance(7)}, 12},
		{"a position inside what is settled adds nothing", []step{deliver(Run{3, 9}), settle(0), advance(5)}, 10},
		{"unknown at first, whatever an earlier tenure settled", []step{resume(Run{5, 9})}, -1},
		{"past what an earlier tenure settled", []step{resume(Run{5, 9}), deliver(Run{0, 4}), settle(0)}, 10},
		{"past what an earlier tenure settled, where the position is", []step{resume(Run{5, 9}, Run{11, 12}), deliver(Run{0, 3}), settle(0), advance(5)}, 10},
		{"not past what was not read", []step{resume(Run{5, 9}), deliver(Run{0, 3}), settle(0)}, 4},
		{"a hole at the head holds the line", []step{deliver(Run{0, 4}), deliver(Run{5, 9}), settle(1), advance(10)}, 0},
	} {
		t.Run(test.claim, func(t *testing.T) {
			if got := play(t, test.given).Next(); got != test.want {
				t.Errorf("next: got %d, want %d", got, test.want)
			}
		})
	}
}

func TestAcked(t *testing.T) {
	window := []step{
		deliver(Run{0, 9}), deliver(Run{10, 14}, Run{17, 19}), deliver(Run{20, 29}), deliver(Run{30, 39}),
		send(0), send(1), send(2), send(3),
	}
	for _, test := range []struct {
		claim string
		given []step
		want  []Run
	}{
		{"nothing is entered", nil, nil},
		{"nothing is settled", window, nil},
		{"what is settled below Next is not told", slices.Concat(window, []step{said(ackOf(0, 9, 4))}), nil},
		{"a run goes on over the holes of a delivery", slices.Concat(window, []step{said(ackOf(10, 19, 19))}), []Run{{10, 19}}},
		{"runs that touch are joined", slices.Concat(window, []step{settle(2), settle(1)}), []Run{{10, 29}}},
		{"runs with nothing but a hole between them are joined", []step{deliver(Run{0, 4}), deliver(Run{7, 9}), deliver(Run{12, 14}), settle(1), settle(2)}, []Run{{7, 14}}},
		{"the head of a delivery that is open", slices.Concat(window, []step{said(ackOf(10, 19, 17)), said(ackOf(30, 39, 30))}), []Run{{10, 17}, {30, 30}}},
		{"what an earlier tenure settled", slices.Concat([]step{resume(Run{41, 49}, Run{60, 69})}, window), []Run{{41, 49}, {60, 69}}},
		{"what an earlier tenure settled, joined over a hole that was read", slices.Concat([]step{resume(Run{42, 49})}, window, []step{settle(3), advance(42)}), []Run{{30, 49}}},
		{"what an earlier tenure settled, not joined over what was not read", slices.Concat([]step{resume(Run{42, 49})}, window, []step{settle(3)}), []Run{{30, 39}, {42, 49}}},
	} {
		t.Run(test.claim, func(t *testing.T) {
			there := Run{0, 9} // touches what comes, but is not the ledger's
			want := append([]Run{there}, test.want...)
			if got := play(t, test.given).Acked([]Run{there}); !slices.Equal(got, want) {
				t.Errorf("acked: got %v, want %v", got, want)
			}
		})
	}
}

func TestAttemptsAreCountedOnAfterSplitAndPartialAck(t *testing.T) {
	b := play(t, []step{deliver(Run{0, 9})})
	d := b.deliveries[0]
	b.Resume(d, 2, morning)
	if got := b.Send(d, morning.Add(time.Hour)); got != 3 {
		t.Errorf("attempt after two of an earlier tenure: got %d, want 3", got)
	}
	if got := b.Send(d, morning.Add(time.Hour)); got != 0 {
		t.Errorf("send while one is under way: got attempt %d, want 0", got)
	}
	said(ackOf(0, 9, 1))(b)
	tail := b.Split(d, 3) // a 413: the attempt is over
	for _, half := range []*Delivery{d, tail} {
		if half.State() != Waiting || half.Attempts() != 3 || !half.FirstAttempt().Equal(morning) {
			t.Errorf("half %d-%d: got %v, %d attempts since %v; want waiting, 3, %v",
				half.First(), half.Last(), half.State(), half.Attempts(), half.FirstAttempt(), morning)
		}
	}
	if d.First() != 2 || d.Last() != 4 || d.Records() != 3 || tail.First() != 5 || tail.Last() != 9 || tail.Records() != 5 {
		t.Errorf("split: got %d-%d and %d-%d, want 2-4 and 5-9", d.First(), d.Last(), tail.First(), tail.Last())
	}
}

func TestFirstAttemptIsThatOfTheFirstSend(t *testing.T) {
	b := play(t, []step{deliver(Run{0, 9})})
	d := b.deliveries[0]
	if !d.FirstAttempt().IsZero() {
		t.Errorf("before the first attempt: got %v, want zero", d.FirstAttempt())
	}
	b.Send(d, morning)
	b.Fail(d)
	b.Send(d, morning.Add(time.Hour))
	if !d.FirstAttempt().Equal(morning) {
		t.Errorf("after the second: got %v, want %v", d.FirstAttempt(), morning)
	}
	said(ackOf(0, 9, 9))(b)
	deliver(Run{10, 19})(b)
	d = b.deliveries[1]
	b.Resume(d, 2, time.Time{})
	b.Send(d, morning)
	if !d.FirstAttempt().Equal(morning) {
		t.Errorf("after attempts of which the first is not known: got %v, want %v", d.FirstAttempt(), morning)
	}
}

func TestSplitRefused(t *testing.T) {
	b := play(t, []step{deliver(Run{0, 4}, Run{7, 9}), deliver(Run{10, 19}), settle(1)})
	other := play(t, []step{deliver(Run{0, 4}, Run{7, 9})})
	for _, test := range []struct {
		claim string
		d     *Delivery
		n     int
	}{
		{"after none", b.deliveries[0], 0},
		{"after a negative number", b.deliveries[0], -1},
		{"after all", b.deliveries[0], 8},
		{"a settled delivery", b.deliveries[1], 1},
		{"a delivery of another tenure", other.deliveries[0], 1},
	} {
		t.Run(test.claim, func(t *testing.T) {
			if tail := b.Split(test.d, test.n); tail != nil {
				t.Errorf("got a tail %d-%d, want none", tail.First(), tail.Last())
			}
			if got, want := b.String(), "next 0; 0-9 waiting 0; 20-19 settled 0"; got != want {
				t.Errorf("books: got %q, want %q", got, want)
			}
		})
	}
}

func TestSplitKeepsANackStanding(t *testing.T) {
	b := play(t, []step{deliver(Run{0, 9}), send(0), said(nackOf(0, 9)), split(0, 5)})
	if got, want := b.String(), "next 0; 0-4 nacked 1; 5-9 nacked 1"; got != want {
		t.Errorf("books: got %q, want %q", got, want)
	}
}

func TestLedgerStaysSmallOverALongTenure(t *testing.T) {
	l := NewLedger()
	first := int64(0)
	for range 10_000 {
		oneDelivery(t, l, &first)
	}
	if got := cap(l.deliveries); got > 8 {
		t.Errorf("room for deliveries after 10,000 of them, one at a time: got %d, want a few", got)
	}
	d, err := l.Deliver([]Run{{first, first}})
	if err != nil || l.Full() {
		t.Errorf("books with %v alone open (%v): got full, want room", d, err)
	}
}

const benchRecords = 10_000

func oneDelivery(t testing.TB, l *Ledger, first *int64) {
	last := *first + benchRecords - 1
	d, err := l.Deliver([]Run{{*first, last}})
	if err != nil {
		t.Fatal(err)
	}
	l.Send(d, morning)
	if _, err := l.Apply(Statement{Ack, *first, last, last, nil}); err != nil {
		t.Fatal(err)
	}
	l.Advance(last + 1)
	if got := l.Next(); got != last+1 {
		t.Fatalf("next: got %d, want %d", got, last+1)
	}
	*first = last + 1
}

func BenchmarkDelivery(b *testing.B) {
	b.ReportAllocs()
	l := NewLedger()
	first := int64(0)
	for b.Loop() {
		oneDelivery(b, l, &first)
	}
}

// BenchmarkOutOfOrder settles a full window from behind, the worst order.
func BenchmarkOutOfOrder(b *testing.B) {
	const window = 1000
	b.ReportAllocs()
	l := NewLedger()
	first := int64(0)
	for b.Loop() {
		for i := range int64(window) {
			d, _ := l.Deliver([]Run{{first + i*10, first + i*10 + 9}})
			l.Send(d, morning)
		}
		for i := int64(window) - 1; i >= 0; i-- {
			at := first + i*10
			if _, err := l.Apply(Statement{Ack, at, at + 9, at + 9, nil}); err != nil {
				b.Fatal(err)
			}
		}
		first += window * 10
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/window, "ns/delivery")
}
