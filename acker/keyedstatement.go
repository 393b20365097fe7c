package acker

import "fmt"

// Apply counts a statement, wholly or not at all, as [Ledger.Apply] does. Everything
// up to an offset means the records of the deliveries sent; what waits for its key
// below it was not delivered, and stays open.
func (k *KeyedLedger) Apply(s Statement) (Answer, error) {
	upTo := s.Last
	if s.Outcome == Ack {
		upTo = s.UpTo
	}
	meant, err := k.meant(s, upTo)
	if err != nil {
		return Answer{}, err
	}
	answer := Answer{Cover: -1, BlockedBy: -1, Touched: meant}
	switch s.Outcome {
	case Ack:
		if anyIn(meant, Nacked, Rejected) {
			return Answer{}, ErrConflict
		}
		for _, d := range meant {
			k.settleThrough(d, upTo)
		}
		k.release()
		answer.Repeat, answer.Cover = len(meant) == 0, upTo+1
		if next := k.Next(); next <= upTo {
			answer.BlockedBy = next
		}
	case Nack:
		return refuse(meant, Nacked)
	case Reject:
		return refuse(meant, Rejected)
	case Extend:
		if len(meant) == 0 || anyIn(meant, Waiting, Nacked, Rejected) {
			return Answer{}, ErrConflict
		}
	case Partial:
		return k.partial(s, meant)
	default:
		return Answer{}, fmt.Errorf("applying a statement: %v is not an outcome", s.Outcome)
	}
	return answer, nil
}

// partial is that of a Ledger.
func (k *KeyedLedger) partial(s Statement, meant []*Delivery) (Answer, error) {
	if s.First == Everything {
		return Answer{}, ErrOutOfRange
	}
	next, end := k.Next(), k.find(s.Last)
	err := partialFits(s, meant, func(offset int64) (settled, ok bool) {
		if offset < next {
			return true, true
		}
		d := k.find(offset)
		return d != nil && offset < d.first, d != nil && d.akin(end)
	})
	if err != nil {
		return Answer{}, err
	}
	answer := Answer{Repeat: true, Cover: s.Last + 1, BlockedBy: -1, Touched: meant}
	for _, d := range meant {
		if !d.stands() {
			answer.Repeat = false
			answer.Pieces = carve(d, within(s.Failures, d), answer.Pieces, k.cut, k.settleThrough)
		}
	}
	k.release()
	if next := k.Next(); next <= s.Last {
		answer.BlockedBy = next
	}
	return answer, nil
}

// Means says whether a statement about what was sent as one delivery is about d, or
// may be: below Next the books no longer know.
func (k *KeyedLedger) Means(s Statement, d *Delivery) bool {
	return s.First == Everything || s.Last < k.Next() || d.akin(k.find(s.Last))
}

// anyIn says whether any of the deliveries is in one of the states.
func anyIn(deliveries []*Delivery, states ...State) bool {
	for _, d := range deliveries {
		for _, s := range states {
			if d.state == s {
				return true
			}
		}
	}
	return false
}

// meant returns the deliveries with open records that a statement about the offsets
// up to upTo is about, or ErrOutOfRange. It changes nothing. Below Next everything is
// settled, and no delivery is meant.
func (k *KeyedLedger) meant(s Statement, upTo int64) ([]*Delivery, error) {
	first, last := s.First, s.Last
	if first == Everything {
		first, last = k.first, upTo
	}
	if k.first < 0 || first < k.first || upTo < first || upTo > last || last > k.lastSent {
		return nil, ErrOutOfRange
	}
	k.touched = k.touched[:0]
	if upTo < k.Next() {
		return k.touched, nil
	}
	at := k.find(upTo)
	if at == nil || !at.sent {
		return nil, ErrOutOfRange
	}
	if s.First != Everything {
		return k.meantByBounds(at, first, last, upTo)
	}
	for _, d := range k.open {
		if d.sent && d.first <= upTo {
			k.touched = append(k.touched, d)
		}
	}
	return k.touched, nil
}

// meantByBounds is meant for a statement about what was sent as one delivery, of
// which at holds upTo.
func (k *KeyedLedger) meantByBounds(at *Delivery, first, last, upTo int64) ([]*Delivery, error) {
	end := k.find(last)
	if end == nil || end.Last() != last || !at.akin(end) || first >= k.Next() && !at.akin(k.find(first)) {
		return nil, ErrOutOfRange
	}
	for _, d := range at.parts() {
		if d.Last() < first || d.first > upTo && d.first > last {
			continue
		}
		// Parts only ever shrink from the front or split, so the bounds of one that
		// was sent never fall inside the open part of another.
		if d.first < first {
			return nil, ErrOutOfRange
		}
		if d.state == Settled || d.first > upTo {
			continue
		}
		if !d.sent {
			return nil, ErrOutOfRange
		}
		k.touched = append(k.touched, d)
	}
	return k.touched, nil
}
