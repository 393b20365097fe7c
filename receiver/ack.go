package receiver

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	// longestDelay is the longest that a nack may put a delivery off and an extension
	// may last (contract of POST /ack).
	longestDelay = 24 * time.Hour

	// maxReason is how many bytes of a reason are sent.
	maxReason = 1024
)

// ErrAck means that an Ack does not fit, in itself or to its delivery.
var ErrAck = errors.New("the ack does not fit")

// Ack is a receiver's statement about a delivery: returned by Handler.Deliver, it
// is the answer to the request, and given to an Acker it is sent by POST /ack. The
// functions AckAll, AckUpTo, Nack, Extend, Reject, Partial and Later make one.
//
// The zero Ack says that all went well. As an answer it is a plain 200, which acks
// the delivery unless the webhook's ack.mode is "explicit"; AckAll acks it in
// either mode.
type Ack struct {
	Outcome  Outcome
	UpTo     int64         // OutcomeUpTo
	Delay    time.Duration // OutcomeNack
	Extend   time.Duration // OutcomeExtend
	Reason   string        // OutcomeNack, OutcomeReject: for people
	Failures []Failure     // OutcomePartial
}

// Outcome is what became of a delivery.
type Outcome string

// Outcomes; the empty one is a plain 200.
const (
	OutcomeAck     Outcome = "ack"
	OutcomeUpTo    Outcome = "up_to_offset"
	OutcomeNack    Outcome = "nack"
	OutcomeExtend  Outcome = "extend"
	OutcomeReject  Outcome = "reject"
	OutcomePartial Outcome = "partial"
	OutcomeLater   Outcome = "later"
)

// Failure is what is to be done about one record of a delivery.
type Failure struct {
	Offset int64  `json:"offset"`
	Action Action `json:"action"`
	Reason string `json:"reason,omitempty"`
}

// Action is what is to be done about a record.
type Action string

// Actions.
const (
	ActionRetry      Action = "retry"       // send it again
	ActionDeadLetter Action = "dead_letter" // to the webhook's dead-letter topic
	ActionSkip       Action = "skip"        // give it up
)

// AckAll acks the whole delivery.
func AckAll() Ack { return Ack{Outcome: OutcomeAck} }

// AckUpTo acks the head of a delivery, the record at offset included. The rest is
// sent again, once its deadline has passed, as a delivery of its own.
func AckUpTo(offset int64) Ack { return Ack{Outcome: OutcomeUpTo, UpTo: offset} }

// Nack asks for the delivery again after a delay of at most 24 hours. It counts as
// a failed attempt. Of the reason, which is for people, 1024 bytes are sent.
func Nack(delay time.Duration, reason string) Ack {
	return Ack{Outcome: OutcomeNack, Delay: delay, Reason: reason}
}

// Extend says that the ack comes later, and sets its deadline to d from now, at most
// 24 hours and the webhook's ack.max_timeout_ms. It may be said again and again.
func Extend(d time.Duration) Ack { return Ack{Outcome: OutcomeExtend, Extend: d} }

// Reject gives the whole delivery up: the webhook's on_exhausted decides what becomes
// of it. Of the reason, which goes with dead letters, 1024 bytes are sent.
func Reject(reason string) Ack { return Ack{Outcome: OutcomeReject, Reason: reason} }

// Partial acks all records but those listed, each once; without any it is AckAll. A
// record can only be dead-lettered where the webhook has a topic for that.
func Partial(failures ...Failure) Ack { return Ack{Outcome: OutcomePartial, Failures: failures} }

// Later says that the delivery was received, and that the ack comes by POST /ack,
// before Ticket.Timeout has passed. The answer is 202.
func Later() Ack { return Ack{Outcome: OutcomeLater} }

// statement is an Ack on its way: contract 5.2, without a token if inline.
type statement struct {
	Token    string    `json:"token,omitempty"`
	Outcome  Outcome   `json:"outcome"`
	UpTo     *int64    `json:"up_to_offset,omitempty"`
	DelayMs  *int64    `json:"delay_ms,omitempty"`
	ExtendMs *int64    `json:"extend_ms,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Failures []Failure `json:"failures,omitempty"`
}

// statement is what a says on the wire, or ErrAck. There is none for OutcomeLater.
func (a Ack) statement() (statement, error) {
	s := statement{Outcome: a.Outcome}
	switch a.Outcome {
	case "", OutcomeAck:
		s.Outcome = OutcomeAck
	case OutcomeUpTo:
		if a.UpTo < 0 {
			return s, fmt.Errorf("%w: offset %d is negative", ErrAck, a.UpTo)
		}
		s.Outcome, s.UpTo = OutcomeAck, &a.UpTo
	case OutcomeNack:
		if a.Delay < 0 {
			return s, fmt.Errorf("%w: a delay of %v is negative", ErrAck, a.Delay)
		}
		s.DelayMs, s.Reason = milliseconds(a.Delay), cut(a.Reason)
	case OutcomeExtend:
		if a.Extend <= 0 {
			return s, fmt.Errorf("%w: an extension by %v is none", ErrAck, a.Extend)
		}
		s.ExtendMs = milliseconds(a.Extend)
	case OutcomeReject:
		s.Reason = cut(a.Reason)
	case OutcomePartial:
		if len(a.Failures) == 0 {
			s.Outcome = OutcomeAck
		}
		for _, f := range a.Failures {
			switch f.Action {
			case ActionRetry, ActionDeadLetter, ActionSkip:
			default:
				return s, fmt.Errorf("%w: there is no action %q", ErrAck, f.Action)
			}
			f.Reason = cut(f.Reason)
			s.Failures = append(s.Failures, f)
		}
	default:
		return s, fmt.Errorf("%w: outcome %q cannot be sent", ErrAck, a.Outcome)
	}
	return s, nil
}

// fits returns ErrAck if a cannot be an answer to d.
func (a Ack) fits(d *Delivery) error {
	if a.Outcome != OutcomeLater {
		if _, err := a.statement(); err != nil {
			return err
		}
	}
	within := func(offset int64) error {
		if offset < d.FirstOffset || offset > d.LastOffset {
			return fmt.Errorf("%w: offset %d is not in %d..%d", ErrAck, offset, d.FirstOffset, d.LastOffset)
		}
		return nil
	}
	if a.Outcome == OutcomeUpTo {
		return within(a.UpTo)
	}
	for _, f := range a.Failures {
		if err := within(f.Offset); err != nil {
			return err
		}
	}
	return nil
}

// processed are the records of d that a says are done with, so that they need not
// be processed again. Of a record that is acked later nothing is known yet.
func (a Ack) processed(d *Delivery) []Record {
	switch a.Outcome {
	case "", OutcomeAck:
		return d.Records
	case OutcomeUpTo:
		n := 0
		for n < len(d.Records) && d.Records[n].Offset <= a.UpTo {
			n++
		}
		return d.Records[:n]
	case OutcomePartial:
		failed := make(map[int64]bool, len(a.Failures))
		for _, f := range a.Failures {
			failed[f.Offset] = true
		}
		var done []Record
		for _, r := range d.Records {
			if !failed[r.Offset] {
				done = append(done, r)
			}
		}
		return done
	}
	return nil
}

// milliseconds rounds up: no delay is shorter than was asked for.
func milliseconds(d time.Duration) *int64 {
	return new((min(d, longestDelay) + time.Millisecond - 1).Milliseconds())
}

// cut shortens a text for people to what the gateway takes, at the end of a character.
func cut(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "")
	}
	return s
}
