package acker

import (
	"errors"
	"math/rand/v2"
	"testing"
)

// An exact copy of a statement, a thousand times over: it gets its definite
// answer each time and moves nothing, whatever it said.
func TestA3_AReplayedStatementMovesNothing(t *testing.T) {
	// 0-9 is leased, 10-19 waits for its next attempt, 20-29 is under way.
	given := []step{
		deliver(Run{0, 9}), deliver(Run{10, 19}), deliver(Run{20, 29}),
		send(0), lease(0), send(1), fail(1), send(2),
	}
	for _, test := range []struct {
		claim string
		say   Statement
		again string // the answer to every copy
	}{
		{"an ack of a whole delivery", ackOf(0, 9, 9), "repeat, cover 10"},
		{"an ack above a hole", ackOf(20, 29, 29), "repeat, cover 30, blocked by 0"},
		{"an ack of a head", ackOf(10, 19, 14), "repeat, cover 15, blocked by 0"},
		{"an ack by fields", ackUpTo(24), "repeat, cover 25"},
		{"a nack", nackOf(0, 9), "repeat, touched 0-9"},
		{"an extend", extendOf(0, 9), "counted, touched 0-9"},
		{"a refusal", ackOf(0, 19, 40), "out of range"},
	} {
		t.Run(test.claim, func(t *testing.T) {
			b := play(t, given)
			_, _ = b.Apply(test.say)
			want := b.String()
			for n := range 1000 {
				if got := describe(b.Apply(test.say)); got != test.again {
					t.Fatalf("copy %d: got %q, want %q", n+1, got, test.again)
				}
			}
			if got := b.String(); got != want {
				t.Errorf("books after the copies: got %q, want %q", got, want)
			}
		})
	}
}

// A generation and a tenure are told apart by the owner; what a ledger has to
// see to is that nothing of an earlier tenure's books is left in a new one.
func TestA4_AStatementOfAnEarlierTenureFindsNothing(t *testing.T) {
	before := play(t, []step{deliver(Run{0, 9}), deliver(Run{10, 19}), send(0), send(1), said(ackOf(0, 9, 9))})
	after := play(t, []step{deliver(Run{before.Next(), 19})}) // assigned again at what was committed
	for _, s := range []Statement{ackOf(0, 9, 9), ackOf(10, 19, 19), nackOf(10, 19), extendOf(10, 19), ackUpTo(9), ackUpTo(19)} {
		if got := describe(after.Apply(s)); got != "out of range" {
			t.Errorf("%+v before anything was sent in this tenure: got %q, want out of range", s, got)
		}
	}
	if got, want := after.String(), "next 10; 10-19 waiting 0"; got != want {
		t.Errorf("books: got %q, want %q", got, want)
	}
}

func TestA5_AnOffsetThatWasNotDeliveredIsRefused(t *testing.T) {
	given := []step{ // 0-4 and 7-9 in one delivery, 12-15 in the next, 20-29 entered and not sent
		deliver(Run{0, 4}, Run{7, 9}), deliver(Run{12, 15}), deliver(Run{20, 29}),
		send(0), lease(0), send(1), lease(1), advance(40),
	}
	books := play(t, given).String()
	for claim, offsets := range map[string][]int64{
		"never delivered":                 {-1, 20, 25, 29},
		"beyond what was delivered":       {16, 19, 30, 39, 40, 1 << 40},
		"in a gap inside of a delivery":   {5, 6},
		"in a gap between two deliveries": {10, 11},
	} {
		t.Run(claim, func(t *testing.T) {
			for _, offset := range offsets {
				for _, s := range []Statement{
					ackUpTo(offset), ackOf(0, 9, offset), ackOf(12, 15, offset), ackOf(0, offset, offset), nackOf(0, offset), extendOf(0, offset),
				} {
					b := play(t, given)
					if _, err := b.Apply(s); !errors.Is(err, ErrOutOfRange) {
						t.Errorf("%+v: got %v, want %v", s, err, ErrOutOfRange)
					}
					if got := b.String(); got != books {
						t.Errorf("%+v: books: got %q, want %q", s, got, books)
					}
				}
			}
		})
	}
}

