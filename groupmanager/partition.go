package groupmanager

import (
	"context"
	"errors"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// errLost cancels the partitions of an assignment that was lost: requests under
// way are cut and nothing of theirs counts any more.
var errLost = errors.New("the assignment was lost")

// leaseLook is how often a partition whose lease is over looks whether it has one
// again.
const leaseLook = 250 * time.Millisecond

// partition is one assigned partition during one tenure: its fetch side and its
// lane, on one goroutine.
type partition struct {
	tenure *tenure
	paused *atomic.Bool // by the webhook
	linger time.Duration
	fault  func(*tenure, error) // an error that came out of the queue; up to the member

	asks     chan ask
	inspects chan chan<- PartitionStatus
	changed  chan struct{} // paused or the tenure's waiting changed; one slot
	done     chan struct{} // closed when run has returned

	// Owned by run.
	fetch *fetch
	sieve *sieve // that fetch reads through; nil without a filter
	lane  *lane
	work  context.Context // of the requests under way
	cut   context.CancelCauseFunc
	broke bool // the queue gave an error: nothing more is read in this tenure
}

// newPartition returns a partition that run brings to life.
func newPartition(cfg *laneConfig, t *tenure, src source, paused *atomic.Bool, fault func(*tenure, error)) *partition {
	work, cut := context.WithCancelCause(context.Background())
	senders := newSenders(work, cfg.client, cfg.dead, cfg.webhook.MaxInFlight, cfg.logger)
	sieve := newSieve(cfg, t, src)
	if sieve != nil {
		src = sieve
	}
	p := &partition{
		tenure: t, paused: paused, linger: cfg.webhook.Batch.Linger(), fault: fault,
		asks:     make(chan ask),
		inspects: make(chan chan<- PartitionStatus),
		changed:  make(chan struct{}, 1),
		done:     make(chan struct{}),
		fetch:    newFetch(src),
		sieve:    sieve,
		work:     work, cut: cut,
	}
	p.lane = newLane(cfg, t, senders, p.nudge)
	return p
}

// run delivers until ctx ends, then lets requests under way end for at most
// drain, unless the cause is errLost. All progress is published when it returns.
// A panic ends it at once and is told as errPanicked; what was published before
// stands.
func (p *partition) run(ctx context.Context, drain time.Duration) {
	defer close(p.done)
	defer p.rescue()
	p.serve(ctx, drain)
	p.end()
}

// serve is run without its end.
func (p *partition) serve(ctx context.Context, drain time.Duration) {
	p.lane.resume()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	revoked := ctx.Done()
	for revoked != nil || p.lane.inFlight > 0 {
		if revoked != nil {
			p.arm(timer, p.pump())
		}
		select {
		case <-p.fetch.source.Wake():
			p.fetch.empty = false
		case d := <-p.lane.senders.results:
			p.lane.finished(d)
		case a := <-p.asks:
			p.lane.state(a)
		case reply := <-p.inspects:
			reply <- p.status()
		case <-p.changed:
		case <-timer.C:
			p.lane.expire(time.Now())
		case <-revoked:
			revoked = nil
			p.lane.pace.line.Withdraw()
			if errors.Is(context.Cause(ctx), errLost) {
				p.cut(errLost)
				continue
			}
			stop := time.AfterFunc(drain, func() { p.cut(context.DeadlineExceeded) })
			defer stop.Stop()
		}
	}
	p.lane.tell(true)
}

// rescue keeps a panic in this partition from ending the process. Requests under
// way are cut. Buffers are left to the garbage collector: who holds them is not
// known any more.
func (p *partition) rescue() {
	v := recover()
	if v == nil {
		return
	}
	p.lane.logger.Error("the partition panicked", "topic", p.tenure.topic, "partition", p.tenure.partition,
		"panic", v, "stack", string(debug.Stack()))
	p.cut(errPanicked)
	p.lane.senders.close()
	p.lane.pace.line.Close(time.Now())
	p.tenure.inFlight.Store(0)
	p.fault(p.tenure, errPanicked)
}

// end lets go of everything; no request is under way.
func (p *partition) end() {
	p.cut(nil)
	p.lane.senders.close()
	p.lane.drop()
	p.fetch.release()
	p.sieve.release()
}

// status is what the partition is doing.
func (p *partition) status() PartitionStatus {
	s := p.lane.status(p.paused.Load())
	s.Filtered = p.sieve.filtered()
	return s
}

// held tells whether nothing new may start: the webhook is paused, the receiver
// has not yet answered the lifecycle call, or the lease is over.
func (p *partition) held(now time.Time) bool {
	return p.paused.Load() || p.tenure.waiting.Load() || !p.lane.lease.holds(now)
}

// pump starts every delivery that may go now, and tells whether it was held from
// starting more.
func (p *partition) pump() (held bool) {
	now := time.Now()
	p.lane.pace.asked = false
	defer p.lane.giveWay()
	if p.held(now) {
		return true
	}
	p.lane.sendDue(now)
	p.sieve.turn(now)
	if p.lane.keys != nil {
		return p.pumpKeys()
	}
	for ; p.lane.room() && !p.broke; now = time.Now() {
		if p.held(now) {
			return true
		}
		limit := p.lane.webhook.Batch.MaxBytes
		full, err := p.fetch.fill(p.lane.limit, limit)
		if err != nil {
			p.broke = true
			p.fault(p.tenure, err)
		}
		if p.fetch.waiting() == 0 {
			p.atRest()
			return false
		}
		wanted := p.lane.plain.Wanted(p.fetch.offset())
		if p.fetch.drop(wanted.First) {
			continue // an earlier tenure settled them
		}
		full = full || p.fetch.last() > wanted.Last
		if !full && (p.linger > 0 && now.Before(p.fetch.since.Add(p.linger)) || p.sieve.gathers(p.fetch.since, now)) {
			return false
		}
		pass, ok := p.lane.mayBegin(now)
		if !ok {
			return false
		}
		b := p.fetch.cut(p.lane.limit, limit, wanted.Last)
		if err := p.lane.deliver(b, pass, now); err != nil {
			// Cannot be: the client gave an offset again. What is not entered is
			// not committed, so the member begins anew from the committed offset.
			b.Free()
			p.broke = true
			p.fault(p.tenure, err)
			return false
		}
	}
	return false
}

// atRest moves the safe offset over what carries no record, transaction markers,
// aborted records and what the filter dropped, once everything read is settled: so
// that lag reaches 0. With a filter there may be more to read.
func (p *partition) atRest() {
	if len(p.lane.open) > 0 || p.broke {
		return
	}
	before := p.lane.ledger.Next()
	p.lane.ledger.Advance(p.fetch.source.Position())
	if p.lane.ledger.Next() > before {
		p.lane.tell(false)
	}
}

// arm sets the timer to the next thing that time alone brings about. held is what
// pump has found. It is not looked at again: the lease may have come back since, of
// which nobody tells, and what pump has left would wait for something else to happen.
func (p *partition) arm(timer *time.Timer, held bool) {
	at := p.lane.wakeAt(held)
	_, waits := p.lane.pace.line.Waits()
	if since := p.waitingSince(); p.linger > 0 && !held && !waits && !since.IsZero() && p.lane.room() {
		at = earlier(at, since.Add(p.linger))
	}
	if held && !p.paused.Load() && !p.tenure.waiting.Load() { // else a nudge comes
		at = earlier(at, time.Now().Add(leaseLook))
	}
	if at.IsZero() {
		timer.Stop()
		return
	}
	timer.Reset(time.Until(at))
}

// nudge makes the partition look again whether it is held. Anybody may call it.
func (p *partition) nudge() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// inspect returns the partition's status, or false when it has ended.
func (p *partition) inspect(ctx context.Context) (PartitionStatus, bool) {
	back := make(chan PartitionStatus, 1)
	select {
	case p.inspects <- back:
		return answer(back, p.done)
	case <-p.done:
	case <-ctx.Done():
	}
	return PartitionStatus{}, false
}

// ask puts a statement to the lane. ErrNoOwner means that the tenure has ended, or
// that its lease is over and nobody knows.
func (p *partition) ask(ctx context.Context, a ask) (reply, error) {
	back := make(chan reply, 1)
	a.reply = back
	select {
	case p.asks <- a:
		r, ok := answer(back, p.done)
		if !ok || errors.Is(r.err, ErrNoOwner) {
			return reply{}, ErrNoOwner
		}
		return r, nil
	case <-p.done:
		return reply{}, ErrNoOwner
	case <-ctx.Done():
		return reply{}, ctx.Err()
	}
}

// answer waits for what a partition sends back, which has a slot. There is none if
// it panicked over the question.
func answer[T any](back <-chan T, done <-chan struct{}) (T, bool) {
	select {
	case v := <-back:
		return v, true
	case <-done:
	}
	select {
	case v := <-back:
		return v, true
	default:
		var none T
		return none, false
	}
}
