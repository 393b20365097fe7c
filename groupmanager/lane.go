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

// windowFactor bounds how far deliveries may run ahead of the earliest open one,
// as a multiple of max_in_flight: with ordering none a stuck head must not let
// the distance to the committed offset grow without end.
const windowFactor = 16

// growAfter is how many deliveries in a row must succeed before a lane that was
// told 413 tries batches twice as large again.
const growAfter = 100

// codeAckTimeout is the code of a delivery whose ack did not come in time.
const codeAckTimeout = "ack_timeout"

// deliverer sends to one webhook, *delivery.Client outside of tests. It is
// called from many goroutines at once, each with messages of its own.
type deliverer interface {
	Encode(id, topic string, partition int32, b *records.Batch, from, to int) *delivery.Message
	Send(ctx context.Context, m *delivery.Message, a delivery.Attempt) delivery.Result
}

// deadLetters writes records to the dead letter topic and returns once the broker
// confirmed all of them. Any goroutine may call it.
type deadLetters interface {
	Write(ctx context.Context, l deadLetter) error
}

// laneConfig is what the lanes of one webhook share.
type laneConfig struct {
	webhook    webhooks.Webhook
	client     deliverer
	dead       deadLetters
	tokens     *acker.Tokens
	ids        *acker.DeliveryIDs
	generation func() int32
	publish    func(*tenure, int64) // progress, up to the committer
	note       func(*tenure, *note) // delivery state, up to the committer
	lease      *lease               // nothing new is sent, and no ack is taken, when it is over
	gone       func()               // the receiver answered 410
	metrics    *instruments
	tracer     *tracer
	owner      string // replica id
	ownerURL   string // its advertised address, for tokens
	logger     *slog.Logger
}

// lane is one webhook's way through one partition: its books, its deliveries
// under way and their timers. Owned by the partition goroutine; senders get
// work and give results over channels.
type lane struct {
	*laneConfig
	tenure *tenure
	ledger *acker.Ledger
	open   []*outgoing // ascending; settled ones leave when no request of theirs is under way

	inFlight int
	limit    int // records per delivery now; below batch.max_records after a 413
	streak   int // successes since the limit was set

	senders *senders
	last    *AttemptError
	token   []byte // scratch
}

// outgoing is one delivery on its way.
type outgoing struct {
	book     *acker.Delivery
	batch    *records.Batch
	from     int // first record of batch that is not settled
	msg      *delivery.Message
	id       string
	inFlight bool
	stale    bool      // msg no longer fits the open records
	due      time.Time // of the next attempt
	answered time.Time // when the response of a leased delivery was read
	deadline time.Time // of the lease, or asked for by an extend before the response
	blocked  bool      // exhausted, and going on at the longest backoff
	exhaust  bool      // its next step is the dead letter topic
	givenUp  int       // records skipped or dead-lettered
	code     string    // of the last failure
	status   int
}

func newLane(cfg *laneConfig, t *tenure, s *senders) *lane {
	return &lane{laneConfig: cfg, tenure: t, ledger: acker.NewLedger(), limit: cfg.webhook.Batch.MaxRecords, senders: s}
}

// ordered tells whether a delivery has to wait for the one before it.
func (l *lane) ordered() bool { return l.webhook.Ordering == webhooks.OrderingPartition }

// room tells whether a new delivery may be cut.
func (l *lane) room() bool {
	if l.ordered() {
		return len(l.open) == 0
	}
	return len(l.open) < l.webhook.MaxInFlight && l.ledger.Len() < windowFactor*l.webhook.MaxInFlight
}

// deliver enters a batch that was read and sends it; there must be room. The
// lane owns the batch from now on, unless it fails.
func (l *lane) deliver(b *records.Batch, now time.Time) error {
	book, err := l.ledger.Deliver(runsOf(b))
	if err != nil {
		return err
	}
	o := &outgoing{book: book, batch: b}
	l.open = append(l.open, o)
	if len(l.open) == 1 {
		l.tenure.oldest.Store(b.Records[0].Timestamp)
	}
	l.start(o, now)
	return nil
}

// runsOf lists the consecutive offsets of a batch.
func runsOf(b *records.Batch) []acker.Run {
	if b.Last()-b.First()+1 == int64(b.Len()) {
		return []acker.Run{{First: b.First(), Last: b.Last()}}
	}
	var runs []acker.Run
	for i := range b.Records {
		o := b.Records[i].Offset
		if n := len(runs); n > 0 && runs[n-1].Last+1 == o {
			runs[n-1].Last = o
			continue
		}
		runs = append(runs, acker.Run{First: o, Last: o})
	}
	return runs
}

