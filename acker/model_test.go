package acker

import (
	"fmt"
	"slices"
	"time"
)

// model is the rules of the ledger said record by record and without a thought
// for cost: each record knows its offset, its delivery and whether it is
// settled; everything else follows by looking at all of them.
type model struct {
	records  []modelRecord // all of this tenure, ascending
	resumed  []Run         // settled by an earlier tenure
	position int64
	lastSent int64
}

type modelRecord struct {
	offset  int64
	in      *modelDelivery
	settled bool
}

type modelDelivery struct {
	state        State // of its open records
	sent         bool
	attempts     int
	firstAttempt time.Time
}

func newModel() *model { return &model{position: -1, lastSent: -1} }

func (m *model) deliver(runs []Run) (*modelDelivery, bool) {
	last := int64(-1)
	if n := len(m.records); n > 0 {
		last = m.records[n-1].offset
	}
	last = max(last, m.position-1)
	d := &modelDelivery{state: Waiting}
	entered := slices.Clone(m.records)
	for i, r := range runs {
		if r.Last < r.First || i > 0 && r.First == last+1 {
			return nil, false
		}
		for o := r.First; o <= r.Last; o++ {
			if o <= last {
				return nil, false
			}
			entered = append(entered, modelRecord{offset: o, in: d})
			last = o
		}
	}
	if len(runs) == 0 {
		return nil, false
	}
	for o := runs[0].First; o <= last; o++ {
		if m.before(o) {
			return nil, false
		}
	}
	m.records = entered
	return d, true
}

// before says whether an earlier tenure settled offset.
func (m *model) before(offset int64) bool {
	return slices.ContainsFunc(m.resumed, func(r Run) bool { return r.First <= offset && offset <= r.Last })
}

func (m *model) send(d *modelDelivery, at time.Time) int {
	_, last, open := m.extent(d)
	if open == 0 || d.state != Waiting && d.state != Nacked && d.state != Rejected {
		return 0
	}
	d.state, d.sent = Sent, true
	d.attempts++
	if d.firstAttempt.IsZero() {
		d.firstAttempt = at
	}
	m.lastSent = max(m.lastSent, last)
	return d.attempts
}

// move takes d from one of the states to another and says whether it did.
func (m *model) move(d *modelDelivery, to State, from ...State) bool {
	if !slices.Contains(from, m.state(d)) {
		return false
	}
	d.state = to
	return true
}

func (m *model) settle(d *modelDelivery) {
	for i := range m.records {
		if m.records[i].in == d {
			m.records[i].settled = true
		}
	}
}

func (m *model) split(d *modelDelivery, n int) *modelDelivery {
	if _, _, open := m.extent(d); n < 1 || n >= open {
		return nil
	}
	if d.state != Nacked && d.state != Rejected {
		d.state = Waiting
	}
	tail := *d
	for i := range m.records {
		r := &m.records[i]
		if r.in != d || r.settled {
			continue
		}
		if n == 0 {
			r.in = &tail
		} else {
			n--
		}
	}
	return &tail
}

// verdict is an Answer, or a refusal, with the deliveries of the model.
type verdict struct {
	err              error
	repeat           bool
	cover, blockedBy int64
	touched          []*modelDelivery
	pieces           []modelPiece
}

type modelPiece struct {
	*modelDelivery
	action Action
}

func (m *model) apply(s Statement) verdict {
	upTo := s.UpTo
	if s.Outcome != Ack {
		upTo = s.Last
	}
	meant, ok := m.meant(s, upTo)
	return m.judge(s, upTo, meant, ok)
}

// judge counts a statement about the records meant; ok: none is out of range.
func (m *model) judge(s Statement, upTo int64, meant []*modelRecord, ok bool) verdict {
	if !ok {
		return verdict{err: ErrOutOfRange}
	}
	v := verdict{cover: -1, blockedBy: -1}
	for _, r := range meant {
		if !slices.Contains(v.touched, r.in) {
			v.touched = append(v.touched, r.in)
		}
	}
	stands := func(states ...State) bool {
		return slices.ContainsFunc(v.touched, func(d *modelDelivery) bool { return slices.Contains(states, d.state) })
	}
	switch {
	case s.Outcome == Partial:
		return m.partial(s, meant, v)
	case s.Outcome == Ack && stands(Nacked, Rejected),
		s.Outcome != Ack && len(meant) == 0,
		s.Outcome == Nack && stands(Rejected),
		s.Outcome == Reject && stands(Nacked),
		s.Outcome == Extend && stands(Waiting, Nacked, Rejected):
		return verdict{err: ErrConflict}
	case s.Outcome == Ack:
		for _, r := range meant {
			r.settled = true
		}
		v.repeat = len(meant) == 0
		v.cover = upTo + 1
		if next := m.next(); next <= upTo {
			v.blockedBy = next
		}
	case s.Outcome == Nack:
		v.repeat = !stands(Waiting, Sent, Leased)
		for _, d := range v.touched {
			d.state = Nacked
		}
	case s.Outcome == Reject:
		v.repeat = !stands(Waiting, Sent, Leased)
		for _, d := range v.touched {
			d.state = Rejected
		}
	}
	return v
}

