package groupmanager

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// growAfter is how many deliveries in a row must succeed before a lane that was
// told 413 tries batches twice as large again.
const growAfter = 100

// failed schedules the next attempt, or gives the delivery up as the webhook says.
func (l *lane) failed(o *outgoing, r delivery.Result) {
	o.code, o.status = r.Code, r.Status
	l.last = &AttemptError{Code: r.Code, Status: r.Status, At: r.At}
	if r.Code == codeInternal {
		o.msg = nil // who knows in what state: it is laid out anew
	}
	if !l.ledger.Fail(o.book) {
		return // acked or nacked meanwhile: this failure is moot
	}
	l.retry(o, r)
}

// retry plans what comes after a failed attempt, whoever called it failed.
func (l *lane) retry(o *outgoing, r delivery.Result) {
	o.deadline = time.Time{}
	l.streak = 0
	n := o.failures()
	wait := delivery.Backoff(l.webhook.Retry, n, r.RetryAfter, rand.Float64())
	if aboutRecords(r) && l.exhausted(o, r.At) {
		switch l.webhook.OnExhausted {
		case webhooks.OnExhaustedSkip:
			l.skip(o)
			return
		case webhooks.OnExhaustedDeadLetter:
			o.exhaust, wait = true, 0
		default:
			o.blocked = true
			wait = time.Duration(l.webhook.Retry.MaxBackoffMs) * time.Millisecond
		}
	}
	o.due = r.At.Add(wait)
	l.logger.Log(context.Background(), levelOfAttempt(n), "attempt failed",
		"topic", l.tenure.topic, "partition", l.tenure.partition, "delivery_id", o.id,
		"first_offset", o.book.First(), "last_offset", o.book.Last(), "attempt", o.book.Attempts(),
		"code", o.code, "status", o.status, "next_attempt_in", wait)
}

// aboutRecords tells whether a failure may be owed to the records of its delivery. That
// the receiver has gone, was ourselves, or may not be dialled by the policy of the
// deployment, is not: nobody has seen them, and they are kept however many attempts
// there were.
func aboutRecords(r delivery.Result) bool {
	return r.Verdict != delivery.Gone && r.Verdict != delivery.Looped && r.Code != delivery.CodeAddressDenied
}

// levelOfAttempt keeps a sick receiver from flooding the log: the 1st, 2nd, 4th,
// 8th … failed attempt of a delivery is a warning, the others are for debugging.
func levelOfAttempt(n int) slog.Level {
	if n&(n-1) == 0 {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

func (l *lane) exhausted(o *outgoing, now time.Time) bool {
	r := l.webhook.Retry
	return r.MaxAttempts > 0 && o.failures() >= r.MaxAttempts ||
		r.MaxAgeMs > 0 && now.Sub(o.book.FirstAttempt()) >= time.Duration(r.MaxAgeMs)*time.Millisecond
}

// skip settles records that the webhook's policy gives up; each is logged and counted.
func (l *lane) skip(o *outgoing) {
	for i := range o.batch.Records {
		if off := o.batch.Records[i].Offset; off >= o.book.First() && off <= o.book.Last() {
			l.logger.Error("record skipped after its attempts were exhausted", "topic", l.tenure.topic,
				"partition", l.tenure.partition, "offset", off, "attempts", o.book.Attempts(), "code", o.code, "status", o.status)
		}
	}
	l.metrics.skipped(o.giveUp())
	l.ledger.Settle(o.book)
}

func (l *lane) deadLettered(o *outgoing, err error) {
	if o.book.State() == acker.Settled { // acked while it was being written
		return
	}
	if err != nil {
		wait := delivery.Backoff(l.webhook.Retry, o.failures(), 0, rand.Float64())
		o.due = time.Now().Add(wait)
		l.logger.Error("dead letters could not be written; the partition is held", "topic", l.tenure.topic,
			"partition", l.tenure.partition, "dead_letter_topic", *l.webhook.DeadLetter.Topic,
			"first_offset", o.book.First(), "error", err, "next_attempt_in", wait)
		l.last = &AttemptError{Code: "dead_letter_failed", At: time.Now()}
		return
	}
	l.logger.Warn("records written to the dead letter topic", "topic", l.tenure.topic, "partition", l.tenure.partition,
		"dead_letter_topic", *l.webhook.DeadLetter.Topic, "first_offset", o.book.First(), "last_offset", o.book.Last())
	l.metrics.deadLettered(o.giveUp())
	l.ledger.Settle(o.book)
}

// halve cuts a delivery that was too large for the receiver; its halves go at
// once, and the next deliveries of this partition are not larger than they. It was no
// failed attempt: a record that comes out of many cuts has all its attempts before it.
func (l *lane) halve(o *outgoing, r delivery.Result) {
	l.ledger.Fail(o.book)
	o.cuts++
	n := o.book.Records()
	l.limit, l.streak = max(1, n/2), 0
	if o.book != l.ledger.Head() && l.ledger.Full() {
		// Two halves could not be told apart in a commit's metadata, whatever is
		// acked first. It goes again as it is, until there is room or it is the head.
		o.due = r.At.Add(delivery.Backoff(l.webhook.Retry, o.book.Attempts(), 0, rand.Float64()))
		return
	}
	cut := o.first() + n/2
	tail := l.ledger.Split(o.book, n/2)
	rest := records.Get()
	o.batch.CopyTo(rest, cut, o.batch.Len())
	o.batch.Truncate(cut)
	o.stale = true
	at := slices.Index(l.open, o)
	l.open = slices.Insert(l.open, at+1, &outgoing{book: tail, batch: rest, cuts: o.cuts})
	l.logger.Info("delivery was too large for the receiver, cut in half", "topic", l.tenure.topic,
		"partition", l.tenure.partition, "first_offset", o.book.First(), "records", n, "status", r.Status)
}

// grow lets deliveries become larger again after a 413.
func (l *lane) grow() {
	if l.limit >= l.webhook.Batch.MaxRecords {
		return
	}
	if l.streak++; l.streak >= growAfter {
		l.limit, l.streak = min(2*l.limit, l.webhook.Batch.MaxRecords), 0
	}
}
