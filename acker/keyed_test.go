package acker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestKeyedMetadataAlwaysFits lives as unkindly as it can with what there is room for:
// deliveries made of every other record that waits, acked from their fronts in any
// order, cut in half, with far offsets and a stuck head, over several tenures. Neither
// may a commit's metadata grow too large, nor may nothing be allowed any more.
func TestKeyedMetadataAlwaysFits(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 7))
			k, read := NewKeyedLedger(), int64(1)<<62
			longest, fulls, heads := 0, 0, 0
			var waiting []int64
			for step := range 8_000 {
				for len(waiting) < 3_000 && k.Len() < 100_000 {
					wanted, err := k.Enter(read)
					if err != nil {
						t.Fatal(err)
					}
					if wanted {
						waiting = append(waiting, read)
					}
					read += 1 + int64(random.IntN(3)*random.IntN(3)*random.IntN(1+int(seed)*100))
				}
				room := k.Room()
				if room == 0 {
					fulls++
				}
				switch {
				case room > 0 && random.IntN(3) > 0:
					var runs []Run
					rest := waiting[:0]
					for i, o := range waiting {
						if i%2 == 0 && len(runs) < min(room, 100) && (i > 0 || random.IntN(50) == 0) {
							runs = append(runs, Run{o, o})
							continue
						}
						rest = append(rest, o)
					}
					waiting = rest
					for i := len(runs) - 1; i > 0; i-- { // touching ones are one run
						if runs[i-1].Last+1 == runs[i].First {
							runs[i-1].Last = runs[i].Last
							runs = slices.Delete(runs, i, i+1)
						}
					}
					if len(runs) > 0 {
						d, err := k.Deliver(runs)
						if err != nil {
							t.Fatal(err)
						}
						k.Send(d, morning)
					}
				case room == 0 && len(waiting) > 0 && waiting[0] == k.Next() && random.IntN(4) == 0:
					d, err := k.Deliver([]Run{{waiting[0], waiting[0]}})
					if err != nil {
						t.Fatal(err)
					}
					waiting = waiting[1:]
					k.Send(d, morning)
					heads++
				case len(k.open) > 0:
					d := k.open[random.IntN(len(k.open))]
					if n := d.Records(); n > 1 && random.IntN(3) == 0 && !k.Full() {
						if tail := k.Split(d, n/2); tail != nil {
							k.Send(tail, morning)
						}
						k.Send(d, morning)
					}
					if random.IntN(2) == 0 {
						open := d.Open(nil)
						if _, err := k.Apply(ackOf(d.First(), d.Last(), open[random.IntN(len(open))].First)); err != nil {
							t.Fatal(err)
						}
					}
				}
				text, err := Metadata{Attempts: 1 << 60, FirstAttempt: morning, Acked: k.Acked(nil)}.Append(nil)
				if err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
				longest = max(longest, len(text))
				if random.IntN(2_000) == 0 { // another tenure
					acked := k.Acked(nil)
					read, waiting = k.Next(), nil
					k = NewKeyedLedger()
					k.ResumeAcked(acked)
				}
			}
			t.Logf("longest %d bytes, full %d times, %d heads went alone", longest, fulls, heads)
			if fulls == 0 || heads == 0 {
				t.Error("there was always room: the test does not test")
			}
		})
	}
}

// TestKeyedMetadataAtItsWorst takes all the room there is for deliveries between whose
// records others wait, and acks them all.
func TestKeyedMetadataAtItsWorst(t *testing.T) {
	for _, far := range []int64{0, 300, 20_000} { // offsets between two records now and then
		k, read := NewKeyedLedger(), int64(1)<<62
		var waiting []int64
		for i := range 9_000 {
			if i%100 == 99 {
				read += far
			}
			if _, err := k.Enter(read); err != nil {
				t.Fatal(err)
			}
			if i%2 == 1 {
				waiting = append(waiting, read)
			}
			read++
		}
		for room := k.Room(); room > 0; room = k.Room() {
			var runs []Run
			for _, o := range waiting[:min(room, 50)] {
				runs = append(runs, Run{o, o})
			}
			waiting = waiting[len(runs):]
			d, err := k.Deliver(runs)
			if err != nil {
				t.Fatal(err)
			}
			k.Send(d, morning)
		}
		if _, err := k.Apply(ackUpTo(k.LastSent())); err != nil {
			t.Fatal(err)
		}
		acked := k.Acked(nil)
		text, err := Metadata{Attempts: 1 << 60, FirstAttempt: morning, Acked: acked}.Append(nil)
		if err != nil || len(text) < 1_900 {
			t.Errorf("every 100th %d further: %d bytes for %d runs, %v; want nearly what fits", far, len(text), len(acked), err)
		}
		t.Logf("every 100th %d further: %d bytes for %d runs", far, len(text), len(acked))
	}
}

