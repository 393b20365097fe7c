package acker

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"
)

// Ledger is the books of one partition during one tenure: its deliveries in
// the order of their offsets, from the one that holds the commit back to the
// last one entered. It is plain data and not safe for concurrent use.
type Ledger struct {
	deliveries []*Delivery // ascending; the first is not settled, later ones may be
	first      int64       // first offset entered; -1: none
	end        int64       // one past the last offset entered; -1: none
	position   int64       // of the client, or where resumed runs lead on from it; -1: not known
	lastSent   int64       // highest offset sent; -1: none
	open       int         // deliveries not settled
	begun      int         // deliveries of which something is settled

	resumed []resumedRun // above Next: ascending, not touching, none over a delivery
	passed  Run          // the last resumed run that Next went over; Last is -1 for none

	touched []*Delivery // reused by Apply
}

// NewLedger returns the books of a tenure that begins.
func NewLedger() *Ledger {
	return &Ledger{first: -1, end: -1, position: -1, lastSent: -1, passed: Run{-1, -1}}
}

// Deliver enters a batch read from Kafka as a new delivery, Waiting and with no
// attempts. The runs must ascend without touching or overlapping and lie above
// everything entered before and not below the position told to Advance, within
// what is Wanted; otherwise an error says what is wrong and nothing is changed.
// The slice is copied.
func (l *Ledger) Deliver(runs []Run) (*Delivery, error) {
	if len(runs) == 0 {
		return nil, errors.New("entering a delivery: no records")
	}
	least := max(0, l.end, l.position)
	for _, r := range runs {
		if r.First < least || r.Last < r.First || r.Last == math.MaxInt64 {
			return nil, fmt.Errorf("entering a delivery: run %d-%d where the next may begin at %d", r.First, r.Last, least)
		}
		least = r.Last + 2 // a run that began at Last+1 would be the same run
	}
	if first, last := runs[0].First, runs[len(runs)-1].Last; len(l.resumed) > 0 {
		if w := l.Wanted(first); first != w.First || last > w.Last {
			return nil, fmt.Errorf("entering a delivery: %d-%d where %d-%d is wanted", first, last, w.First, w.Last)
		}
	}
	d := newDelivery(runs)
	if l.first < 0 {
		l.first = d.First()
	}
	l.end = d.Last() + 1
	l.deliveries = append(l.deliveries, d)
	l.open++
	l.pass()
	return d, nil
}

// Resume tells what an earlier tenure knew about d: the attempts sent and the
// time of the first. It is meant for a delivery not sent yet in this tenure.
func (l *Ledger) Resume(d *Delivery, attempts int, first time.Time) {
	d.attempts, d.firstAttempt = attempts, first
}

// Send records that an attempt goes out now, and returns its number, which
// counts from 1. It ends a standing nack or rejection. It returns 0 and changes nothing
// if d is neither Waiting nor Nacked nor Rejected.
func (l *Ledger) Send(d *Delivery, at time.Time) int {
	n := d.send(at)
	if n > 0 {
		l.lastSent = max(l.lastSent, d.Last())
	}
	return n
}

// Lease records that the receiver has d and will ack it. It is moot, and
// returns false, unless d is Sent: an ack or a nack came first.
func (l *Ledger) Lease(d *Delivery) bool { return d.lease() }

// Fail records that the attempt failed or that the lease ran out: d waits
// again. It is moot, and returns false, if d is neither Sent nor Leased: an ack
// or a nack came first.
func (l *Ledger) Fail(d *Delivery) bool { return d.fail() }

// Settle records that what is left of d was dead-lettered, with a confirmed
// write, or skipped by policy. It may come in any state; on a settled delivery
// it does nothing.
func (l *Ledger) Settle(d *Delivery) {
	l.settleThrough(d, d.Last())
	l.release()
}

// settleThrough settles every record of d up to and including upTo, which is not
// below its first open one.
func (l *Ledger) settleThrough(d *Delivery, upTo int64) {
	if d.state == Settled {
		return
	}
	if !d.begun() {
		l.begun++
	}
	d.settleThrough(upTo)
	if d.state == Settled {
		l.open--
	}
}

// Split cuts d in two after n of its unsettled records: d keeps the head, the
// tail is returned. Both keep the attempts and wait; only a nack or a rejection stands
// on in both. It returns nil and changes nothing if d is settled, not of this ledger,
// or n is not between 1 and d.Records()-1.
func (l *Ledger) Split(d *Delivery, n int) *Delivery {
	i := l.search(d.Last())
	if i == len(l.deliveries) || l.deliveries[i] != d || n < 1 || n >= d.records {
		return nil
	}
	if !d.stands() {
		d.state = Waiting
	}
	tail := d.cut(n)
	l.deliveries = slices.Insert(l.deliveries, i+1, tail)
	l.open++
	return tail
}

// Advance tells that the client's position is now p: everything below it was
// entered or carries no record, as transaction markers and aborted records do.
// A position lower than an earlier one is ignored.
func (l *Ledger) Advance(p int64) {
	l.position = max(l.position, p)
	l.pass()
}

// Next is the offset to commit: that of the lowest record not settled or, with
// everything settled, one past the last entered or the position, whichever is
// higher, and past the runs resumed that begin there. It is -1 before anything
// is known, and never goes down.
func (l *Ledger) Next() int64 {
	if len(l.deliveries) > 0 {
		return l.deliveries[0].first
	}
	return max(l.end, l.position)
}

// Head is the delivery that holds Next, nil when nothing is open.
func (l *Ledger) Head() *Delivery {
	if len(l.deliveries) == 0 {
		return nil
	}
	return l.deliveries[0]
}

// LastSent is the highest offset ever sent in this tenure, -1 if none was.
func (l *Ledger) LastSent() int64 { return l.lastSent }

// Len is the number of deliveries between Next and the last entered one,
// settled or not. This is what a window bounds: with a hole at the head it
// grows with everything entered above the hole.
func (l *Ledger) Len() int { return len(l.deliveries) }

// search is the index of the first delivery that ends at or above offset.
func (l *Ledger) search(offset int64) int {
	return sort.Search(len(l.deliveries), func(i int) bool { return l.deliveries[i].Last() >= offset })
}

// release lets go of the settled deliveries at the head, so that the commit
// passes them.
func (l *Ledger) release() {
	n := 0
	for n < len(l.deliveries) && l.deliveries[n].state == Settled {
		n++
	}
	l.deliveries = slices.Delete(l.deliveries, 0, n)
	l.begun -= n
	l.pass()
}
