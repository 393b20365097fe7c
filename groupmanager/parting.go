package groupmanager

import (
	"errors"
	"slices"
	"sort"
	"time"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks/delivery"
)

// codeRejected is the code of records that the receiver itself gave up.
const codeRejected = "rejected"

// errNoDeadLetters is the refusal of a statement that wants a record dead-lettered of a
// webhook without a topic for that.
var errNoDeadLetters = errors.New("the webhook has no dead letter topic")

// refuses tells why a reject or a partial ack cannot be counted, whatever the books say:
// there is no topic for dead letters, or what it is about is being written to it.
func (l *lane) refuses(s acker.Statement) error {
	if s.Outcome != acker.Reject && s.Outcome != acker.Partial {
		return nil
	}
	if l.webhook.DeadLetter.Topic == nil && slices.ContainsFunc(s.Failures, func(f acker.Failure) bool { return f.Action == acker.DeadLetter }) {
		return errNoDeadLetters
	}
	for _, o := range l.open {
		if l.keys != nil && !l.keys.books.Means(s, o.book) {
			continue
		}
		if o.exhaust && o.inFlight && o.book.Last() >= s.First && o.book.First() <= s.Last {
			return acker.ErrConflict
		}
	}
	return nil
}

// rejected does what on_exhausted says with a delivery that the receiver does not take,
// as if its attempts were used up.
func (l *lane) rejected(o *outgoing, now time.Time, reason string, status int) {
	o.code, o.status, o.reason = codeRejected, status, reason
	o.deadline, o.exhaust, o.paced.sick = time.Time{}, false, false
	l.last = &AttemptError{Code: codeRejected, Status: status, At: now}
	wait, over := l.exhaust(o, delivery.Result{At: now})
	if over {
		return
	}
	o.due = now.Add(wait)
	l.logger.Warn("delivery rejected by the receiver", "topic", l.tenure.topic, "partition", l.tenure.partition,
		"delivery_id", o.id, "first_offset", o.book.First(), "last_offset", o.book.Last(), "next_step_in", wait)
}

// parted makes deliveries of the pieces that a partial ack has left. What the receiver
// says of single records is done at once: no governor stands before it, for it is no
// guess of ours, and an outage does not say it.
func (l *lane) parted(answer acker.Answer, a ask, now time.Time, status int) {
	pieces := answer.Pieces
	for _, o := range l.touched(answer.Touched) {
		n := 0
		for n < len(pieces) && pieces[n].Of == o.book {
			n++
		}
		if n > 0 {
			l.part(o, pieces[:n], a, now, status)
		}
		pieces = pieces[n:]
	}
}

// part leaves the first stretch of a delivery to o and makes an outgoing of each other
// piece that is still open. Its request may be under way, but no dead-lettering.
func (l *lane) part(o *outgoing, pieces []acker.Piece, a ask, now time.Time, status int) {
	end := indexOf(o.batch, o.book.Last()+1)
	acked := o.batch.Len() - end // of what is not o's any more
	o.stale, o.exhaust, o.blocked, o.held = true, false, false, false
	o.paced.answered()
	var made []*outgoing
	for _, p := range pieces {
		piece := o
		from := indexOf(o.batch, p.Whole.First)
		if p.Delivery != o.book {
			acked -= p.Count
			if p.Action != acker.Skip {
				piece = &outgoing{book: p.Delivery, batch: records.Get(), cuts: o.cuts + o.paced.early, paced: paced{held: o.paced.held}}
				o.batch.CopyTo(piece.batch, from, from+p.Count)
				made = append(made, piece)
			}
		}
		switch p.Action {
		case acker.Retry:
			l.nacked(piece, now, 0, status)
		case acker.DeadLetter:
			piece.code, piece.status, piece.reason, piece.reasons = codeRejected, status, "", a.reasons
			piece.exhaust, piece.due, piece.deadline = true, now, time.Time{}
		case acker.Skip:
			for _, r := range o.batch.Records[from : from+p.Count] {
				l.logger.Error("record skipped because the receiver said so", "topic", l.tenure.topic,
					"partition", l.tenure.partition, "offset", r.Offset, "reason", a.reasons[r.Offset])
			}
			l.metrics.refused(p.Count)
			if p.Delivery == o.book {
				o.givenUp += p.Count
			}
		}
	}
	l.delivered(acked)
	if l.keys != nil {
		l.keys.parted(o, end, made)
	}
	o.batch.Truncate(end)
	o.from = min(o.from, end-1)
	l.open = slices.Insert(l.open, slices.Index(l.open, o)+1, made...)
}

// indexOf is the index of the first record of b at or above an offset.
func indexOf(b *records.Batch, offset int64) int {
	return sort.Search(b.Len(), func(i int) bool { return b.Records[i].Offset >= offset })
}
