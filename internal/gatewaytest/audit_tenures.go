package gatewaytest

import (
	"slices"
	"time"
)

// tenure is the time in which one member held a partition, as the group's
// generations tell it: those from index from on, up to and without to.
type tenure struct {
	owner     Member
	from, to  int
	began     time.Time
	ended     time.Time // zero while it lasts
	committed int64     // the last commit before it began; -1 for none
	marks     []mark    // one for each delivery that raised the highest offset
}

// mark is the highest offset that a tenure had delivered from a time on.
type mark struct {
	at   time.Time
	last int64
}

// tenuresOf are the tenures of a partition in order.
func tenuresOf(p Partition, generations []Generation, commits []Commit) []tenure {
	var out []tenure
	for i := range generations {
		g := &generations[i]
		owner := g.owner(p)
		if n := len(out); n > 0 && out[n-1].to == i {
			if last := &out[n-1]; owner != nil && owner.ID == last.owner.ID {
				last.to = i + 1
				continue
			}
			out[n-1].ended = g.At
		}
		if owner != nil {
			out = append(out, tenure{owner: *owner, from: i, to: i + 1, began: g.At, committed: committedBefore(p, commits, g.Place)})
		}
	}
	return out
}

// committedBefore is the last commit of a partition before a place in the log.
func committedBefore(p Partition, commits []Commit, place int64) int64 {
	out := int64(-1)
	for _, c := range commits {
		if c.Partition == p && c.Place < place {
			out = c.Offset
		}
	}
	return out
}

// generationAt is the index of the generation that a place in the log falls
// into; -1 before the first.
func generationAt(generations []Generation, place int64) int {
	out := -1
	for i := range generations {
		if generations[i].Place < place {
			out = i
		}
	}
	return out
}

// rebalances is how often a group with members got a new generation.
func rebalances(generations []Generation) int {
	numbers := map[int32]bool{}
	for _, g := range generations {
		if len(g.Members) > 0 {
			numbers[g.Number] = true
		}
	}
	return max(0, len(numbers)-1)
}

// tenureIn is the tenure that could act for the partition in a generation: its
// owner's, or, while nobody has followed, the former owner's, if it is still a
// member. That one gives the partition up in the generation that takes it away.
// In a later one it may hold it by right if it was never told of those before: when
// a coordinator dies after it wrote an assignment down and before it told it, the
// members join again with what they know. Then its own log has to say that it
// holds the partition. -1: none.
func (l *ledger) tenureIn(generation int, at time.Time) int {
	for i := range l.tenures {
		t := &l.tenures[i]
		if t.from <= generation && generation < t.to {
			return i
		}
		if l.unfollowed(t, generation) && (t.to == generation || l.held(t.owner.Client, at)) {
			return i
		}
	}
	return -1
}

// unfollowed tells whether the owner of a tenure that has ended has been a member
// up to a generation, and nobody else an owner.
func (l *ledger) unfollowed(t *tenure, generation int) bool {
	if generation < t.to {
		return false
	}
	for _, g := range l.e.Generations[t.to : generation+1] {
		if g.owner(l.p) != nil || g.member(t.owner.ID) == nil {
			return false
		}
	}
	return true
}

// held tells whether a gateway's own log says that it held the partition at a time.
func (l *ledger) held(client string, at time.Time) bool {
	return slices.ContainsFunc(l.e.Holdings, func(h Holding) bool {
		return h.Client == client && h.Partition == l.p && !at.Before(h.From.Add(-stampClock)) &&
			(h.To.IsZero() || !at.After(h.To.Add(stampClock)))
	})
}

// stampClock is how much earlier than the broker's stamp on a generation its
// members may seem to act on it.
const stampClock = 5 * time.Millisecond