// partial counts what a Partial statement says of each record that it is about.
func (m *model) partial(s Statement, meant []*modelRecord, v verdict) verdict {
	if s.First == Everything {
		return verdict{err: ErrOutOfRange}
	}
	said := map[int64]Action{}
	conflict := false
	for i, f := range s.Failures {
		at := slices.IndexFunc(m.records, func(r modelRecord) bool { return r.offset == f.Offset })
		if f.Offset < s.First || f.Offset > s.Last || i > 0 && f.Offset <= s.Failures[i-1].Offset || at < 0 && f.Offset >= m.next() {
			return verdict{err: ErrOutOfRange}
		}
		said[f.Offset] = f.Action
		conflict = conflict || f.Action == Retry && (at < 0 || m.records[at].settled)
	}
	v.repeat = true
	for _, r := range meant {
		action, listed := said[r.offset]
		switch r.in.state {
		case Nacked:
			conflict = conflict || !listed || action != Retry
		case Rejected:
			conflict = conflict || !listed || action != DeadLetter
		default:
			v.repeat = false
		}
	}
	if conflict {
		return verdict{err: ErrConflict}
	}
	type part struct {
		of     *modelDelivery
		listed bool
		action Action
	}
	var last part
	var in *modelDelivery
	for _, r := range meant {
		of := r.in
		if of.state == Nacked || of.state == Rejected {
			continue
		}
		action, listed := said[r.offset]
		if now := (part{of, listed, action}); now != last || in == nil {
			if in = of; last.of == of {
				in = &modelDelivery{of.state, of.sent, of.attempts, of.firstAttempt}
			}
			last = now
			if listed {
				v.pieces = append(v.pieces, modelPiece{in, action})
			}
		}
		r.in = in
		r.settled = !listed || action == Skip
	}
	for _, p := range v.pieces {
		p.state = map[Action]State{Retry: Nacked, DeadLetter: Rejected, Skip: Waiting}[p.action]
	}
	v.cover = s.Last + 1
	if next := m.next(); next <= s.Last {
		v.blockedBy = next
	}
	return v
}

// meant is the open records a statement is about; false: out of range.
func (m *model) meant(s Statement, upTo int64) ([]*modelRecord, bool) {
	byFields := s.First == Everything
	if upTo > m.lastSent || len(m.records) == 0 || upTo < m.records[0].offset {
		return nil, false
	}
	if !byFields && (s.First < m.records[0].offset || s.Last > m.lastSent || upTo < s.First || upTo > s.Last) {
		return nil, false
	}
	if upTo < m.next() {
		return nil, true
	}
	var meant []*modelRecord
	delivered, bounds, unsent := false, byFields, false
	for i := range m.records {
		r := &m.records[i]
		_, last, _ := m.extent(r.in)
		delivered = delivered || r.offset == upTo && r.in.sent
		bounds = bounds || last == s.Last
		if r.settled || r.offset > upTo && s.Outcome == Ack {
			continue
		}
		if !byFields && r.offset < s.First && last >= s.First {
			return nil, false // the statement begins inside of an open delivery
		}
		if r.offset <= upTo && r.offset >= s.First {
			unsent = unsent || !r.in.sent
			if r.in.sent {
				meant = append(meant, r)
			}
		}
	}
	return meant, delivered && bounds && (byFields || !unsent)
}

// extent is what is left of d: the first open offset, the last offset, open or
// not, and the number of open records.
func (m *model) extent(d *modelDelivery) (first, last int64, open int) {
	for _, r := range m.records {
		if r.in != d {
			continue
		}
		last = r.offset
		if r.settled {
			continue
		}
		if open == 0 {
			first = r.offset
		}
		open++
	}
	if open == 0 {
		first = last + 1
	}
	return first, last, open
}

func (m *model) state(d *modelDelivery) State {
	if _, _, open := m.extent(d); open == 0 {
		return Settled
	}
	return d.state
}

func (m *model) next() int64 {
	for _, r := range m.records {
		if !r.settled {
			return r.offset
		}
	}
	next := m.known()
	for m.before(next) {
		next++
	}
	return next
}

// known is the end of what was read; -1 when nothing was.
func (m *model) known() int64 {
	if n := len(m.records); n > 0 {
		return max(m.position, m.records[n-1].offset+1)
	}
	return m.position
}

// len counts the deliveries from the one that holds Next on.
func (m *model) len() int {
	n, next := 0, m.next()
	var in *modelDelivery
	for _, r := range m.records {
		if r.offset >= next && r.in != in {
			in = r.in
			n++
		}
	}
	return n
}

// mark is what an offset is to the next tenure.
type mark uint8

const (
	hole mark = iota // read, and no record
	settled
	open // to be delivered, maybe: not settled, or not read yet
)

func (m *model) marks() (marks [logSize + 1]mark) {
	for offset := max(m.known(), 0); offset < int64(len(marks)); offset++ {
		marks[offset] = open
	}
	for _, r := range m.records {
		if marks[r.offset] = open; r.settled {
			marks[r.offset] = settled
		}
	}
	for _, r := range m.resumed {
		for offset := r.First; offset <= r.Last; offset++ {
			marks[offset] = settled
		}
	}
	return marks
}

// checkAcked says what is wrong with runs as those settled above Next.
func (m *model) checkAcked(runs []Run) error {
	if len(runs) > 0 && runs[0].First <= m.next() {
		return fmt.Errorf("acked %v: not above %d", runs, m.next())
	}
	marks, parted := m.marks(), true
	for offset, rest := max(m.next(), 0), runs; offset < int64(len(marks)); offset++ {
		if len(rest) > 0 && rest[0].Last < offset {
			rest = rest[1:]
		}
		in := len(rest) > 0 && rest[0].First <= offset
		switch {
		case marks[offset] == settled && !in:
			return fmt.Errorf("acked %v: %d is missing", runs, offset)
		case marks[offset] == open && in:
			return fmt.Errorf("acked %v: %d is open", runs, offset)
		case in && rest[0].First == offset && !parted:
			return fmt.Errorf("acked %v: nothing is open before %d", runs, offset)
		}
		parted = !in && (parted || marks[offset] == open)
	}
	return nil
}
