package groupmanager

import (
	"context"
	"log/slog"
	"time"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/groupmanager/pacing"
	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// windowFactor bounds how far deliveries may run ahead of the earliest open one,
// as a multiple of max_in_flight: with ordering none a stuck head must not let
// the distance to the committed offset grow without end.
const windowFactor = 16

// Codes of attempts that failed on our side of the wire.
const (
	codeAckTimeout = "ack_timeout"    // the ack did not come in time
	codeInternal   = "internal_error" // we broke on it
)

// deliverer sends to one webhook, *delivery.Client outside of tests. It is
// called from many goroutines at once, each with messages of its own.
type deliverer interface {
	Encode(id, topic string, partition int32, b *records.Batch, from, to int) *delivery.Message
	Undecodable(b *records.Batch) []int
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
	filter     recordFilter // nil: everything is delivered
	tokens     *acker.Tokens
	ids        *acker.DeliveryIDs
	generation func() int32
	publish    func(*tenure, int64)          // progress, up to the committer
	note       func(*tenure, *note)          // delivery state, up to the committer
	lease      *lease                        // nothing new is sent, and no ack is taken, when it is over
	revision   func() int64                  // of the webhook, as it stands now
	gone       func(delivery.Verdict, int64) // Gone or Looped, to an attempt that began at that revision: no more goes to the receiver
	pacer      *pacing.Pacer
	metrics    *instruments
	tracer     *tracer
	owner      string // replica id
	logger     *slog.Logger
}

// lane is one webhook's way through one partition: its books, its deliveries
// under way and their timers. Owned by the partition goroutine; senders get
// work and give results over channels.
type lane struct {
	*laneConfig
	tenure *tenure
	ledger books
	plain  *acker.Ledger // the same; nil with ordering key
	keys   *keyOrder     // nil unless with ordering key
	open   []*outgoing   // ascending; settled ones leave when no request of theirs is under way

	inFlight int
	limit    int // records per delivery now; below batch.max_records after a 413
	streak   int // successes since the limit was set
	bisector bisector
	governor governor
	sifted   bool // there may be deliveries that are unfit

	senders  *senders
	pace     pace
	last     *AttemptError
	token    []byte // scratch
	progress progress
}

// outgoing is one delivery on its way.
type outgoing struct {
	book     *acker.Delivery
	batch    *records.Batch
	from     int // first record of batch that is not settled
	msg      *delivery.Message
	id       string
	sent     acker.Run // bounds of the last attempt
	revision int64     // of the webhook when that began
	inFlight bool
	stale    bool      // msg no longer fits the open records
	due      time.Time // of the next attempt
	answered time.Time // when the response of a leased delivery was read
	deadline time.Time // of the lease, or asked for by an extend before the response
	cuts     int       // attempts that do not count as failed: they have led to a cut, or were early before one
	blocked  bool      // exhausted, and going on at the longest backoff
	held     bool      // blocked because the governor does not let it be given up
	exhaust  bool      // its next step is the dead letter topic
	misses   int       // times that its dead letters could not be written
	givenUp  int       // records skipped or dead-lettered
	keys     []uint64  // of batch's records, with ordering key
	freed    int       // keys let go, from the front
	late     []uint64  // keys of records it has lost, to be let go when its request ends
	part     *outgoing // what was cut, of which this is a part, with ordering key; nil: whole
	paced    paced
	code     string // of the last failure
	status   int
	unfit    bool             // its values are not JSON: it is never sent
	reason   string           // that the receiver gave for rejecting it
	reasons  map[int64]string // and for single records of it, by offset; shared
	suspicion
}

// newLane makes a lane; nudge has its partition look again whether something may go.
func newLane(cfg *laneConfig, t *tenure, s *senders, nudge func()) *lane {
	most := cfg.webhook.Batch.MaxRecords
	l := &lane{laneConfig: cfg, tenure: t, limit: most, bisector: newBisector(most), senders: s}
	if cfg.webhook.Ordering == webhooks.OrderingKey {
		l.keys = newKeyOrder(&cfg.webhook)
		l.ledger = l.keys.books
	} else {
		l.plain = acker.NewLedger()
		l.ledger = l.plain
	}
	l.pace.line = cfg.pacer.Line(nudge)
	return l
}

// ordered tells whether a delivery has to wait for the one before it.
func (l *lane) ordered() bool { return l.webhook.Ordering == webhooks.OrderingPartition }

// room tells whether a new delivery may be cut.
func (l *lane) room() bool {
	if l.ordered() {
		return len(l.open) == 0
	}
	if l.keys != nil {
		return l.keyRoom()
	}
	return len(l.open) < l.webhook.MaxInFlight && l.plain.Len() < windowFactor*l.webhook.MaxInFlight && !l.ledger.Full()
}

// deliver enters a batch that was read and sends it; there must be room, and pass lets
// it go. The lane owns the batch from now on, unless it fails.
func (l *lane) deliver(b *records.Batch, pass pacing.Pass, now time.Time) error {
	book, err := l.ledger.Deliver(runsOf(b))
	if err != nil {
		l.pace.line.Exit(now, &pass, pacing.Ended{})
		return err
	}
	if before := &l.tenure.resume; before.Attempts > 0 && book.First() == l.tenure.start {
		l.ledger.Resume(book, before.Attempts, before.FirstAttempt)
		l.governor.resumed(now)
	}
	o := &outgoing{book: book, batch: b, paced: paced{pass: pass}}
	if l.keys != nil {
		o.keys, l.keys.next = l.keys.next, nil
	}
	l.open = append(l.open, o)
	if len(l.open) == 1 {
		l.tenure.oldest.Store(b.Records[0].Timestamp)
	}
	if unfit := l.client.Undecodable(b); len(unfit) > 0 {
		l.pace.line.Exit(now, &o.paced.pass, pacing.Ended{}) // what is fit asks for itself
		o.paced = paced{}
		l.sift(o, unfit)
		l.sendDue(now)
		return nil
	}
	l.start(o, now)
	return nil
}

// full tells whether as many requests are under way as may be. Halves of a delivery
// that was too large are more than there was room for, so some may have to wait.
func (l *lane) full() bool {
	return l.inFlight >= l.webhook.MaxInFlight || l.keys != nil && l.busy() >= l.webhook.MaxInFlight
}

// sendDue starts every delivery whose time has come and whose turn it is, while the
// lane is not full and the pacer lets them go.
func (l *lane) sendDue(now time.Time) {
	if l.sifted {
		l.giveUpUnfit(now)
	}
	l.hurry(now)
	if l.keys != nil {
		l.sendDueKeys(now)
		return
	}
	for i, o := range l.open {
		if l.full() || l.ordered() && i > 0 {
			return
		}
		if o.inFlight || now.Before(o.due) {
			continue
		}
		switch o.book.State() {
		case acker.Waiting, acker.Nacked, acker.Rejected:
			if l.mayGo(o, now) {
				l.start(o, now)
			}
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
	o.sent, o.revision = acker.Run{First: o.book.First(), Last: o.book.Last()}, l.revision()
	l.token = l.tokens.Append(l.token[:0], &acker.Token{
		Tenant: l.webhook.Tenant, Webhook: l.webhook.ID,
		Topic: l.tenure.topic, Partition: l.tenure.partition,
		Generation: generation, Tenure: l.tenure.id,
		First: o.sent.First, Last: o.sent.Last, Attempt: int32(min(n, 1<<30)),
		Owner: l.owner,
	})
	from := o.first()
	l.metrics.started(o.book.Records())
	l.pace.line.Weigh(now, &o.paced.pass, o.book.Records(), o.batch.Bytes())
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
	if l.keys != nil {
		o.id = l.openID(o)
	} else {
		o.id = l.ids.ID(l.webhook.Tenant, l.webhook.ID, l.tenure.topic, l.tenure.topicID, l.tenure.partition, o.book.First(), o.book.Last())
	}
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
		l.leftPacer(o, d.result)
		l.judged(o, d.result)
	}
	l.settle()
}

func (l *lane) judged(o *outgoing, r delivery.Result) {
	l.metrics.attempt(r)
	switch r.Verdict {
	case delivery.Acked:
		// A nack that came first stands: then nothing moves.
		_, _ = l.ledger.Apply(whole(o.book))
	case delivery.Received:
		l.leased(o, r.At)
	case delivery.Stated:
		l.stated(o, r)
	case delivery.TooLarge:
		if o.book.Records() > 1 && o.book.State() == acker.Sent {
			l.halve(o, r)
			return
		}
		l.failed(o, r)
	case delivery.Gone, delivery.Looped:
		l.failed(o, r)
		l.gone(r.Verdict, o.revision)
	default:
		if l.senders.ctx.Err() != nil {
			return // cut by us, not failed by the receiver: not counted, whatever the policy
		}
		l.failed(o, r)
	}
}

// whole is the statement that acks all of a delivery.
func whole(d *acker.Delivery) acker.Statement {
	return acker.Statement{Outcome: acker.Ack, First: d.First(), Last: d.Last(), UpTo: d.Last()}
}

// leased waits for the ack that the receiver promised, never shorter than usual: an
// extend before the response was counted from then, and its time may be over.
func (l *lane) leased(o *outgoing, at time.Time) {
	if !l.ledger.Lease(o.book) {
		return // an ack or a nack came before the response
	}
	o.answered = at
	if usual := at.Add(l.webhook.Ack.Timeout()); o.deadline.Before(usual) {
		o.deadline = usual // else an extend came before the response
	}
}

// stated counts an inline ack. It is about what was sent: the head may have been
// acked by POST /ack meanwhile, and this may say so again.
func (l *lane) stated(o *outgoing, r delivery.Result) {
	a := askOf(r.Ack, o.sent)
	if a.statement.Outcome == acker.Extend {
		l.leased(o, r.At)
	}
	if _, _, err := l.count(a, r.At, r.Status); err != nil {
		if o.book.State() == acker.Sent { // an offset that is not of this delivery
			r.Verdict, r.Code = delivery.Failed, delivery.CodeAckMalformed
			l.failed(o, r)
		}
		return
	}
	if a.statement.Outcome == acker.Ack && a.statement.UpTo < a.statement.Last {
		l.leased(o, r.At)
	}
}

// first is the index in the batch of the first record that is not settled.
func (o *outgoing) first() int {
	for o.from < o.batch.Len()-1 && o.batch.Records[o.from].Offset < o.book.First() {
		o.from++
	}
	return o.from
}

// failures counts the attempts that retry.max_attempts counts, the last one included.
func (o *outgoing) failures() int { return o.book.Attempts() - o.cuts - o.paced.early }

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

// wakeAt is when expire or tell has something to do, or, unless nothing may
// start, sendDue; zero for never. A full lane is woken by a result.
func (l *lane) wakeAt(held bool) time.Time {
	at := l.progress.due
	held = held || l.full()
	until, waits := l.pace.line.Waits()
	if !held && waits && !until.IsZero() {
		at = earlier(at, until)
	}
	for i, o := range l.open {
		switch {
		case o.inFlight, waits && !o.exhaust && !o.unfit && o.book.State() != acker.Leased: // until then, or a nudge
		case o.book.State() == acker.Leased:
			at = earlier(at, o.deadline)
		case held || l.ordered() && i > 0 || !l.turn(o):
		default:
			at = earlier(at, later(o.due, longAgo)) // zero: at once
		}
	}
	return at
}

// longAgo is due at once, and unlike the zero time it is a time.
var longAgo = time.Unix(0, 0)

// earlier is the earlier of two times, where a zero at is none.
func earlier(at, t time.Time) time.Time {
	if at.IsZero() || t.Before(at) {
		return t
	}
	return at
}

// drop frees what is still open when the tenure ends.
func (l *lane) drop() {
	l.pace.line.Close(time.Now())
	for _, o := range l.open {
		o.free()
	}
	l.open = nil
	if l.keys != nil {
		l.keys.queue.drop()
	}
}