// holder is the tenure of a delivery or an ack that names a generation; -1 if
// there was none. A static member that came back has two tenures in one
// generation, which time tells apart. A member knows the number of a generation
// before the broker has written down who holds what in it, and if the coordinator
// dies meanwhile the number is given once more: until it is written, the
// assignment before it stands.
func (l *ledger) holder(number int32, at time.Time) int {
	out := -1
	for i := range l.e.Generations {
		g := &l.e.Generations[i]
		if g.At.After(at.Add(stampClock)) {
			break
		}
		if g.Number <= number && len(g.Members) > 0 {
			out = i
		}
	}
	if out < 0 {
		return -1
	}
	return l.tenureIn(out, at)
}

// hold enters a delivery in its tenure's marks.
func (l *ledger) hold(d *Delivery, holder int) {
	if holder < 0 {
		return
	}
	t := &l.tenures[holder]
	if n := len(t.marks); n == 0 || t.marks[n-1].last < d.Last() {
		t.marks = append(t.marks, mark{d.Arrived, d.Last()})
	}
}

// handOvers checks what the deliveries of one tenure do to those of another.
func (l *ledger) handOvers() {
	var (
		known  = len(l.e.Generations) > 0
		newest = -1 // tenure
		late   = map[int]int{}
		again  = map[int]int{} // records by tenure
	)
	for i, d := range l.deliveries {
		holder := l.holders[i]
		if known && holder < 0 {
			l.found("O4", l.p, d.First(), d.Last(), "delivered in generation %d, in which nobody held the partition", d.Generation)
		}
		if i > 0 {
			l.together(l.deliveries[i-1], d, l.holders[i-1] == holder)
		}
		switch {
		case holder > newest:
			newest = holder
			l.beginning(d, holder)
		case holder < newest && known:
			if late[holder]++; late[holder] > l.e.Zombies {
				l.found("O4", l.p, d.First(), d.Last(), "delivered in generation %d after a later tenure had begun", d.Generation)
			}
		}
		l.duplicates(d, holder, again)
	}
}

// together checks that two deliveries, one after the other, were not under way at once.
func (l *ledger) together(before, d *Delivery, same bool) {
	if l.e.Unordered || !d.Arrived.Before(before.Answered) || !same && l.e.Zombies > 0 {
		return
	}
	l.found("O4", l.p, d.First(), d.Last(), "arrived while %d..%d was still to be answered", before.First(), before.Last())
}

// beginning checks the first delivery of a tenure.
func (l *ledger) beginning(d *Delivery, holder int) {
	if l.e.Unordered {
		return
	}
	committed := l.tenures[holder].committed
	at := lowerBound(l.visible, committed)
	if at < len(l.visible) && d.First() != l.visible[at] {
		l.found("O3", l.p, d.First(), d.Last(), "%s began here, though %d was committed", l.tenures[holder].owner.Client, committed)
	}
}

// duplicates counts the records of a delivery that had been acked before, by the
// reason they came again for.
func (l *ledger) duplicates(d *Delivery, holder int, again map[int]int) {
	for _, r := range d.Records {
		if at, ok := l.settled[r.Offset]; !ok || at.IsZero() || !at.Before(d.Arrived) {
			continue
		}
		l.report.Duplicates++
		if holder >= 0 && l.followsHardEnd(holder) {
			if again[holder]++; l.e.Window > 0 && again[holder] > l.e.Window {
				l.found("D2", l.p, r.Offset, r.Offset, "came again, beyond the %d that may after a hard end", l.e.Window)
			}
		} else if l.e.Clean {
			l.found("D1", l.p, r.Offset, r.Offset, "came again after it was acked")
		}
	}
}

// followsHardEnd tells whether what a tenure delivers again may be owed to a
// replica that ended the hard way: the one before, or an earlier one if nothing
// was committed since.
func (l *ledger) followsHardEnd(holder int) bool {
	for i := holder - 1; i >= 0; i-- {
		before := &l.tenures[i]
		for _, end := range l.e.Hard {
			if end.Client == before.owner.Client && !end.At.Before(before.began.Add(-stampClock)) && (before.ended.IsZero() || !end.At.After(before.ended)) {
				return true
			}
		}
		if before.committed != l.tenures[holder].committed {
			return false
		}
	}
	return false
}