// sendDue starts every delivery whose time has come and whose turn it is.
func (l *lane) sendDue(now time.Time) {
	for i, o := range l.open {
		if l.ordered() && i > 0 {
			return
		}
		if o.inFlight || now.Before(o.due) {
			continue
		}
		switch o.book.State() {
		case acker.Waiting, acker.Nacked:
			l.start(o, now)
		}
	}
}

// start hands one attempt, or the dead-lettering, of o to a sender.
func (l *lane) start(o *outgoing, now time.Time) {
	o.inFlight = true
	l.inFlight++
	l.tenure.inFlight.Store(int64(l.inFlight))
	if o.exhaust {
		l.senders.do(job{o: o, dead: l.deadLetterOf(o, now)})
		return
	}
	if o.stale || o.msg == nil {
		l.encode(o)
	}
	generation := l.generation()
	n := l.ledger.Send(o.book, now)
	o.deadline, o.answered = time.Time{}, time.Time{}
	l.token = l.tokens.Append(l.token[:0], &acker.Token{
		Tenant: l.webhook.Tenant, Webhook: l.webhook.ID,
		Topic: l.tenure.topic, Partition: l.tenure.partition,
		Generation: generation, Tenure: l.tenure.id,
		First: o.book.First(), Last: o.book.Last(), Attempt: int32(min(n, 1<<30)),
	})
	from := o.first()
	l.metrics.started(o.book.Records())
	l.senders.do(job{
		o:       o,
		attempt: delivery.Attempt{Number: n, Generation: generation, Token: string(l.token), Now: now},
		work:    l.tracer.process(l.tenure.topic, l.tenure.partition, o.batch, from, from+o.book.Records()),
	})
}

// encode lays out the open records of o, which makes it a delivery of its own id.
func (l *lane) encode(o *outgoing) {
	if o.msg != nil {
		o.msg.Free()
	}
	from := o.first()
	to := from + o.book.Records()
	o.id = l.ids.ID(l.webhook.Tenant, l.webhook.ID, l.tenure.topic, l.tenure.topicID, l.tenure.partition, o.book.First(), o.book.Last())
	o.msg = l.client.Encode(o.id, l.tenure.topic, l.tenure.partition, o.batch, from, to)
	o.stale = false
}

// finished takes the result of a request or of a dead-lettering.
func (l *lane) finished(d done) {
	o := d.job.o
	o.inFlight = false
	l.inFlight--
	l.tenure.inFlight.Store(int64(l.inFlight))
	if d.job.dead != nil {
		l.deadLettered(o, d.err)
	} else {
		l.judged(o, d.result)
	}
	l.settle()
}

func (l *lane) judged(o *outgoing, r delivery.Result) {
	l.metrics.attempt(r)
	switch r.Verdict {
	case delivery.Acked:
		// A nack that came first stands: then nothing moves.
		if _, err := l.ledger.Apply(whole(o.book)); err == nil {
			l.grow()
		}
	case delivery.Received:
		l.lease(o, r.At)
	case delivery.Stated:
		l.stated(o, r)
	case delivery.TooLarge:
		if o.book.Records() > 1 && o.book.State() == acker.Sent {
			l.halve(o, r)
			return
		}
		l.failed(o, r)
	case delivery.Gone:
		l.failed(o, r)
		l.gone()
	default:
		if l.senders.ctx.Err() != nil {
			l.ledger.Fail(o.book) // cut by us, not failed by the receiver: not counted, whatever the policy
			return
		}
		l.failed(o, r)
	}
}

// whole is the statement that acks all of a delivery.
func whole(d *acker.Delivery) acker.Statement {
	return acker.Statement{Outcome: acker.Ack, First: d.First(), Last: d.Last(), UpTo: d.Last()}
}

// lease waits for the ack that the receiver promised.
func (l *lane) lease(o *outgoing, at time.Time) {
	if !l.ledger.Lease(o.book) {
		return // an ack or a nack came before the response
	}
	o.answered = at
	limit := at.Add(l.webhook.Ack.MaxTimeout())
	if o.deadline.IsZero() { // no extend came before the response
		o.deadline = at.Add(l.webhook.Ack.Timeout())
	}
	if o.deadline.After(limit) {
		o.deadline = limit
	}
}

// stated counts an inline ack.
func (l *lane) stated(o *outgoing, r delivery.Result) {
	s := whole(o.book)
	switch r.Ack.Outcome {
	case "nack":
		s.Outcome = acker.Nack
	case "extend":
		s.Outcome = acker.Extend
	default:
		if r.Ack.UpToOffset != nil {
			s.UpTo = *r.Ack.UpToOffset
		}
	}
	last := o.book.Last()
	answer, err := l.ledger.Apply(s)
	if err != nil {
		if o.book.State() == acker.Sent { // an offset that is not of this delivery
			r.Verdict, r.Code = delivery.Failed, "ack_malformed"
			l.failed(o, r)
		}
		return
	}
	switch s.Outcome {
	case acker.Nack:
		l.nacked(o, r.At, r.Ack.Delay, r.Status)
	case acker.Extend:
		o.deadline = r.At.Add(r.Ack.Extend)
		l.lease(o, r.At)
	default:
		l.shrunk(answer.Touched)
		if s.UpTo < last {
			l.lease(o, r.At)
		}
	}
}

