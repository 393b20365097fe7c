package acker

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestWanted(t *testing.T) {
	const end = math.MaxInt64 - 1
	for _, test := range []struct {
		claim  string
		given  []step
		offset int64
		want   Run
	}{
		{"everything, when nothing was settled before", nil, 7, Run{7, end}},
		{"up to the next run settled before", []step{resume(Run{10, 19})}, 7, Run{7, 9}},
		{"from behind a run settled before", []step{resume(Run{10, 19})}, 10, Run{20, end}},
		{"between two runs", []step{resume(Run{10, 19}, Run{25, 29})}, 12, Run{20, 24}},
		{"not what the books have passed already", []step{resume(Run{10, 19}), advance(10)}, 10, Run{20, end}},
		{"not what the books have passed already, and another run", []step{resume(Run{10, 19}, Run{25, 29}), advance(10)}, 15, Run{20, 24}},
		{"what was entered too, for Deliver to refuse", []step{resume(Run{10, 19}), deliver(Run{0, 4})}, 3, Run{3, 9}},
		{"what lies below everything too, for Deliver to refuse", []step{resume(Run{10, 19}), advance(10)}, 3, Run{3, end}},
	} {
		t.Run(test.claim, func(t *testing.T) {
			if got := play(t, test.given).Wanted(test.offset); got != test.want {
				t.Errorf("wanted from %d: got %v, want %v", test.offset, got, test.want)
			}
		})
	}
}

func TestDeliveriesKeepClearOfWhatWasSettledBefore(t *testing.T) {
	for _, test := range []struct {
		claim string
		runs  []Run
		ok    bool
	}{
		{"before it", []Run{{5, 9}}, true},
		{"behind it", []Run{{20, 29}}, true},
		{"in it", []Run{{12, 14}}, false},
		{"into it", []Run{{5, 10}}, false},
		{"out of it", []Run{{19, 29}}, false},
		{"over it, with a hole", []Run{{5, 9}, {20, 29}}, false},
	} {
		t.Run(test.claim, func(t *testing.T) {
			b := play(t, []step{resume(Run{10, 19})})
			if _, err := b.Deliver(test.runs); (err == nil) != test.ok {
				t.Errorf("deliver %v: got error %v, want accepted %v", test.runs, err, test.ok)
			}
		})
	}
}

func TestBooksTakeHundredsOfDeliveries(t *testing.T) {
	for _, test := range []struct {
		claim               string
		records, hole, want int64
	}{
		{"of single records", 1, 0, 1000},
		{"of 100 records", 100, 0, 1000},
		{"of 10,000 records", 10_000, 0, 600},
		{"of single records in a log that is full of holes", 1, 100_000, 450},
	} {
		t.Run(test.claim, func(t *testing.T) {
			l, n, at := NewLedger(), int64(0), int64(0)
			for ; n < 1000 && !l.Full(); n++ {
				if _, err := l.Deliver([]Run{{at, at + test.records - 1}}); err != nil {
					t.Fatal(err)
				}
				at += test.records + test.hole
			}
			if n < test.want {
				t.Errorf("full with %d deliveries, want room for %d", n, test.want)
			}
		})
	}
}

// pressure is a ledger that is filled as far as Full allows, over several
// tenures, by somebody who acks so that the metadata becomes as long as it can.
type pressure struct {
	*rand.Rand
	ledger *Ledger
	open   []*Delivery
	read   int64
	holes  int // a bound of those between two records
	batch  int // a bound of the records of a delivery
	full   int // how often the ledger was
	worst  int // bytes that the runs may have, as it was said before the last delivery or cut
}

func (p *pressure) deliver() error {
	if p.ledger.Full() {
		p.full++
		return nil
	}
	var runs []Run
	at, wanted := p.read, Run{}
	for i, want := 0, 1+p.IntN(p.batch); i < want; i++ {
		if p.holes > 0 {
			at += p.Int64N(int64(p.holes))
		}
		if len(runs) == 0 {
			wanted = p.ledger.Wanted(at)
			at = wanted.First
		}
		if at > wanted.Last {
			break
		}
		if n := len(runs); n > 0 && runs[n-1].Last+1 == at {
			runs[n-1].Last = at
		} else {
			runs = append(runs, Run{at, at})
		}
		at++
	}
	p.read = runs[len(runs)-1].Last + 1
	p.worst = p.ledger.worst()
	d, err := p.ledger.Deliver(runs)
	p.open = append(p.open, d)
	return err
}

