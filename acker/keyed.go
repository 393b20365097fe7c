package acker

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"
)

// KeyedLedger is the books of one partition during one tenure whose records go in
// the order of their keys: deliveries lie between one another, and what was read may
// wait for a delivery of its key that is still open. It keeps the promises of a
// [Ledger], and costs work and memory by the record. It is plain data and not safe
// for concurrent use.
//
// A delivery is named by its bounds as with a Ledger: every record is in one
// delivery, so its last record alone tells which one is meant.
type KeyedLedger struct {
	records  []keyedRecord // ascending, from Next on; the first is not settled
	open     []*Delivery   // not settled, in the order in which they were entered
	first    int64         // first offset entered; -1: none
	end      int64         // one past the last offset entered; -1: none
	position int64         // of the client, or where resumed runs lead on from it; -1: not known
	lastSent int64         // highest offset sent; -1: none
	above    int           // records that are settled
	starts   int           // records that begin

	resumed []resumedRun // above Next: ascending, not touching; the records of those read are entered
	passed  Run          // the last resumed run that Next went over; Last is -1 for none

	touched []*Delivery // reused by Apply
}

// keyedRecord is one record that was read.
type keyedRecord struct {
	offset  int64
	in      *Delivery // nil while it waits
	settled bool
}

// earlierTenure is the delivery of all records that an earlier tenure settled.
var earlierTenure = &Delivery{}

// kin are the parts of what was entered as one delivery, ascending; settled ones
// are among them.
type kin struct{ parts []*Delivery }

// NewKeyedLedger returns the books of a tenure that begins.
func NewKeyedLedger() *KeyedLedger {
	return &KeyedLedger{first: -1, end: -1, position: -1, lastSent: -1, passed: Run{-1, -1}}
}

// Enter tells that the record at offset was read, which must be above all that was
// entered before and not below the position told to Advance; otherwise nothing is
// changed. A record that an earlier tenure settled is not wanted and must not be
// delivered. Any other holds Next until the delivery that takes it is settled.
func (k *KeyedLedger) Enter(offset int64) (wanted bool, err error) {
	if offset >= max(0, k.end) && k.passed.First <= offset && offset <= k.passed.Last {
		k.end = offset + 1
		return false, nil
	}
	if offset < max(0, k.end, k.position) || offset == math.MaxInt64 {
		return false, fmt.Errorf("entering a record: %d where the next may be %d", offset, max(0, k.end, k.position))
	}
	r := keyedRecord{offset: offset}
	if i := k.resumedFrom(offset); i < len(k.resumed) && k.resumed[i].First <= offset {
		r.in, r.settled = earlierTenure, true
		k.above++
	} else if k.first < 0 {
		k.first = offset
	}
	k.end = offset + 1
	k.records = append(k.records, r)
	k.release()
	return !r.settled, nil
}

// Deliver makes a delivery, Waiting and with no attempts, of records that were
// entered and are in none. The runs must ascend without touching or overlapping;
// otherwise an error says what is wrong and nothing is changed. The slice is copied.
func (k *KeyedLedger) Deliver(runs []Run) (*Delivery, error) {
	if len(runs) == 0 {
		return nil, errors.New("entering a delivery: no records")
	}
	least := int64(0)
	for _, r := range runs {
		if r.First < least || r.Last < r.First || r.Last == math.MaxInt64 {
			return nil, fmt.Errorf("entering a delivery: run %d-%d where the next may begin at %d", r.First, r.Last, least)
		}
		least = r.Last + 2
		i := k.search(r.First)
		for offset := r.First; offset <= r.Last; offset, i = offset+1, i+1 {
			if i == len(k.records) || k.records[i].offset != offset || k.records[i].in != nil {
				return nil, fmt.Errorf("entering a delivery: record %d does not wait", offset)
			}
		}
	}
	d := newDelivery(runs)
	k.mark(d, d.Last(), func(r *keyedRecord) { r.in = d })
	k.open = append(k.open, d)
	return d, nil
}

// mark changes the records of d that are open up to and including upTo, and keeps
// count of those that begin.
func (k *KeyedLedger) mark(d *Delivery, upTo int64, change func(*keyedRecord)) {
	for _, run := range d.runs[d.run(d.first):] {
		first := max(run.First, d.first)
		for i := k.search(first); i < len(k.records) && k.records[i].offset <= min(run.Last, upTo); i++ {
			k.count(i, -1)
			k.count(i+1, -1)
			change(&k.records[i])
			k.count(i, 1)
			k.count(i+1, 1)
		}
	}
}

// count adds by to starts if record i begins.
func (k *KeyedLedger) count(i, by int) {
	if k.begins(i) {
		k.starts += by
	}
}

