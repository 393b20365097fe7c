package gatewaytest

import "time"

// AckAnswer is what POST /ack answered to one statement about a delivery.
type AckAnswer struct {
	Webhook      string
	Partition    Partition
	First, Last  int64 // inclusive
	Generation   int32 // that the delivery carried
	Sent, At     time.Time
	Status       int
	Result, Code string
}

// counted tells whether the ack went into somebody's books.
func (a *AckAnswer) counted() bool {
	switch a.Result {
	case "committed", "accepted", "pending_gap":
		return true
	}
	return false
}

// final tells whether the answer says that the records never come again.
func (a *AckAnswer) final() bool { return a.Result == "committed" || a.Result == "already_committed" }

// answers checks what was said about acks against what came before and after.
func (l *ledger) answers() {
	var counted []*AckAnswer
	for i := range l.e.Answers {
		a := &l.e.Answers[i]
		if a.Partition != l.p {
			continue
		}
		if a.final() {
			l.redelivered(a)
		}
		if !a.counted() || len(l.e.Generations) == 0 {
			continue
		}
		l.succeeded(a)
		for _, before := range counted {
			l.overlap(before, a)
		}
		counted = append(counted, a)
	}
}

// redelivered looks for deliveries of what was answered to be committed. The one
// request that a stopped replica had under way does not count.
func (l *ledger) redelivered(a *AckAnswer) {
	newest := -1
	for i, d := range l.deliveries {
		stale := l.holders[i] < newest
		newest = max(newest, l.holders[i])
		if stale && l.e.Zombies > 0 || !d.Arrived.After(a.At) {
			continue
		}
		for _, r := range d.Records {
			if a.First <= r.Offset && r.Offset <= a.Last {
				l.found("S8", l.p, r.Offset, r.Offset, "delivered again after its ack was answered with %q", a.Result)
			}
		}
	}
}

// succeeded checks that no later tenure had delivered anything before the ack was sent.
func (l *ledger) succeeded(a *AckAnswer) {
	holder := l.holder(a.Generation, a.Sent)
	for i, d := range l.deliveries {
		if l.holders[i] > holder && d.Arrived.Before(a.Sent) {
			l.found("S3", l.p, a.First, a.Last, "an ack of generation %d was answered with %q after generation %d had delivered",
				a.Generation, a.Result, d.Generation)
			return
		}
	}
}

// overlap checks that of two acks that counted, neither is of an older tenure
// and was sent after the other, of a newer one, was answered.
func (l *ledger) overlap(a, b *AckAnswer) {
	if b.At.Before(a.Sent) {
		a, b = b, a
	}
	if a.At.Before(b.Sent) && l.holder(b.Generation, b.Sent) < l.holder(a.Generation, a.Sent) {
		l.found("S4", l.p, b.First, b.Last, "an ack of generation %d counted after one of generation %d", b.Generation, a.Generation)
	}
}