func TestKeyedStatements(t *testing.T) {
	k := NewKeyedLedger()
	for o := range int64(10) {
		if _, err := k.Enter(o); err != nil {
			t.Fatal(err)
		}
	}
	at := func(offsets ...int64) (runs []Run) {
		for _, o := range offsets {
			runs = append(runs, Run{o, o})
		}
		return runs
	}
	enter := func(offsets ...int64) *Delivery {
		d, err := k.Deliver(at(offsets...))
		if err != nil {
			t.Fatal(err)
		}
		k.Send(d, morning)
		return d
	}
	enter(0, 4, 8)
	enter(1, 5, 9)
	var story []string
	for _, s := range []Statement{
		ackOf(1, 9, 9), // the second delivery, while the first is open
		ackOf(0, 9, 9), // bounds of two deliveries
		ackOf(1, 8, 8), // and of two others
		ackOf(0, 8, 3), // an offset of none
		ackOf(0, 8, 5), // and of another
		ackOf(0, 8, 4), // the head of the first: 2 waits and holds the commit
		ackUpTo(8),     // by fields: what was delivered, not what waits
		ackOf(0, 8, 8), // said again, with the bounds of the first attempt
		ackUpTo(7),     // never delivered
		nackOf(1, 9),   // settled long ago
		ackUpTo(1),     // below the commit
	} {
		story = append(story, describe(k.Apply(s)))
	}
	want := []string{
		"counted, cover 10, blocked by 0, touched 10-9",
		"out of range",
		"out of range",
		"out of range",
		"out of range",
		"counted, cover 5, blocked by 2, touched 8-8",
		"counted, cover 9, blocked by 2, touched 9-8",
		"repeat, cover 9, blocked by 2",
		"out of range",
		"conflict",
		"repeat, cover 2",
	}
	if !slices.Equal(story, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(story, "\n"), strings.Join(want, "\n"))
	}
	if got, want := k.Acked(nil), []Run{{4, 5}, {8, 9}}; !slices.Equal(got, want) {
		t.Errorf("acked %v, want %v", got, want)
	}
}

// What a partial ack has cut off is still of the delivery that was sent: the bounds of
// the first attempt mean it, though other records lie between. Once the model of the
// schedules had forgotten that, and took them for out of range.
func TestKeyedBoundsOfADeliveryThatAPartialAckHasCut(t *testing.T) {
	k := NewKeyedLedger()
	for o := range int64(5) {
		if _, err := k.Enter(o); err != nil {
			t.Fatal(err)
		}
	}
	d, err := k.Deliver([]Run{{1, 1}, {3, 4}}) // 0 and 2 wait
	if err != nil {
		t.Fatal(err)
	}
	k.Send(d, morning)
	partial := partialOf(1, 4, Failure{4, Retry})
	answer, err := k.Apply(partial)
	story := []string{describe(answer, err)}
	if len(answer.Pieces) != 1 {
		t.Fatalf("pieces %+v, want one", answer.Pieces)
	}
	say := func(statements ...Statement) {
		for _, s := range statements {
			story = append(story, describe(k.Apply(s)))
		}
	}
	say(partial, ackOf(1, 4, 4), ackOf(1, 4, 3)) // 4 is nacked, 3 is acked
	k.Send(answer.Pieces[0].Delivery, morning)
	say(partialOf(1, 4, Failure{3, Retry}), ackOf(1, 4, 4), ackOf(4, 4, 4))
	want := []string{
		"counted, cover 5, blocked by 0, touched 4-3, retry 4-4",
		"repeat, cover 5, blocked by 0, touched 4-4",
		"conflict",
		"repeat, cover 4, blocked by 0",
		"conflict", // 3 was acked
		"counted, cover 5, blocked by 0, touched 5-4",
		"repeat, cover 5, blocked by 0",
	}
	if !slices.Equal(story, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(story, "\n"), strings.Join(want, "\n"))
	}
}