// begins says whether a run of acked records may begin with record i, whatever is
// acked when: it is of a delivery of this tenure, and the record before it may be
// open when it is settled. Within a delivery none is, because records are settled from
// its front. Behind what an earlier tenure settled the run goes on; that counts, too,
// for it may get longer.
func (k *KeyedLedger) begins(i int) bool {
	if i == 0 || i >= len(k.records) {
		return false
	}
	r, before := &k.records[i], &k.records[i-1]
	if r.in == nil || r.in == earlierTenure || r.in == before.in {
		return false
	}
	return !before.settled || before.in == earlierTenure
}

// Resume tells what an earlier tenure knew about d, as [Ledger.Resume] does.
func (k *KeyedLedger) Resume(d *Delivery, attempts int, first time.Time) {
	d.attempts, d.firstAttempt = attempts, first
}

// Send records that an attempt goes out now, as [Ledger.Send] does.
func (k *KeyedLedger) Send(d *Delivery, at time.Time) int {
	n := d.send(at)
	if n > 0 {
		k.lastSent = max(k.lastSent, d.Last())
	}
	return n
}

// Lease records that the receiver has d and will ack it, as [Ledger.Lease] does.
func (k *KeyedLedger) Lease(d *Delivery) bool { return d.lease() }

// Fail records that the attempt failed or that the lease ran out, as [Ledger.Fail] does.
func (k *KeyedLedger) Fail(d *Delivery) bool { return d.fail() }

// Settle records that what is left of d was dead-lettered or skipped, as
// [Ledger.Settle] does.
func (k *KeyedLedger) Settle(d *Delivery) {
	k.settleThrough(d, d.Last())
	k.release()
}

func (k *KeyedLedger) settleThrough(d *Delivery, upTo int64) {
	if d.state == Settled {
		return
	}
	k.mark(d, upTo, func(r *keyedRecord) {
		r.settled = true
		k.above++
	})
	d.settleThrough(upTo)
	if d.state == Settled {
		k.open = slices.DeleteFunc(k.open, func(o *Delivery) bool { return o == d })
	}
}

// Split cuts d in two after n of its unsettled records, as [Ledger.Split] does.
func (k *KeyedLedger) Split(d *Delivery, n int) *Delivery {
	if !slices.Contains(k.open, d) || n < 1 || n >= d.records {
		return nil
	}
	if !d.stands() {
		d.state = Waiting
	}
	return k.cut(d, n)
}

// cut leaves the first n unsettled records to d and returns a delivery of the others.
func (k *KeyedLedger) cut(d *Delivery, n int) *Delivery {
	if d.kin == nil {
		d.kin = &kin{parts: []*Delivery{d}}
	}
	tail := d.cut(n)
	tail.kin = d.kin
	tail.kin.parts = slices.Insert(tail.kin.parts, slices.Index(tail.kin.parts, d)+1, tail)
	k.mark(tail, tail.Last(), func(r *keyedRecord) { r.in = tail })
	k.open = slices.Insert(k.open, slices.Index(k.open, d)+1, tail)
	return tail
}

// Advance tells the client's position, as [Ledger.Advance] does. Everything below it
// that is a record must have been entered.
func (k *KeyedLedger) Advance(p int64) {
	k.position = max(k.position, p)
	k.pass()
}

// Next is the offset to commit, as that of a [Ledger]: the lowest record not settled,
// whether it is in a delivery or waits for one.
func (k *KeyedLedger) Next() int64 {
	if len(k.records) > 0 {
		return k.records[0].offset
	}
	return max(k.end, k.position)
}

// Head is the delivery that holds Next; nil when nothing is open, or when what holds
// it is in no delivery yet.
func (k *KeyedLedger) Head() *Delivery {
	if len(k.records) == 0 {
		return nil
	}
	return k.records[0].in
}

// LastSent is the highest offset ever sent in this tenure, -1 if none was.
func (k *KeyedLedger) LastSent() int64 { return k.lastSent }

// Len is the number of records between Next and the last entered one, settled or
// not. This is what a window bounds.
func (k *KeyedLedger) Len() int { return len(k.records) }

// search is the index of the first record at or above offset.
func (k *KeyedLedger) search(offset int64) int {
	return sort.Search(len(k.records), func(i int) bool { return k.records[i].offset >= offset })
}

// find is the delivery of the record at offset; nil if it has none in this tenure, or
// lies below Next.
func (k *KeyedLedger) find(offset int64) *Delivery {
	i := k.search(offset)
	if i == len(k.records) || k.records[i].offset != offset || k.records[i].in == earlierTenure {
		return nil
	}
	return k.records[i].in
}

// release lets go of the settled records at the head, so that the commit passes them.
func (k *KeyedLedger) release() {
	n := 0
	for n < len(k.records) && k.records[n].settled {
		n++
		k.count(n, -1) // it goes, or becomes the first
	}
	k.above -= n
	clear(k.records[:n])
	k.records = k.records[n:]
	k.pass()
}
