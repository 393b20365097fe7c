package acker

import (
	"errors"
	"fmt"
)

// Outcome is what the receiver decided about a delivery.
type Outcome uint8

// The outcomes a statement may have.
const (
	Ack     Outcome = iota // done with it
	Nack                   // send it again
	Extend                 // not done yet, needs longer
	Reject                 // give it up, as if its attempts were used up
	Partial                // done with it, but for some records
)

// String returns the outcome in lower case, as receivers write it.
func (o Outcome) String() string {
	switch o {
	case Ack:
		return "ack"
	case Nack:
		return "nack"
	case Extend:
		return "extend"
	case Reject:
		return "reject"
	case Partial:
		return "partial"
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// Everything, as the First of a statement, means all that was sent in this
// tenure up to the offset named: the statement came by fields.
const Everything int64 = -1

// Statement is what a receiver says, whichever way it came: by status, inline,
// by token or by fields.
type Statement struct {
	Outcome Outcome
	First   int64 // first offset of the delivery meant, as it was sent; or Everything
	Last    int64 // last offset of the delivery meant, as it was sent; with Everything the same as UpTo
	UpTo    int64 // last offset acked, inclusive: Last for all of it; only an ack looks at it

	Failures []Failure // of a Partial: ascending, one for each offset
}

// Answer is the answer to a statement that was counted.
type Answer struct {
	Repeat    bool        // everything meant was so already; nothing moved
	Cover     int64       // once this offset is committed, nothing acked here is delivered again; -1 unless something was acked
	BlockedBy int64       // for an ack, the lowest open record if it lies below what was acked, and for a partial one if it lies in it; otherwise -1
	Touched   []*Delivery // those that changed or, for all but an ack, those meant; valid until the next Apply
	Pieces    []Piece     // of a Partial that is no repeat: what was not acked, ascending
}

// Refusals of a statement. Nothing moved.
var (
	// ErrConflict means that another outcome already stands.
	ErrConflict = errors.New("another outcome already stands")
	// ErrOutOfRange means that the statement names an offset that was never
	// sent in this tenure: outside of what was entered, in a hole between
	// records, or not the bounds of a delivery.
	ErrOutOfRange = errors.New("offset was never delivered in this tenure")
)

// Apply counts a statement, wholly or not at all: it is the one door by which
// a receiver's word reaches the books. An ack settles the records from First to
// UpTo and leaves the rest of a delivery open as it stands. The others are
// about what is still open between First and Last.
//
// It refuses with ErrOutOfRange what was never sent, and with ErrConflict an
// ack of a delivery nacked or rejected, one of these after the other, a nack,
// reject or extend of what is settled, and an extend of a delivery that nobody holds. A statement that says again what already is
// so is counted as a repeat.
func (l *Ledger) Apply(s Statement) (Answer, error) {
	switch s.Outcome {
	case Ack:
		return l.ack(s)
	case Nack:
		return l.nack(s)
	case Extend:
		return l.extend(s)
	case Reject:
		return l.reject(s)
	case Partial:
		return l.partial(s)
	}
	return Answer{}, fmt.Errorf("applying a statement: %v is not an outcome", s.Outcome)
}

func (l *Ledger) ack(s Statement) (Answer, error) {
	meant, err := l.meant(s, s.UpTo)
	if err != nil {
		return Answer{}, err
	}
	for _, d := range meant {
		if d.stands() {
			return Answer{}, ErrConflict
		}
	}
	for _, d := range meant {
		l.settleThrough(d, s.UpTo)
	}
	l.release()
	answer := Answer{Repeat: len(meant) == 0, Cover: s.UpTo + 1, BlockedBy: -1, Touched: meant}
	if next := l.Next(); next <= s.UpTo {
		answer.BlockedBy = next
	}
	return answer, nil
}

func (l *Ledger) nack(s Statement) (Answer, error) { return l.refuse(s, Nacked) }

func (l *Ledger) extend(s Statement) (Answer, error) {
	meant, err := l.meant(s, s.Last)
	if err != nil {
		return Answer{}, err
	}
	if len(meant) == 0 {
		return Answer{}, ErrConflict
	}
	for _, d := range meant {
		if d.state != Sent && d.state != Leased {
			return Answer{}, ErrConflict
		}
	}
	return Answer{Cover: -1, BlockedBy: -1, Touched: meant}, nil
}

// meant returns the deliveries with open records that a statement about the
// offsets up to upTo is about, or ErrOutOfRange. It changes nothing. Below Next
// the books no longer know where the holes were; there everything is settled,
// and no delivery is meant.
func (l *Ledger) meant(s Statement, upTo int64) ([]*Delivery, error) {
	first, last := s.First, s.Last
	if first == Everything {
		first, last = l.first, upTo
	}
	if l.first < 0 || first < l.first || upTo < first || upTo > last || last > l.lastSent {
		return nil, ErrOutOfRange
	}
	l.touched = l.touched[:0]
	if upTo < l.Next() {
		return l.touched, nil
	}
	from, to := l.search(first), l.search(upTo)
	if d := l.deliveries[to]; !d.sent || !d.holds(upTo) {
		return nil, ErrOutOfRange
	}
	// Deliveries only ever shrink from the front or split, so the bounds of
	// one that was sent never fall inside the open part of another.
	if s.First != Everything && (l.deliveries[from].first < first || l.deliveries[l.search(last)].Last() != last) {
		return nil, ErrOutOfRange
	}
	for _, d := range l.deliveries[from : to+1] {
		if d.state == Settled || d.first > upTo {
			continue
		}
		if d.sent {
			l.touched = append(l.touched, d)
		} else if s.First != Everything {
			return nil, ErrOutOfRange
		}
	}
	return l.touched, nil
}
