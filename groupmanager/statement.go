package groupmanager

import (
	"slices"
	"time"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/webhooks/delivery"
)

// ask is a receiver's statement on its way to a lane. The reply has one slot, so
// that the partition never waits for the caller.
type ask struct {
	statement acker.Statement
	delay     time.Duration // nack
	extend    time.Duration // extend
	reply     chan<- reply
}

// reply is the lane's answer to an ask.
type reply struct {
	answer   acker.Answer
	deadline time.Time // extend
	err      error
}

// state takes a statement that came by POST /ack. When the lease is over, or the
// assignment was lost, somebody else may be the owner by now: nothing moves, and the
// reply is ErrNoOwner.
func (l *lane) state(a ask) {
	now := time.Now()
	if !l.lease.holds(now) || l.tenure.lost.Load() {
		a.reply <- reply{err: ErrNoOwner}
		return
	}
	answer, err := l.ledger.Apply(a.statement)
	r := reply{answer: answer, err: err}
	if err == nil {
		switch a.statement.Outcome {
		case acker.Nack:
			for _, o := range l.touched(answer.Touched) {
				if !answer.Repeat {
					l.nacked(o, now, a.delay, 0)
				}
			}
		case acker.Extend:
			for _, o := range l.touched(answer.Touched) {
				r.deadline = earlier(r.deadline, l.extended(o, now, a.extend))
			}
		default:
			l.shrunk(answer.Touched)
		}
		l.settle()
		if answer.Cover >= 0 && answer.BlockedBy < 0 {
			l.tell(true) // somebody may wait for the commit
		}
	}
	r.answer.Touched = nil // the ledger's own, and valid until its next call only
	a.reply <- r
}

// touched finds the deliveries of an answer.
func (l *lane) touched(books []*acker.Delivery) []*outgoing {
	var found []*outgoing
	for _, o := range l.open {
		if slices.Contains(books, o.book) {
			found = append(found, o)
		}
	}
	return found
}

// nacked plans the next attempt of a delivery that the receiver wants again. It
// counts as a failed attempt. With no delay asked for the usual backoff holds.
func (l *lane) nacked(o *outgoing, now time.Time, delay time.Duration, status int) {
	o.code, o.status = "nacked", status
	l.last = &AttemptError{Code: o.code, Status: status, At: now}
	l.retry(o, delivery.Result{Verdict: delivery.Failed, At: now})
	if delay > 0 && !o.exhaust && o.book.State() == acker.Nacked {
		o.due = now.Add(min(delay, l.webhook.Ack.MaxTimeout()))
	}
}

// extended moves a lease's deadline; before the response it is kept for it. What is
// told stands: the response comes later, so its limit does, too.
func (l *lane) extended(o *outgoing, now time.Time, by time.Duration) time.Time {
	answered := o.answered
	if answered.IsZero() {
		answered = now
	}
	o.deadline = earlier(now.Add(by), answered.Add(l.webhook.Ack.MaxTimeout()))
	return o.deadline
}

// shrunk marks deliveries whose head was acked: what is left is a delivery of its own.
func (l *lane) shrunk(books []*acker.Delivery) {
	for _, o := range l.touched(books) {
		o.stale = true
	}
}

// status is the lane's row of /partitions, without what Kafka knows.
func (l *lane) status(paused bool) PartitionStatus {
	s := PartitionStatus{
		Topic: l.tenure.topic, Partition: l.tenure.partition, Owner: l.owner,
		Generation: l.generation(), State: PartitionIdle,
		InFlight: l.inFlight, LastError: l.last,
	}
	if n := l.ledger.LastSent(); n >= 0 {
		s.DeliveredOffset = &n
	}
	if len(l.open) > 0 {
		o := l.open[0]
		s.Attempt = o.book.Attempts()
		switch {
		case o.inFlight:
			s.State = PartitionDelivering
		case o.book.State() == acker.Leased:
			s.State = PartitionWaitingAck
		case o.book.Attempts() > 0:
			s.State = PartitionBackingOff
		default:
			s.State = PartitionDelivering
		}
		if o.blocked {
			s.State = PartitionBlocked
		}
		if !o.inFlight && !o.due.IsZero() && o.book.State() != acker.Leased {
			s.NextAttemptAt = new(o.due)
		}
	}
	if l.inFlight > 0 && s.State == PartitionIdle {
		s.State = PartitionDelivering
	}
	if s.State == PartitionWaitingAck || l.inFlight > 0 {
		return s
	}
	switch {
	case paused:
		s.State = PartitionPaused
	case l.tenure.waiting.Load():
		s.State = PartitionWaitingLifecycle
	}
	return s
}
