package gatewaytest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Audit joins the ledgers of one webhook: what was produced, what arrived, what
// was acked and answered, and what the broker keeps of the group. It looks for:
//
//	S1  a commit passed a record that nobody had acked at that moment
//	S2  a commit was made by somebody who could not own the partition
//	S3  an ack counted although its tenure had been succeeded
//	S4  acks of two tenures of a partition counted in turns
//	S5  a committed offset went down
//	S6  a record was delivered that no reader of committed records can see
//	S7  a record was delivered with other bytes than it has in Kafka, or a
//	    delivery id with other records than the time before
//	S8  a record came again after its ack was answered with "committed"
//	S9  a request broke the contract by itself, or came to the wrong address
//	S10 a registration was lost, or a deleted webhook got deliveries
//	O1  first deliveries of a partition skipped a record or went back
//	O2  a delivery passed over a record that was still to be acked
//	O3  a new owner did not begin at the committed offset
//	O4  two requests of one partition were under way at once, or a tenure that
//	    had ended went on
//	L1  a record was never acked although there was time
//	L2  the committed offset did not reach the end although there was time
//	L5  a partition with records to deliver was left alone for too long
//	D1  a record came again after it was acked, without any fault
//	D2  more records came again after a hard end than may
//
// S2, O3, D2, and the second half of O4, need the group's generations.
func Audit(e Evidence) Report {
	a := auditor{e: e, report: Report{Deliveries: len(e.Deliveries), Rebalances: rebalances(e.Generations)}}
	for _, complaint := range e.Complaints {
		a.found("S9", Partition{}, 0, 0, "%s", complaint)
	}
	a.identities()
	a.existence()
	for _, p := range a.partitions() {
		a.partition(p)
	}
	return a.report
}

type auditor struct {
	e      Evidence
	report Report
}

// found notes an anomaly. One that continues where the previous one ends joins
// it, so that a thousand lost records print as one window.
func (a *auditor) found(rule string, p Partition, first, last int64, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if n := len(a.report.Anomalies); n > 0 {
		prev := &a.report.Anomalies[n-1]
		if prev.Rule == rule && prev.Partition == p && prev.Text == text && prev.Last+1 == first {
			prev.Last = last
			return
		}
	}
	a.report.Anomalies = append(a.report.Anomalies, Anomaly{rule, p, first, last, text})
}

// partitions that any ledger knows of.
func (a *auditor) partitions() []Partition {
	known := map[Partition]bool{}
	for _, p := range a.e.Produced.Partitions() {
		known[p] = true
	}
	for i := range a.e.Deliveries {
		known[a.e.Deliveries[i].Partition] = true
	}
	for p := range a.e.Committed {
		known[p] = true
	}
	for p := range a.e.Ends {
		known[p] = true
	}
	out := make([]Partition, 0, len(known))
	for p := range known {
		out = append(out, p)
	}
	slices.SortFunc(out, comparePartitions)
	return out
}

func comparePartitions(a, b Partition) int {
	return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.ID, b.ID))
}

// identities checks that a delivery id always stands for the same records.
func (a *auditor) identities() {
	first := map[string]*Delivery{}
	for i := range a.e.Deliveries {
		d := &a.e.Deliveries[i]
		same := func(x, y Record) bool { return x.Offset == y.Offset && x.Digest == y.Digest }
		if before, ok := first[d.ID]; !ok {
			first[d.ID] = d
		} else if before.Partition != d.Partition || !slices.EqualFunc(before.Records, d.Records, same) {
			a.found("S7", d.Partition, d.First(), d.Last(), "delivery %s held %s %d..%d before",
				d.ID, before.Partition, before.First(), before.Last())
		}
	}
}

// underWayAtDelete is how long after a DELETE was answered the one request may
// arrive that was under way meanwhile.
const underWayAtDelete = 250 * time.Millisecond

// existence checks that the webhook got deliveries only while it existed, and
// that it exists if it has to.
func (a *auditor) existence() {
	if a.e.Registered && !a.e.Listed {
		a.found("S10", Partition{}, 0, 0, "webhook %s was registered and is gone", a.e.Webhook)
	}
	for _, span := range a.e.Absent {
		underWay := map[Partition]int{}
		for i := range a.e.Deliveries {
			d := &a.e.Deliveries[i]
			if !d.Arrived.After(span.From) || !span.To.IsZero() && d.Arrived.After(span.To) {
				continue
			}
			if underWay[d.Partition]++; underWay[d.Partition] > 1 || d.Arrived.Sub(span.From) > underWayAtDelete {
				a.found("S10", d.Partition, d.First(), d.Last(), "delivered although the webhook was deleted")
			}
		}
	}
}

// ledger is all that is known of one partition.
type ledger struct {
	*auditor
	p          Partition
	book       map[int64]Digest
	visible    []int64             // offsets of book from the start on, ascending
	settled    map[int64]time.Time // when each record was first acked; zero for one that needs no ack
	deliveries []*Delivery         // in order of arrival
	tenures    []tenure
	holders    []int // for each delivery the index of its tenure; -1: none known
}

