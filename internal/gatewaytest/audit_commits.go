package gatewaytest

import (
	"slices"
	"time"
)

// commitClock is how much later than an ack a commit may look and still rest
// on it: the broker stamps commits in whole milliseconds.
const commitClock = 2 * time.Millisecond

// commits checks the history of commits and the last one.
func (l *ledger) commits() {
	last := int64(-1)
	from := 0 // index in visible of the first record that no commit has covered yet
	for i, c := range l.e.Commits {
		if c.Partition != l.p {
			continue
		}
		if slices.Contains(l.e.Resets, Reset{l.p, c.Offset}) {
			// From here on the records count that lie beyond; those below are nobody's
			// concern any more, or were acked once and are delivered again.
			last, from = c.Offset, max(from, lowerBound(l.visible, c.Offset))
			continue
		}
		if l.authority(i, last < 0) {
			l.coverage(i)
		}
		if c.Offset < last {
			l.found("S5", l.p, c.Offset, last, "the committed offset went down")
		}
		last = max(last, c.Offset)
		for ; from < len(l.visible) && l.visible[from] < c.Offset; from++ {
			at, ok := l.settled[l.visible[from]]
			if !ok {
				l.found("S1", l.p, l.visible[from], l.visible[from], "committed and never acked")
			} else if at.After(c.At.Add(commitClock)) {
				l.found("S1", l.p, l.visible[from], l.visible[from], "committed before it was acked")
			}
		}
	}
	committed, ok := l.e.Committed[l.p]
	if !ok {
		return
	}
	if committed < last {
		l.found("S5", l.p, committed, last, "the committed offset went down")
	}
	for ; from < len(l.visible) && l.visible[from] < committed; from++ {
		if _, ok := l.settled[l.visible[from]]; !ok {
			l.found("S1", l.p, l.visible[from], l.visible[from], "committed and never acked")
		}
	}
}

// authority checks that a commit can have come from an owner of the partition.
//
// The broker writes the commits and the generations of a group into one log, so
// each commit stands in exactly one generation. A commit does not name its sender;
// but the broker takes commits from members of the current generation alone, and
// from anybody while the group is empty. What follows from that:
//
//   - The partition has an owner in that generation: the commit is taken for the
//     owner's. One by another live member looks the same; it shows when it covers a
//     record that the owner had not delivered yet (see coverage). Where it covers
//     less it did no harm, or S5 shows it.
//   - It has none, and its owner of the generation before is still a member: that
//     one may be giving it up at this moment, in the cooperative way. It has done
//     so before it joins again, so two generations later it is an anomaly, unless
//     it never heard of the one that took the partition away (see tenureIn).
//   - It has none, and the former owner has left or was thrown out: nobody could
//     commit it by right.
//   - The group is empty and was not before: the members are gone, so it came from
//     somebody who was a member once, or from outside; the latter are in Resets. The
//     first commit of all is the one that pins where the group begins.
//
// It returns whether the partition had an owner.
func (l *ledger) authority(commit int, first bool) bool {
	c := l.e.Commits[commit]
	g := generationAt(l.e.Generations, c.Place)
	if g < 0 || first {
		return false
	}
	switch number := l.e.Generations[g].Number; {
	case l.tenureIn(g, c.At) >= 0:
		return true
	case len(l.e.Generations[g].Members) > 0:
		l.found("S2", l.p, c.Offset, c.Offset, "committed in generation %d, in which nobody held the partition", number)
	case slices.ContainsFunc(l.e.Generations[:g], func(g Generation) bool { return len(g.Members) > 0 }):
		l.found("S2", l.p, c.Offset, c.Offset, "committed in generation %d, while the group was empty", number)
	}
	return false
}

// coverage checks that the owner at the moment of a commit had delivered what the
// commit covers beyond the one that its tenure began at. Without order, acks above
// the committed offset outlive a tenure, so nothing follows there.
func (l *ledger) coverage(commit int) {
	c := l.e.Commits[commit]
	top := lowerBound(l.visible, c.Offset) - 1
	t := l.tenureIn(generationAt(l.e.Generations, c.Place), c.At)
	if l.e.Unordered || top < 0 || l.visible[top] < l.tenures[t].committed {
		return
	}
	if l.deliveredBy(t, c.At.Add(commitClock)) < l.visible[top] {
		l.found("S2", l.p, l.visible[top], l.visible[top], "committed in the tenure of %s, which had not delivered it", l.tenures[t].owner.Client)
	}
}

// deliveredBy is the highest offset that a tenure had delivered at a time; -1 for none.
func (l *ledger) deliveredBy(tenure int, at time.Time) int64 {
	marks := l.tenures[tenure].marks
	n, _ := slices.BinarySearchFunc(marks, at, func(m mark, at time.Time) int { return m.at.Compare(at) })
	if n == 0 {
		return -1
	}
	return marks[n-1].last
}

// completeness checks that everything was done.
func (l *ledger) completeness() {
	for _, offset := range l.visible {
		if _, ok := l.settled[offset]; !ok {
			l.found("L1", l.p, offset, offset, "never acked")
		}
	}
	committed, ok := l.e.Committed[l.p]
	if end := l.e.Ends[l.p]; !ok && end > 0 {
		l.found("L2", l.p, 0, end, "nothing is committed")
	} else if ok && committed != end {
		l.found("L2", l.p, committed, end, "the committed offset is not the end")
	}
}
