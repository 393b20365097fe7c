package acker

import (
	"fmt"
	"sort"
	"time"
)

// Run is a run of consecutive offsets, both ends inclusive.
type Run struct{ First, Last int64 }

// State of a delivery in the books.
type State uint8

// The states of a delivery.
const (
	Waiting  State = iota // no request under way: new, or failed and to be sent again
	Sent                  // a request is under way
	Leased                // the receiver has it and will ack it later
	Nacked                // the receiver wants it again; stands until the next attempt is sent
	Rejected              // the receiver does not take it; stands until the next attempt is sent
	Settled               // acked, dead-lettered or skipped
)

// String returns the state in lower case, for logs.
func (s State) String() string {
	switch s {
	case Waiting:
		return "waiting"
	case Sent:
		return "sent"
	case Leased:
		return "leased"
	case Nacked:
		return "nacked"
	case Rejected:
		return "rejected"
	case Settled:
		return "settled"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Delivery is one batch in the books of a [Ledger], which alone changes it. It
// may be read by whoever owns the ledger. A delivery stays readable after it is
// settled, and is never used again for other records.
type Delivery struct {
	runs   []Run  // what was entered, settled records included; never empty
	single [1]Run // holds runs in the usual case of one

	first        int64 // first record not settled; Last()+1 when all are
	records      int   // records not settled
	attempts     int
	firstAttempt time.Time
	state        State
	sent         bool // an attempt went out in this tenure
	kin          *kin // the parts it was cut into, in a KeyedLedger; nil: none
}

func newDelivery(runs []Run) *Delivery {
	d := &Delivery{first: runs[0].First}
	d.runs = append(d.single[:0], runs...)
	d.records = d.count()
	return d
}

// First is the offset of the first record not settled, and one past the last
// when all are.
func (d *Delivery) First() int64 { return d.first }

// Last is the offset of the last record, settled or not.
func (d *Delivery) Last() int64 { return d.runs[len(d.runs)-1].Last }

// Records is the number of records not settled.
func (d *Delivery) Records() int { return d.records }

// Attempts is the number of attempts sent, those of earlier tenures included
// when [Ledger.Resume] told of them. Splits and partial acks keep it.
func (d *Delivery) Attempts() int { return d.attempts }

// FirstAttempt is the time of the first attempt, zero before it. Splits and
// partial acks keep it.
func (d *Delivery) FirstAttempt() time.Time { return d.firstAttempt }

// State is where the delivery stands.
func (d *Delivery) State() State { return d.state }

// Open appends the runs of the records not settled to dst.
func (d *Delivery) Open(dst []Run) []Run {
	if d.state == Settled {
		return dst
	}
	for _, r := range d.runs[d.run(d.first):] {
		dst = append(dst, Run{max(r.First, d.first), r.Last})
	}
	return dst
}

// send is Send of the books.
func (d *Delivery) send(at time.Time) int {
	if d.state != Waiting && !d.stands() {
		return 0
	}
	d.state, d.sent = Sent, true
	d.attempts++
	if d.firstAttempt.IsZero() {
		d.firstAttempt = at
	}
	return d.attempts
}

// lease is Lease of the books.
func (d *Delivery) lease() bool {
	if d.state != Sent {
		return false
	}
	d.state = Leased
	return true
}

// fail is Fail of the books.
func (d *Delivery) fail() bool {
	if d.state != Sent && d.state != Leased {
		return false
	}
	d.state = Waiting
	return true
}

// parts are what the delivery that d was entered with was cut into.
func (d *Delivery) parts() []*Delivery {
	if d.kin == nil {
		return []*Delivery{d}
	}
	return d.kin.parts
}

// akin says whether both were entered as one delivery.
func (d *Delivery) akin(other *Delivery) bool {
	return d == other || other != nil && d.kin != nil && d.kin == other.kin
}

// run is the index of the first run that ends at or above offset, which must
// not be above Last.
func (d *Delivery) run(offset int64) int {
	return sort.Search(len(d.runs), func(i int) bool { return d.runs[i].Last >= offset })
}

// holds says whether offset, which must not be above Last, is one of the
// records entered, settled or not, and not in a hole between them.
func (d *Delivery) holds(offset int64) bool { return d.runs[d.run(offset)].First <= offset }

// begun says whether any record is settled.
func (d *Delivery) begun() bool { return d.first > d.runs[0].First }

// count counts the records not settled.
func (d *Delivery) count() int {
	n := 0
	for _, r := range d.runs[d.run(d.first):] {
		n += int(r.Last - max(r.First, d.first) + 1)
	}
	return n
}

// settleThrough settles every record up to and including upTo.
func (d *Delivery) settleThrough(upTo int64) {
	if upTo >= d.Last() {
		d.first, d.records, d.state = d.Last()+1, 0, Settled
		return
	}
	d.first = upTo + 1
	d.first = max(d.first, d.runs[d.run(d.first)].First)
	d.records = d.count()
}

// cut leaves the first n unsettled records to d and returns a delivery of the
// others with the same history. n is at least 1 and below Records.
func (d *Delivery) cut(n int) *Delivery {
	i, from, skip := d.run(d.first), d.first, int64(n)
	for skip > d.runs[i].Last-from {
		skip -= d.runs[i].Last - from + 1
		i++
		from = d.runs[i].First
	}
	from += skip // the first record of the tail, in run i

	tail := newDelivery(d.runs[i:])
	tail.runs[0].First = from
	tail.first = from
	tail.records = d.records - n
	tail.attempts, tail.firstAttempt = d.attempts, d.firstAttempt
	tail.state, tail.sent = d.state, d.sent

	d.records = n
	if from > d.runs[i].First {
		d.runs[i].Last = from - 1
		i++
	}
	d.runs = d.runs[:i]
	return tail
}