// Acks come in any order, whole or in parts: what may be committed is always the
// lowest record that nobody has acked, found here by looking at every record.
func TestA6_AcksInAnyOrderCommitUpToTheLowestOpenRecord(t *testing.T) {
	const deliveries, size = 40, 5
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(6, seed))
		l := NewLedger()
		acked := make([]bool, deliveries*size)
		var left []Statement
		for n := range int64(deliveries) {
			first, last := n*size, n*size+size-1
			d, err := l.Deliver([]Run{{first, last}})
			if err != nil {
				t.Fatal(err)
			}
			l.Send(d, morning)
			left = append(left, ackOf(first, last, first+random.Int64N(size)), ackOf(first, last, last))
		}
		random.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
		for _, s := range left {
			answer, err := l.Apply(s)
			if err != nil {
				t.Fatalf("seed %d: %+v: %v", seed, s, err)
			}
			for o := s.First; o <= s.UpTo; o++ {
				acked[o] = true
			}
			lowest := int64(0)
			for lowest < int64(len(acked)) && acked[lowest] {
				lowest++
			}
			if got := l.Next(); got != lowest {
				t.Fatalf("seed %d: after %+v: got %d to commit, want %d", seed, s, got, lowest)
			}
			if blocked := lowest <= s.UpTo; blocked != (answer.BlockedBy == lowest) || !blocked && answer.BlockedBy != -1 {
				t.Fatalf("seed %d: %+v: got blocked by %d, want %d if that is not above it", seed, s, answer.BlockedBy, lowest)
			}
		}
		if got := l.Len(); got != 0 {
			t.Errorf("seed %d: %d deliveries kept after all were acked, want none", seed, got)
		}
	}
}

func TestA7_AnAckBeforeTheResponseCountsOnce(t *testing.T) {
	b := play(t, []step{deliver(Run{0, 9}), deliver(Run{10, 19}), send(0), send(1), said(ackOf(0, 9, 9))})
	d := b.deliveries[0]
	if b.Lease(d) || b.Fail(d) || b.Send(d, morning) != 0 {
		t.Errorf("the response moved the delivery to %v", d.State())
	}
	if got := describe(b.Apply(ackOf(0, 9, 9))); got != "repeat, cover 10" {
		t.Errorf("the response said as an ack: got %q, want a repeat", got)
	}
	if got, want := b.String(), "next 10; 10-19 sent 1"; got != want {
		t.Errorf("books: got %q, want %q", got, want)
	}
}

func TestA8_AnAckOfTheFirstAttemptCountsAfterTheSecondWasSent(t *testing.T) {
	b := play(t, []step{deliver(Run{0, 9}), send(0), lease(0), fail(0), send(0)})
	d := b.deliveries[0]
	if got := d.Attempts(); got != 2 {
		t.Fatalf("%d attempts, want 2", got)
	}
	if got := describe(b.Apply(ackOf(0, 9, 9))); got != "counted, cover 10, touched 10-9" {
		t.Errorf("the ack: got %q, want it counted", got)
	}
	if b.Fail(d) || b.Lease(d) || b.Send(d, morning) != 0 {
		t.Errorf("what became of the second attempt moved the delivery to %v", d.State())
	}
	if got, want := b.String(), "next 10"; got != want {
		t.Errorf("books: got %q, want %q", got, want)
	}
}

// The rule about a lease that has run out: as long as the next attempt was not
// sent, an ack or a nack still counts; only a longer lease is not to be had.
func TestA9_AfterTheDeadlineAnAckCountsAndAnExtendDoesNot(t *testing.T) {
	late := []step{deliver(Run{0, 9}), send(0), lease(0), fail(0)}
	for _, test := range []struct {
		say         Statement
		want, books string
	}{
		{ackOf(0, 9, 9), "counted, cover 10, touched 10-9", "next 10"},
		{ackOf(0, 9, 4), "counted, cover 5, touched 5-9", "next 5; 5-9 waiting 1"},
		{nackOf(0, 9), "counted, touched 0-9", "next 0; 0-9 nacked 1"},
		{extendOf(0, 9), "conflict", "next 0; 0-9 waiting 1"},
	} {
		b := play(t, late)
		if got := describe(b.Apply(test.say)); got != test.want {
			t.Errorf("%v after the deadline: got %q, want %q", test.say.Outcome, got, test.want)
		}
		if got := b.String(); got != test.books {
			t.Errorf("%v after the deadline: books: got %q, want %q", test.say.Outcome, got, test.books)
		}
	}
}