// failed schedules the next attempt, or gives the delivery up as the webhook says.
func (l *lane) failed(o *outgoing, r delivery.Result) {
	o.code, o.status = r.Code, r.Status
	l.last = &AttemptError{Code: r.Code, Status: r.Status, At: r.At}
	if !l.ledger.Fail(o.book) {
		return // acked or nacked meanwhile: this failure is moot
	}
	l.retry(o, r.At, r.RetryAfter)
}

// retry plans what comes after a failed attempt, whoever called it failed.
func (l *lane) retry(o *outgoing, now time.Time, retryAfter time.Duration) {
	o.deadline = time.Time{}
	l.streak = 0
	n := o.book.Attempts()
	wait := delivery.Backoff(l.webhook.Retry, n, retryAfter, rand.Float64())
	if l.exhausted(o, now) {
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
	o.due = now.Add(wait)
	l.logger.Log(context.Background(), levelOfAttempt(n), "attempt failed",
		"topic", l.tenure.topic, "partition", l.tenure.partition, "delivery_id", o.id,
		"first_offset", o.book.First(), "last_offset", o.book.Last(), "attempt", n,
		"code", o.code, "status", o.status, "next_attempt_in", wait)
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
	return r.MaxAttempts > 0 && o.book.Attempts() >= r.MaxAttempts ||
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
		wait := delivery.Backoff(l.webhook.Retry, o.book.Attempts(), 0, rand.Float64())
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
// once, and the next deliveries of this partition are not larger than they.
func (l *lane) halve(o *outgoing, r delivery.Result) {
	l.ledger.Fail(o.book)
	n := o.book.Records()
	l.limit, l.streak = max(1, n/2), 0
	cut := o.first() + n/2
	tail := l.ledger.Split(o.book, n/2)
	rest := records.Get()
	o.batch.CopyTo(rest, cut, o.batch.Len())
	o.batch.Truncate(cut)
	o.stale = true
	at := slices.Index(l.open, o)
	l.open = slices.Insert(l.open, at+1, &outgoing{book: tail, batch: rest})
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

// settle lets go of what is done and publishes the progress.
func (l *lane) settle() {
	l.open = slices.DeleteFunc(l.open, func(o *outgoing) bool {
		if o.inFlight || o.book.State() != acker.Settled {
			return false
		}
		l.metrics.deliveredRecords(o.batch.Len() - o.givenUp)
		o.free()
		return true
	})
	if len(l.open) > 0 {
		o := l.open[0]
		l.tenure.oldest.Store(o.batch.Records[o.first()].Timestamp)
	} else {
		l.tenure.oldest.Store(0)
	}
	l.publish(l.tenure, l.ledger.Next())
}

// first is the index in the batch of the first record that is not settled.
func (o *outgoing) first() int {
	for o.from < o.batch.Len()-1 && o.batch.Records[o.from].Offset < o.book.First() {
		o.from++
	}
	return o.from
}

// giveUp counts what is open of o as given up, and returns how many records that is.
func (o *outgoing) giveUp() int {
	o.givenUp = o.book.Records()
	return o.givenUp
}

func (o *outgoing) free() {
	if o.msg != nil {
		o.msg.Free()
		o.msg = nil
	}
	o.batch.Free()
	o.batch = nil
}

// expire ends leases whose time is over.
func (l *lane) expire(now time.Time) {
	for _, o := range l.open {
		if o.book.State() != acker.Leased || now.Before(o.deadline) {
			continue
		}
		l.failed(o, delivery.Result{Verdict: delivery.Failed, Code: codeAckTimeout, At: now})
		l.metrics.expired()
	}
	l.settle()
}

// wakeAt is when expire or, unless the webhook is paused, sendDue has something
// to do; zero for never.
func (l *lane) wakeAt(paused bool) time.Time {
	var at time.Time
	earlier := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	for i, o := range l.open {
		switch {
		case o.inFlight:
		case o.book.State() == acker.Leased:
			earlier(o.deadline)
		case paused || l.ordered() && i > 0:
		default:
			earlier(o.due)
		}
	}
	return at
}

// drop frees what is still open when the tenure ends.
func (l *lane) drop() {
	for _, o := range l.open {
		o.free()
	}
	l.open = nil
}
