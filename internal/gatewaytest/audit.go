package gatewaytest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Evidence is what is known of one webhook when a test has come to its end.
type Evidence struct {
	Webhook    string
	Produced   *Produced
	Deliveries []Delivery // in order of arrival
	Acks       []Ack
	Complaints []string

	// Settled are the records that need no ack: dead-lettered with a confirmed
	// write, or skipped because the webhook's policy says so.
	Settled map[Partition][]int64

	Committed map[Partition]int64 // what the group has committed at the end
	Commits   []Commit            // every commit of the group in order, where it was read

	// Start is where the group began; a partition without an entry began at 0.
	Start map[Partition]int64

	// Ends, when set, says that the webhook had the time to deliver everything:
	// all of Produced must have been acked and every end committed.
	Ends map[Partition]int64

	// Unordered says that the webhook's ordering is not by partition.
	Unordered bool
}

// Anomaly is one thing that must not be, with the offsets it concerns.
type Anomaly struct {
	Rule        string // S1, O1, ...: what was broken
	Partition   Partition
	First, Last int64 // inclusive
	Text        string
}

func (a Anomaly) String() string {
	return fmt.Sprintf("%s %s %d..%d: %s", a.Rule, a.Partition, a.First, a.Last, a.Text)
}

// Report is what an audit found.
type Report struct {
	Anomalies  []Anomaly
	Deliveries int // requests that arrived
	Records    int // different records that arrived
	Repeats    int // arrivals of a record that had arrived before, whatever the reason
	Duplicates int // arrivals of a record after it had been acked
}

// maxPrinted bounds how many anomalies a failing test prints.
const maxPrinted = 40

// Check fails the test if anything was found.
func (r Report) Check(t testing.TB) {
	t.Helper()
	t.Logf("audit: %d records in %d deliveries, %d repeats, %d duplicates", r.Records, r.Deliveries, r.Repeats, r.Duplicates)
	for i, a := range r.Anomalies {
		if i == maxPrinted {
			t.Errorf("audit: and %d more", len(r.Anomalies)-i)
			break
		}
		t.Errorf("audit: %s", a)
	}
}

