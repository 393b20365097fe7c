package groupmanager

import (
	"time"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// sift cuts a delivery that was just entered where the records begin or end whose values
// are not JSON, the unfit ones, by their index in its batch. They are deliveries of their
// own, for which on_undecodable is done when their turn comes, and which are never sent.
// o is the last that was entered.
func (l *lane) sift(o *outgoing, unfit []int) {
	l.sifted = true
	n := o.batch.Len()
	head := n // records of the first stretch, which o keeps
	for from, to := 0, 0; from < n; from = to {
		bad := len(unfit) > 0 && unfit[0] == from
		for to < n && bad == (len(unfit) > 0 && unfit[0] == to) {
			if to++; bad {
				unfit = unfit[1:]
			}
		}
		piece := l.open[len(l.open)-1]
		if piece == o {
			head = to
		} else {
			piece.batch = records.Get()
			o.batch.CopyTo(piece.batch, from, to)
		}
		if bad {
			piece.unfit, piece.code = true, delivery.CodeUndecodable
		}
		if to < n {
			rest := &outgoing{book: l.ledger.Split(piece.book, to-from)}
			if l.keys != nil {
				l.keys.cut(piece, rest, to-from)
			}
			l.open = append(l.open, rest)
		}
	}
	o.batch.Truncate(head)
}

// giveUpUnfit does what on_undecodable says with the unfit deliveries whose turn it is.
func (l *lane) giveUpUnfit(now time.Time) {
	for {
		over, left := false, false
		for i, o := range l.open {
			if !o.unfit || o.exhaust || o.book.State() == acker.Settled {
				continue
			}
			left = true
			if l.ordered() && i > 0 || now.Before(o.due) {
				continue
			}
			over = l.unfit(o, now) || over
		}
		l.sifted = left
		if !over {
			return
		}
		l.settle()
	}
}

// unfit does it with one of them, and tells whether that was the end of it.
func (l *lane) unfit(o *outgoing, now time.Time) (over bool) {
	policy := l.webhook.OnUndecodable
	if policy == webhooks.OnUndecodableBlock {
		if !o.blocked {
			l.logger.Warn("values are not JSON, and on_undecodable holds them", "topic", l.tenure.topic, "partition", l.tenure.partition,
				"first_offset", o.book.First(), "last_offset", o.book.Last())
		}
		o.blocked, o.due = true, now.Add(time.Duration(l.webhook.Retry.MaxBackoffMs)*time.Millisecond)
		l.last = &AttemptError{Code: delivery.CodeUndecodable, At: now}
		return false
	}
	if !l.governor.allow(o.book.Records(), now) {
		l.hold(o, now)
		o.due = l.governor.next()
		return false
	}
	o.blocked, o.held = false, false
	if policy == webhooks.OnUndecodableDeadLetter {
		o.exhaust, o.due = true, now
		return false
	}
	for _, r := range o.batch.Records {
		l.logger.Error("record skipped because its value is not JSON", "topic", l.tenure.topic, "partition", l.tenure.partition, "offset", r.Offset)
	}
	l.metrics.unfit(l.giveUp(o))
	l.ledger.Settle(o.book)
	return true
}
