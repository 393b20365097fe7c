package groupmanager

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks/delivery"
)

// growAfter is how many deliveries in a row must succeed before a lane that was
// told 413 tries batches twice as large again.
const growAfter = 100

// failed schedules the next attempt, or gives the delivery up as the webhook says.
func (l *lane) failed(o *outgoing, r delivery.Result) {
	l.last = &AttemptError{Code: r.Code, Status: r.Status, At: r.At}
	if r.Code == codeInternal {
		o.msg = nil // who knows in what state: it is laid out anew
	}
	if !l.ledger.Fail(o.book) {
		return // acked, nacked or rejected meanwhile: this failure is moot
	}
	o.code, o.status, o.reason, o.reasons = r.Code, r.Status, "", nil
	l.retry(o, r)
}

// retry plans what comes after a failed attempt, whoever called it failed.
func (l *lane) retry(o *outgoing, r delivery.Result) {
	o.deadline = time.Time{}
	l.streak = 0
	exhausted := aboutRecords(r) && l.exhausted(o, r.At)
	if l.bisect(o, r, exhausted) {
		return
	}
	n := o.failures()
	wait := delivery.Backoff(l.webhook.Retry, n, r.RetryAfter, rand.Float64())
	if exhausted {
		var over bool
		if wait, over = l.exhaust(o, r); over {
			return
		}
	}
	l.schedule(o, r, wait)
	l.logger.Log(context.Background(), levelOfAttempt(o.book.Attempts()), "attempt failed",
		"topic", l.tenure.topic, "partition", l.tenure.partition, "delivery_id", o.id,
		"first_offset", o.book.First(), "last_offset", o.book.Last(), "attempt", o.book.Attempts(),
		"code", o.code, "status", o.status, "next_attempt_in", wait)
}

// aboutRecords tells whether a failure may be owed to the records of its delivery. That
// the receiver has gone, was ourselves, or may not be dialled by the policy of the
// deployment, it or who hands out its tokens, is not: nobody has seen them, and they are
// kept however many attempts there were.
func aboutRecords(r delivery.Result) bool {
	return r.Verdict != delivery.Gone && r.Verdict != delivery.Looped &&
		r.Code != delivery.CodeAddressDenied && r.Code != delivery.CodeTokenDenied
}

// levelOfAttempt keeps a sick receiver from flooding the log: the 1st, 2nd, 4th,
// 8th … failed attempt of a delivery is a warning, the others are for debugging.
func levelOfAttempt(n int) slog.Level {
	if n&(n-1) == 0 {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// halve cuts a delivery that was too large for the receiver; its halves go at
// once, and the next deliveries of this partition are not larger than they. It was no
// failed attempt: a record that comes out of many cuts has all its attempts before it.
func (l *lane) halve(o *outgoing, r delivery.Result) {
	l.ledger.Fail(o.book)
	n := o.book.Records()
	l.limit, l.streak = max(1, n/2), 0
	if !l.divisible(o) {
		o.cuts++
		o.due = r.At.Add(delivery.Backoff(l.webhook.Retry, o.book.Attempts(), 0, rand.Float64()))
		return
	}
	l.divide(o)
	l.logger.Info("delivery was too large for the receiver, cut in half", "topic", l.tenure.topic,
		"partition", l.tenure.partition, "first_offset", o.book.First(), "records", n, "status", r.Status)
}

// divisible tells whether the books have room for two halves of a delivery. If not, they
// could not be told apart in a commit's metadata, whatever is acked first: then it goes
// again as it is, until there is room or it is the head.
func (l *lane) divisible(o *outgoing) bool { return o.book == l.ledger.Head() || !l.ledger.Full() }

// divide makes two deliveries of one, whose attempt does not count as a failed one. Nor do
// its early ones from then on.
func (l *lane) divide(o *outgoing) *outgoing {
	o.cuts += 1 + o.paced.early
	n := o.book.Records()
	cut := o.first() + n/2
	rest := records.Get()
	o.batch.CopyTo(rest, cut, o.batch.Len())
	o.batch.Truncate(cut)
	o.stale, o.blocked, o.held = true, false, false
	o.paced = paced{held: o.paced.held}
	half := &outgoing{book: l.ledger.Split(o.book, n/2), batch: rest, cuts: o.cuts, suspicion: o.suspicion, paced: o.paced}
	if l.keys != nil {
		l.keys.cut(o, half, cut)
	}
	l.open = slices.Insert(l.open, slices.Index(l.open, o)+1, half)
	return half
}

// bisect cuts a delivery if its failure may be owed to one of its records, so that its
// neighbours pass; see bisector. What is still to be cut is not given up yet: the
// failures that led here do not count for what comes out.
func (l *lane) bisect(o *outgoing, r delivery.Result, exhausted bool) bool {
	if o.book.State() != acker.Waiting || !l.divisible(o) {
		return false
	}
	n := o.book.Records()
	blames := o.blames
	cut, atOnce := l.bisector.cut(&o.suspicion, n, blameOf(r), exhausted)
	if o.paced.isEarly {
		o.earlyBlames += o.blames - blames
	}
	if !cut {
		return false
	}
	o.cuts += o.blames - o.earlyBlames - 1 // the last, and the early ones, are divide's
	o.suspicion = o.half()
	half := l.divide(o)
	o.due = time.Time{}
	if !atOnce {
		l.schedule(o, r, delivery.Backoff(l.webhook.Retry, o.book.Attempts(), 0, rand.Float64()))
	}
	half.due, half.paced = o.due, o.paced
	l.logger.Info("delivery failed and was cut in half to find the record", "topic", l.tenure.topic,
		"partition", l.tenure.partition, "first_offset", o.book.First(), "records", n, "code", r.Code, "status", r.Status)
	return true
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