// Audit joins the ledgers of one webhook. What it looks for:
//
//	S1 a commit passed a record that nobody had acked at that moment
//	S5 a committed offset went down
//	S6 a record was delivered that no reader of committed records can see
//	S7 a record was delivered with other bytes than it has in Kafka, or a
//	   delivery id with other records than the time before
//	S9 a request broke the contract by itself, or came to the wrong address
//	O1 first deliveries of a partition skipped a record or went back
//	O4 two requests of one partition were under way at once
//	L1 a record was never acked although there was time
//	L2 the committed offset did not reach the end although there was time
func Audit(e Evidence) Report {
	a := auditor{e: e, report: Report{Deliveries: len(e.Deliveries)}}
	for _, complaint := range e.Complaints {
		a.found("S9", Partition{}, 0, 0, "%s", complaint)
	}
	a.identities()
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

// partition checks one partition against its ledger.
func (a *auditor) partition(p Partition) {
	book, visible := a.e.Produced.book(p)
	visible = visible[lowerBound(visible, a.e.Start[p]):]
	settled := a.settledTimes(p)
	a.arrivals(p, book, visible, settled)
	a.commits(p, visible, settled)
	if a.e.Ends != nil {
		a.completeness(p, visible, settled)
	}
}

// settledTimes is when each record was first acked; the zero time for a record that needs no ack.
func (a *auditor) settledTimes(p Partition) map[int64]time.Time {
	settled := map[int64]time.Time{}
	_, visible := a.e.Produced.book(p)
	for _, ack := range a.e.Acks {
		if ack.Partition != p {
			continue
		}
		for _, offset := range visible[lowerBound(visible, ack.First):] {
			if offset > ack.Last {
				break
			}
			if at, ok := settled[offset]; !ok || ack.At.Before(at) {
				settled[offset] = ack.At
			}
		}
	}
	for _, offset := range a.e.Settled[p] {
		settled[offset] = time.Time{}
	}
	return settled
}

// arrivals walks the deliveries of a partition in order of arrival.
func (a *auditor) arrivals(p Partition, book map[int64]Digest, visible []int64, settled map[int64]time.Time) {
	seen := map[int64]bool{}
	next := 0 // index in visible of the first record that has not arrived yet
	var previous *Delivery
	for i := range a.e.Deliveries {
		d := &a.e.Deliveries[i]
		if d.Partition != p {
			continue
		}
		if previous != nil && !a.e.Unordered && d.Arrived.Before(previous.Answered) {
			a.found("O4", p, d.First(), d.Last(), "arrived while %d..%d was still to be answered", previous.First(), previous.Last())
		}
		previous = d
		for _, r := range d.Records {
			if digest, ok := book[r.Offset]; !ok {
				a.found("S6", p, r.Offset, r.Offset, "delivered, and no reader of committed records can see it")
			} else if digest != r.Digest {
				a.found("S7", p, r.Offset, r.Offset, "delivered with other bytes than were produced")
			}
			if seen[r.Offset] {
				a.report.Repeats++
				if at, ok := settled[r.Offset]; ok && !at.IsZero() && at.Before(d.Arrived) {
					a.report.Duplicates++
				}
				continue
			}
			seen[r.Offset] = true
			a.report.Records++
			if a.e.Unordered {
				continue
			}
			if next < len(visible) && visible[next] == r.Offset {
				next++
				continue
			}
			at := lowerBound(visible, r.Offset)
			if at > next {
				a.found("O1", p, visible[next], visible[at-1], "passed over by the delivery of %d..%d", d.First(), d.Last())
				next = min(at+1, len(visible))
			} else {
				a.found("O1", p, r.Offset, r.Offset, "delivered for the first time after later records")
			}
		}
	}
}

// commitClock is how much later than an ack a commit may look and still rest
// on it: the broker stamps commits in whole milliseconds.
const commitClock = 2 * time.Millisecond

// commits checks the history of commits and the last one.
func (a *auditor) commits(p Partition, visible []int64, settled map[int64]time.Time) {
	last := int64(-1)
	from := 0 // index in visible of the first record that no commit has covered yet
	for _, c := range a.e.Commits {
		if c.Partition != p {
			continue
		}
		if c.Offset < last {
			a.found("S5", p, c.Offset, last, "the committed offset went down")
		}
		last = max(last, c.Offset)
		for ; from < len(visible) && visible[from] < c.Offset; from++ {
			at, ok := settled[visible[from]]
			if !ok {
				a.found("S1", p, visible[from], visible[from], "committed and never acked")
			} else if at.After(c.At.Add(commitClock)) {
				a.found("S1", p, visible[from], visible[from], "committed before it was acked")
			}
		}
	}
	committed, ok := a.e.Committed[p]
	if !ok {
		return
	}
	if committed < last {
		a.found("S5", p, committed, last, "the committed offset went down")
	}
	for ; from < len(visible) && visible[from] < committed; from++ {
		if _, ok := settled[visible[from]]; !ok {
			a.found("S1", p, visible[from], visible[from], "committed and never acked")
		}
	}
}

// completeness checks that everything was done.
func (a *auditor) completeness(p Partition, visible []int64, settled map[int64]time.Time) {
	for _, offset := range visible {
		if _, ok := settled[offset]; !ok {
			a.found("L1", p, offset, offset, "never acked")
		}
	}
	committed, ok := a.e.Committed[p]
	if end := a.e.Ends[p]; !ok && end > 0 {
		a.found("L2", p, 0, end, "nothing is committed")
	} else if ok && committed != end {
		a.found("L2", p, committed, end, "the committed offset is not the end")
	}
}

// lowerBound is the index of the first offset that is not below n.
func lowerBound(offsets []int64, n int64) int {
	i, _ := slices.BinarySearch(offsets, n)
	return i
}