// partition checks one partition.
func (a *auditor) partition(p Partition) {
	l := &ledger{auditor: a, p: p}
	l.book, l.visible = a.e.Produced.book(p)
	l.settle()
	l.visible = l.visible[lowerBound(l.visible, a.e.Start[p]):]
	for i := range a.e.Deliveries {
		if a.e.Deliveries[i].Partition == p {
			l.deliveries = append(l.deliveries, &a.e.Deliveries[i])
		}
	}
	l.tenures = tenuresOf(p, a.e.Generations, a.e.Commits)
	for _, d := range l.deliveries {
		holder := l.holder(d.Generation, d.Arrived)
		l.holders = append(l.holders, holder)
		l.hold(d, holder)
	}
	l.contents()
	l.order()
	l.progress()
	l.handOvers()
	l.answers()
	l.commits()
	if a.e.Ends != nil {
		l.completeness()
	}
}

// settle finds out when each record was first acked.
func (l *ledger) settle() {
	l.settled = map[int64]time.Time{}
	for _, ack := range l.e.Acks {
		if ack.Partition != l.p {
			continue
		}
		for _, offset := range l.visible[lowerBound(l.visible, ack.First):] {
			if offset > ack.Last {
				break
			}
			if at, ok := l.settled[offset]; !ok || ack.At.Before(at) {
				l.settled[offset] = ack.At
			}
		}
	}
	for _, offset := range l.e.Settled[l.p] {
		l.settled[offset] = time.Time{}
	}
}

// contents checks that what was delivered is what is in Kafka.
func (l *ledger) contents() {
	for _, d := range l.deliveries {
		for _, r := range d.Records {
			if digest, ok := l.book[r.Offset]; !ok {
				l.found("S6", l.p, r.Offset, r.Offset, "delivered, and no reader of committed records can see it")
			} else if digest != r.Digest {
				l.found("S7", l.p, r.Offset, r.Offset, "delivered with other bytes than were produced")
			}
		}
	}
}

// order checks that first deliveries ascend without a gap, and counts repeats.
func (l *ledger) order() {
	seen := map[int64]bool{}
	next := 0 // index in visible of the first record that has not arrived yet
	for _, d := range l.deliveries {
		for _, r := range d.Records {
			if seen[r.Offset] {
				l.report.Repeats++
				continue
			}
			seen[r.Offset] = true
			l.report.Records++
			if l.e.Unordered {
				continue
			}
			if next < len(l.visible) && l.visible[next] == r.Offset {
				next++
				continue
			}
			at := lowerBound(l.visible, r.Offset)
			if at > next {
				l.found("O1", l.p, l.visible[next], l.visible[at-1], "passed over by the delivery of %d..%d", d.First(), d.Last())
				next = min(at+1, len(l.visible))
			} else {
				l.found("O1", l.p, r.Offset, r.Offset, "delivered for the first time after later records")
			}
		}
	}
}

// progress walks along the lowest record that was still to be acked: no delivery
// may begin beyond it, and it may not wait for its next delivery for too long.
func (l *ledger) progress() {
	lowest := 0 // index in visible
	var idle time.Time
	for i, d := range l.deliveries {
		for lowest < len(l.visible) && l.ackedBefore(l.visible[lowest], d.Arrived) {
			lowest++
		}
		if lowest == len(l.visible) {
			break
		}
		if !l.e.Unordered && d.First() > l.visible[lowest] {
			l.found("O2", l.p, l.visible[lowest], l.visible[lowest], "still to be acked when %d..%d was delivered", d.First(), d.Last())
		}
		if since := later(idle, time.UnixMilli(l.producedAt(d, l.visible[lowest]))); i > 0 {
			if gap := d.Arrived.Sub(since); gap > l.report.Gap.Length {
				l.report.Gap = Gap{l.p, d.Arrived, gap}
			}
			if gap := d.Arrived.Sub(since); l.e.MaxGap > 0 && gap > l.e.MaxGap {
				l.found("L5", l.p, d.First(), d.Last(), "nothing was delivered for %v", gap.Round(time.Millisecond))
			}
		}
		idle = later(d.Arrived, d.Answered)
	}
}

// producedAt is the time stamped on a record, as a delivery tells it; the
// delivery's first record stands for one that it does not hold.
func (l *ledger) producedAt(d *Delivery, offset int64) int64 {
	for i := range d.Records {
		if d.Records[i].Offset >= offset {
			return d.Records[i].Timestamp
		}
	}
	return d.Records[0].Timestamp
}

func (l *ledger) ackedBefore(offset int64, t time.Time) bool {
	at, ok := l.settled[offset]
	return ok && at.Before(t)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// lowerBound is the index of the first offset that is not below n.
func lowerBound(offsets []int64, n int64) int {
	i, _ := slices.BinarySearch(offsets, n)
	return i
}
