package groupmanager

import (
	"cmp"
	"slices"
	"time"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/webhooks/delivery"
)

// ask is a receiver's statement on its way to a lane. The reply has one slot, so
// that the partition never waits for the caller.
type ask struct {
	statement acker.Statement
	delay     time.Duration    // nack
	extend    time.Duration    // extend
	reason    string           // reject
	reasons   map[int64]string // partial, by offset; those without are left out
	reply     chan<- reply
}

// askOf is what an inline ack says of a delivery.
func askOf(said *delivery.Ack, sent acker.Run) ask {
	a := ask{
		statement: acker.Statement{Outcome: outcomeNamed(said.Outcome), First: sent.First, Last: sent.Last, UpTo: sent.Last},
		delay:     said.Delay, extend: said.Extend, reason: said.Reason,
	}
	if said.UpToOffset != nil {
		a.statement.UpTo = *said.UpToOffset
	}
	for _, f := range said.Failures {
		a.fail(f.Offset, f.Action, f.Reason)
	}
	a.sortFailures()
	return a
}

// outcomeNamed is the outcome that receivers write so; empty is ack.
func outcomeNamed(word string) acker.Outcome {
	for _, o := range []acker.Outcome{acker.Nack, acker.Extend, acker.Reject, acker.Partial} {
		if word == o.String() {
			return o
		}
	}
	return acker.Ack
}

// fail adds what a partial ack says of one record.
func (a *ask) fail(offset int64, action, reason string) {
	f := acker.Failure{Offset: offset}
	for _, known := range []acker.Action{acker.DeadLetter, acker.Skip} {
		if action == known.String() {
			f.Action = known
		}
	}
	a.statement.Failures = append(a.statement.Failures, f)
	if reason != "" {
		if a.reasons == nil {
			a.reasons = make(map[int64]string)
		}
		a.reasons[offset] = reason
	}
}

// sortFailures brings the failures into the order in which the books want them.
func (a *ask) sortFailures() {
	slices.SortFunc(a.statement.Failures, func(x, y acker.Failure) int { return cmp.Compare(x.Offset, y.Offset) })
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
	answer, deadline, err := l.count(a, now, 0)
	r := reply{answer: answer, deadline: deadline, err: err}
	if err == nil {
		l.settle()
		if answer.Cover >= 0 && answer.BlockedBy < 0 {
			l.tell(true) // somebody may wait for the commit
		}
	}
	r.answer.Touched, r.answer.Pieces = nil, nil // the ledger's own, and valid until its next call only
	a.reply <- r
}

// count applies a statement, however it came, and plans what follows from it. status is
// that of the answer it came in; 0 for none.
func (l *lane) count(a ask, now time.Time, status int) (answer acker.Answer, deadline time.Time, err error) {
	if err := l.refuses(a.statement); err != nil {
		return acker.Answer{}, deadline, err
	}
	answer, err = l.ledger.Apply(a.statement)
	if err != nil {
		return answer, deadline, err
	}
	switch a.statement.Outcome {
	case acker.Nack:
		for _, o := range l.touched(answer.Touched) {
			if !answer.Repeat {
				l.nacked(o, now, a.delay, status)
			}
		}
	case acker.Extend:
		for _, o := range l.touched(answer.Touched) {
			deadline = earlier(deadline, l.extended(o, now, a.extend))
		}
	case acker.Reject:
		for _, o := range l.touched(answer.Touched) {
			if !answer.Repeat {
				l.rejected(o, now, a.reason, status)
			}
		}
	case acker.Partial:
		l.parted(answer, a, now, status)
	default:
		l.shrunk(answer.Touched)
	}
	return answer, deadline, nil
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
	o.paced.answered()
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
	if l.keys != nil {
		s.HeldRecords = l.keys.queue.held()
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
	l.showHeld(&s)
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
