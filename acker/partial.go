package acker

import (
	"fmt"
	"slices"
)

// Action is what is to become of a record that a receiver could not take.
type Action uint8

// The actions a Failure may name.
const (
	Retry      Action = iota // send it again
	DeadLetter               // give it up, once it is written to the dead letter topic
	Skip                     // give it up
)

// String returns the action in lower case, as receivers write it.
func (a Action) String() string {
	switch a {
	case Retry:
		return "retry"
	case DeadLetter:
		return "dead_letter"
	case Skip:
		return "skip"
	}
	return fmt.Sprintf("action(%d)", uint8(a))
}

// Failure is what a Partial statement says of one record.
type Failure struct {
	Offset int64
	Action Action
}

// Piece is a part of a delivery that a Partial statement did not ack: consecutive
// records with one action. It is a delivery of its own from then on: Nacked if it is to
// be sent again, Rejected if it is to be dead-lettered, Settled if it was skipped.
type Piece struct {
	*Delivery
	Of     *Delivery // what it was a part of; the first part is Of itself
	Action Action
	Whole  Run // its first and last record
	Count  int // of its records
}

// partial acks what is open between First and Last but for the failures. A failure that
// is settled already, as when the same is said again, has been given up or acked: to
// retry it conflicts, and to give it up is so already. What was nacked or rejected
// stands, and conflicts with anything else.
func (l *Ledger) partial(s Statement) (Answer, error) {
	meant, err := l.meant(s, s.Last)
	if err != nil || s.First == Everything {
		return Answer{}, ErrOutOfRange
	}
	next := l.Next()
	err = partialFits(s, meant, func(offset int64) (settled, ok bool) {
		if offset < next { // where the books no longer know of holes
			return true, true
		}
		d := l.deliveries[l.search(offset)]
		return offset < d.first, d.holds(offset)
	})
	if err != nil {
		return Answer{}, err
	}
	answer := Answer{Repeat: true, Cover: s.Last + 1, BlockedBy: -1, Touched: meant}
	for _, d := range meant {
		if !d.stands() {
			answer.Repeat = false
			at := l.search(d.Last()) + 1
			var made []*Delivery
			answer.Pieces = carve(d, within(s.Failures, d), answer.Pieces, func(part *Delivery, n int) *Delivery {
				rest := part.cut(n)
				made = append(made, rest)
				l.open++
				return rest
			}, l.settleThrough)
			l.deliveries = slices.Insert(l.deliveries, at, made...)
		}
	}
	l.release()
	if next := l.Next(); next <= s.Last {
		answer.BlockedBy = next
	}
	return answer, nil
}

// partialFits tells whether a Partial statement can be counted. look tells of an offset
// whether its record is settled, and whether it has one in what was sent.
func partialFits(s Statement, meant []*Delivery, look func(offset int64) (settled, ok bool)) error {
	least, conflict := s.First, false
	for _, f := range s.Failures {
		if f.Offset < least || f.Offset > s.Last {
			return ErrOutOfRange
		}
		least = f.Offset + 1
		settled, ok := look(f.Offset)
		if !ok {
			return ErrOutOfRange
		}
		conflict = conflict || settled && f.Action == Retry
	}
	for _, d := range meant {
		if !d.stands() {
			continue
		}
		same := within(s.Failures, d)
		other := func(f Failure) bool { return (f.Action == Retry) != (d.state == Nacked) || f.Action == Skip }
		conflict = conflict || len(same) != d.records || slices.ContainsFunc(same, other)
	}
	if conflict {
		return ErrConflict
	}
	return nil
}

// stands says whether the receiver has said already that it does not take d.
func (d *Delivery) stands() bool { return d.state == Nacked || d.state == Rejected }

// within are those of ascending failures that are about open records of d.
func within(failures []Failure, d *Delivery) []Failure {
	find := func(offset int64) int {
		i, _ := slices.BinarySearchFunc(failures, offset, func(f Failure, o int64) int {
			return int(max(-1, min(f.Offset-o, 1)))
		})
		return i
	}
	return failures[find(d.first):find(d.Last()+1)]
}

// carve cuts d where what is said of its records changes, settles what is acked or
// skipped, and appends the other pieces, and those skipped, to pieces. cut leaves the
// first n records to a part and returns the others; settle is settleThrough of the books.
func carve(d *Delivery, failures []Failure, pieces []Piece, cut func(part *Delivery, n int) *Delivery, settle func(*Delivery, int64)) []Piece {
	rest := d
	for stretches := stretchesOf(d, failures); len(stretches) > 0; stretches = stretches[1:] {
		part, s := rest, stretches[0]
		if len(stretches) > 1 {
			rest = cut(part, s.records)
		}
		whole := Run{part.First(), part.Last()}
		switch {
		case s.acked:
			settle(part, part.Last())
			continue
		case s.action == Retry:
			part.state = Nacked
		case s.action == DeadLetter:
			part.state = Rejected
		default:
			settle(part, part.Last())
		}
		pieces = append(pieces, Piece{part, d, s.action, whole, s.records})
	}
	return pieces
}

// stretch is consecutive records of which the same is said.
type stretch struct {
	records int
	acked   bool
	action  Action
}

// stretchesOf are the stretches of what is open of d.
func stretchesOf(d *Delivery, failures []Failure) []stretch {
	var stretches []stretch
	add := func(s stretch) {
		if n := len(stretches); n > 0 && stretches[n-1].acked == s.acked && stretches[n-1].action == s.action {
			stretches[n-1].records += s.records
			return
		}
		stretches = append(stretches, s)
	}
	for _, r := range d.runs[d.run(d.first):] {
		for offset := max(r.First, d.first); offset <= r.Last; {
			end := r.Last
			if len(failures) > 0 {
				if failures[0].Offset == offset {
					add(stretch{1, false, failures[0].Action})
					failures = failures[1:]
					offset++
					continue
				}
				end = min(end, failures[0].Offset-1)
			}
			add(stretch{int(end - offset + 1), true, 0})
			offset = end + 1
		}
	}
	return stretches
}

// reject gives up what is open between First and Last.
func (l *Ledger) reject(s Statement) (Answer, error) { return l.refuse(s, Rejected) }

// refuse puts what is meant into a state that stands until the next attempt is sent,
// unless another one does.
func (l *Ledger) refuse(s Statement, as State) (Answer, error) {
	meant, err := l.meant(s, s.Last)
	if err != nil {
		return Answer{}, err
	}
	return refuse(meant, as)
}

// refuse is what both ledgers do.
func refuse(meant []*Delivery, as State) (Answer, error) {
	repeat := true
	for _, d := range meant {
		if d.stands() && d.state != as {
			return Answer{}, ErrConflict
		}
		repeat = repeat && d.state == as
	}
	if len(meant) == 0 {
		return Answer{}, ErrConflict
	}
	for _, d := range meant {
		d.state = as
	}
	return Answer{Repeat: repeat, Cover: -1, BlockedBy: -1, Touched: meant}, nil
}