// ack settles all or the front of a delivery that is not the head, or once in a
// while of the head.
func (p *pressure) ack() error {
	d := p.open[p.IntN(len(p.open))]
	if d == p.ledger.Head() && p.IntN(20) > 0 {
		return nil
	}
	return p.settle(d, p.IntN(2) == 0)
}

// settle acks all of d, or as little as leaves a rest.
func (p *pressure) settle(d *Delivery, rest bool) error {
	upTo := d.Last()
	if rest {
		upTo = d.First()
	}
	p.ledger.Send(d, morning)
	_, err := p.ledger.Apply(Statement{Ack, d.First(), d.Last(), upTo, nil})
	p.open = slices.DeleteFunc(p.open, func(d *Delivery) bool { return d.State() == Settled })
	return err
}

// scatter acks so that as many runs as possible come about: something of each
// delivery that is not the head and has a rest then, and of the others every second.
func (p *pressure) scatter() error {
	for i, d := range slices.Clone(p.open) {
		if d == p.ledger.Head() || d.Records() == 1 && i%2 == 0 {
			continue
		}
		if err := p.settle(d, true); err != nil {
			return err
		}
	}
	return nil
}

// cut cuts any delivery when there is room, and the head always.
func (p *pressure) cut() {
	d := p.ledger.Head()
	if !p.ledger.Full() && p.IntN(2) == 0 {
		d = p.open[p.IntN(len(p.open))]
	}
	p.worst = max(p.worst, p.ledger.worst())
	if tail := p.ledger.Split(d, d.Records()/2); tail != nil {
		p.open = append(p.open, tail)
	}
}

// commit writes the metadata with the largest numbers it can have.
func (p *pressure) commit() (string, error) {
	packed, err := appendRuns(nil, p.ledger.Acked(nil))
	if err != nil {
		return "", err
	}
	if len(packed) > p.worst {
		return "", fmt.Errorf("runs of %d bytes where at most %d were expected", len(packed), p.worst)
	}
	text, err := Metadata{math.MaxInt, time.UnixMilli(math.MinInt64), p.ledger.Acked(nil)}.Append(nil)
	return string(text), err
}

func (p *pressure) takeOver(text string) error {
	m, err := ParseMetadata(text)
	if err != nil {
		return err
	}
	p.read = p.ledger.Next()
	p.ledger, p.open = NewLedger(), nil
	p.ledger.ResumeAcked(m.Acked)
	return nil
}

func (p *pressure) run(steps int) error {
	for range steps {
		// More deliveries than acks at first, so that the books fill up.
		for range p.IntN(4) {
			if err := p.deliver(); err != nil {
				return err
			}
		}
		if len(p.open) > 0 {
			if err := p.ack(); err != nil {
				return err
			}
		}
		if len(p.open) > 0 && p.IntN(10) == 0 {
			p.cut()
		}
		if p.IntN(10) > 0 {
			continue
		}
		if p.IntN(40) == 0 {
			if err := p.scatter(); err != nil {
				return err
			}
		}
		text, err := p.commit()
		if err != nil {
			return fmt.Errorf("with %d runs acked above %d: %w", len(p.ledger.Acked(nil)), p.ledger.Next(), err)
		}
		if p.IntN(60) == 0 && p.ledger.Next() >= 0 {
			if err := p.takeOver(text); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestMetadataFitsWhileBooksThatAreFullTakeNothing holds the bound of Full to
// many random lives, dense and sparse, of small deliveries and large ones.
func TestMetadataFitsWhileBooksThatAreFullTakeNothing(t *testing.T) {
	t.Parallel()
	full := 0
	for seed := range 60 {
		r := rand.New(rand.NewPCG(4096, uint64(seed)))
		p := &pressure{Rand: r, ledger: NewLedger(), read: r.Int64N(1 << (1 + r.IntN(61))), holes: r.IntN(1 << r.IntN(24)), batch: 1 + r.IntN(1<<r.IntN(8))}
		if err := p.run(4000); err != nil {
			t.Fatalf("seed %d (holes below %d, batches to %d): %v", seed, p.holes, p.batch, err)
		}
		full += p.full
	}
	if full == 0 {
		t.Error("the books were never full: the bound was not tried")
	}
}
