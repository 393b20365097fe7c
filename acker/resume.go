package acker

import (
	"encoding/binary"
	"math"
	"sort"
)

const (
	// longestVarint is the size of a uvarint of any offset or distance of
	// offsets, which have 63 bits.
	longestVarint = 9
	// splitsOfHead is how often the head of the books may be cut in half beyond
	// what Full counts: 2^14 is more than a delivery has records.
	splitsOfHead = 14
)

// resumedRun is a run that an earlier tenure settled, above Next.
type resumedRun struct {
	Run
	rest int // bytes of its distances and of those of the runs behind it in commit metadata
}

// ResumeAcked tells which runs above the committed offset an earlier tenure
// settled: Acked of the metadata that came with the commit, in its order. They
// count as settled, are not wanted again, and are in Acked until Next has passed
// them. It is meant for books in which nothing was entered yet.
func (l *Ledger) ResumeAcked(runs []Run) { l.resumed = resumedRuns(runs) }

// resumedRuns adds up the bytes of runs.
func resumedRuns(runs []Run) []resumedRun {
	resumed := make([]resumedRun, len(runs))
	rest := 0
	for i := len(runs) - 1; i >= 0; i-- {
		r, end := runs[i], int64(0)
		if i > 0 {
			end = runs[i-1].Last + 1
		}
		rest += varintLen(r.First-end) + varintLen(r.Last-r.First)
		resumed[i] = resumedRun{r, rest}
	}
	return resumed
}

// Wanted returns what the next delivery may be made of, where offset is that of
// the next record read: from the first offset at or above it that no earlier
// tenure settled, to the last one before a run that one did. Records below First
// are to be dropped. A delivery must not reach over such a run, because it would
// have the bounds of another with more records, and so its id.
func (l *Ledger) Wanted(offset int64) Run {
	if len(l.resumed) == 0 && offset > l.passed.Last {
		return Run{offset, math.MaxInt64 - 1}
	}
	first := offset
	if l.passed.First <= first {
		first = max(first, l.passed.Last+1)
	}
	for _, r := range l.resumed[l.resumedFrom(first):] {
		if first < r.First {
			return Run{first, r.First - 1}
		}
		first = max(first, r.Last+1)
	}
	return Run{first, math.MaxInt64 - 1}
}

// resumedFrom is the index of the first resumed run that ends at or above offset.
func (l *Ledger) resumedFrom(offset int64) int {
	if len(l.resumed) == 0 {
		return 0
	}
	return sort.Search(len(l.resumed), func(i int) bool { return l.resumed[i].Last >= offset })
}

// pass lets go of the resumed runs that Next has reached. With nothing open Next
// goes over them; the last of them may still have to be read.
func (l *Ledger) pass() {
	for len(l.resumed) > 0 && l.resumed[0].First <= l.Next() {
		if len(l.deliveries) == 0 {
			l.passed = l.resumed[0].Run
			l.position = max(l.position, l.passed.Last+1)
		}
		l.resumed = l.resumed[1:]
	}
}

// Gap says whether anything above Next is settled: whether Acked has something
// to tell.
func (l *Ledger) Gap() bool {
	own := l.begun
	if len(l.deliveries) > 0 && l.deliveries[0].begun() {
		own-- // what is settled of it lies below Next
	}
	return own > 0 || len(l.resumed) > 0
}

// Acked appends to dst the runs above Next that are settled, now or by an earlier
// tenure, and returns it: what the next tenure need not deliver again. A run goes
// on over offsets that carry no record, so that transaction markers and
// compaction do not break it up: there are never more runs than open deliveries
// and runs resumed.
func (l *Ledger) Acked(dst []Run) []Run {
	apart := true // something open or not read lies behind the run added last
	add := func(r Run) {
		if apart {
			dst = append(dst, r)
		} else {
			dst[len(dst)-1].Last = r.Last
		}
		apart = false
	}
	resumed := l.resumed
	for i, d := range l.deliveries {
		first := d.runs[0].First
		for len(resumed) > 0 && resumed[0].First < first {
			add(resumed[0].Run)
			resumed = resumed[1:]
		}
		if i > 0 && d.begun() {
			add(Run{first, d.first - 1})
		}
		apart = apart || d.state != Settled
	}
	known := max(l.end, l.position) // no record lies between the last delivery and here
	for _, r := range resumed {
		apart = apart || r.First > known
		add(r.Run)
		known = max(known, r.Last+1)
	}
	return dst
}

// Full says that one more delivery, or a cut of one, could make the acked runs
// too long for the metadata of a commit, depending on what is acked when; then
// none is to be entered or cut until something was settled. The head of the books
// may be cut in half even then. Books with nothing open are never full.
func (l *Ledger) Full() bool { return l.open > 0 && l.worst() > maxPacked }

// worst is the most bytes that the distances of the acked runs can have from now
// on, with one more delivery, in whatever order and however partially its
// records are acked.
//
// Each run but the last ends at the open rest of a delivery that is not the head,
// or at what was not read yet. So at most as many runs as there are open
// deliveries begin below known, the end of what was read, and their distances lie
// side by side between Next and there: at most width/128 of them need a second
// byte, width/128² a third, and so on. Of the others the first of all is an
// offset, one reaches over known, one is the length of the delivery to come and
// one the distance from there to the next run resumed; the runs resumed have the
// distances they had. Runs that join have less to tell than two.
func (l *Ledger) worst() int {
	known := max(l.end, l.position)
	numbers := 2 * (l.open + splitsOfHead)
	n := 4*longestVarint + numbers
	for width := (known - l.Next()) >> 7; width > 0; width >>= 7 {
		n += int(min(int64(numbers), width))
	}
	if i := l.resumedFrom(known); i < len(l.resumed) {
		n += l.resumed[i].rest
	}
	return n
}

// varintLen is the number of bytes of v, not negative, as a uvarint.
func varintLen(v int64) int {
	var b [binary.MaxVarintLen64]byte
	return binary.PutUvarint(b[:], uint64(v))
}
