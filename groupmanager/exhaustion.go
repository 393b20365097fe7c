package groupmanager

import (
	"math/rand/v2"
	"time"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// codeExhaustionHeld is the last error of a partition that would give up more than its
// governor allows.
const codeExhaustionHeld = "exhaustion_held"

// exhaust does what the webhook says with a delivery whose attempts are used up, and
// returns how long its next step has to wait; over, if there is none.
func (l *lane) exhaust(o *outgoing, r delivery.Result) (wait time.Duration, over bool) {
	policy := l.webhook.OnExhausted
	longest := time.Duration(l.webhook.Retry.MaxBackoffMs) * time.Millisecond
	if policy == webhooks.OnExhaustedBlock {
		o.blocked = true
		return longest, false
	}
	if !l.governor.allow(o.book.Records(), r.At) {
		l.hold(o, r.At)
		return min(longest, max(l.governor.next().Sub(r.At), 0)), false
	}
	o.blocked, o.held = false, false
	if policy == webhooks.OnExhaustedSkip {
		l.skip(o)
		return 0, true
	}
	o.exhaust = true
	return 0, false
}

// hold blocks a delivery that is not to be given up yet. Its attempts go on, so that it
// is delivered if the receiver takes it before the budget allows to give it up.
func (l *lane) hold(o *outgoing, at time.Time) {
	l.last = &AttemptError{Code: codeExhaustionHeld, Status: o.status, At: at}
	o.blocked = true
	if o.held {
		return
	}
	o.held = true
	l.metrics.heldBack(o.book.Records())
	l.logger.Warn("a delivery is to be given up, but more was given up than the budget allows; the delivery is held",
		"topic", l.tenure.topic, "partition", l.tenure.partition, "first_offset", o.book.First(),
		"last_offset", o.book.Last(), "attempts", o.book.Attempts(), "code", o.code, "status", o.status)
}

// giveUp counts what is open of o as given up, and returns how many records that is.
func (l *lane) giveUp(o *outgoing) int {
	n := o.book.Records()
	o.givenUp += n
	if n == 1 {
		l.bisector.isolated()
	}
	return n
}

// delivered counts records that a receiver took.
func (l *lane) delivered(records int) {
	if records == 0 {
		return
	}
	l.metrics.deliveredRecords(records)
	l.bisector.succeeded()
	l.grow()
	if l.webhook.OnExhausted != webhooks.OnExhaustedBlock || l.webhook.OnUndecodable != webhooks.OnUndecodableBase64 {
		l.governor.delivered(records, time.Now())
	}
}

func (l *lane) exhausted(o *outgoing, now time.Time) bool {
	r := l.webhook.Retry
	return r.MaxAttempts > 0 && o.failures() >= r.MaxAttempts ||
		r.MaxAgeMs > 0 && now.Sub(o.book.FirstAttempt())-o.paced.held >= time.Duration(r.MaxAgeMs)*time.Millisecond
}

// skip settles records that the webhook's policy gives up; each is logged and counted.
func (l *lane) skip(o *outgoing) {
	for i := range o.batch.Records {
		if off := o.batch.Records[i].Offset; off >= o.book.First() && off <= o.book.Last() {
			l.logger.Error("record skipped after its attempts were exhausted", "topic", l.tenure.topic,
				"partition", l.tenure.partition, "offset", off, "attempts", o.book.Attempts(), "code", o.code, "status", o.status)
		}
	}
	l.metrics.skipped(l.giveUp(o))
	l.ledger.Settle(o.book)
}

func (l *lane) deadLettered(o *outgoing, err error) {
	if o.book.State() == acker.Settled { // acked while it was being written
		return
	}
	if err != nil {
		o.misses++
		wait := delivery.Backoff(l.webhook.Retry, o.misses, 0, rand.Float64())
		o.due = time.Now().Add(wait)
		l.logger.Error("dead letters could not be written; the partition is held", "topic", l.tenure.topic,
			"partition", l.tenure.partition, "dead_letter_topic", *l.webhook.DeadLetter.Topic,
			"first_offset", o.book.First(), "error", err, "next_attempt_in", wait)
		l.last = &AttemptError{Code: "dead_letter_failed", At: time.Now()}
		return
	}
	l.logger.Warn("records written to the dead letter topic", "topic", l.tenure.topic, "partition", l.tenure.partition,
		"dead_letter_topic", *l.webhook.DeadLetter.Topic, "first_offset", o.book.First(), "last_offset", o.book.Last())
	l.metrics.deadLettered(l.giveUp(o))
	l.ledger.Settle(o.book)
}
