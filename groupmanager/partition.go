package groupmanager

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// errLost cancels the partitions of an assignment that was lost: requests under
// way are cut and nothing of theirs counts any more.
var errLost = errors.New("the assignment was lost")

// partition is one assigned partition during one tenure: its fetch side and its
// lane, on one goroutine.
type partition struct {
	tenure *tenure
	paused *atomic.Bool // by the webhook
	linger time.Duration
	fault  func(topicPartition, error) // an error that came out of the queue; up to the member

	asks     chan ask
	inspects chan chan<- PartitionStatus
	changed  chan struct{} // paused changed; one slot
	done     chan struct{} // closed when run has returned

	// Owned by run.
	fetch *fetch
	lane  *lane
	work  context.Context // of the requests under way
	cut   context.CancelCauseFunc
	broke bool // the queue gave an error: nothing more is read in this tenure
}

// newPartition returns a partition that run brings to life.
func newPartition(cfg *laneConfig, t *tenure, src source, paused *atomic.Bool, fault func(topicPartition, error)) *partition {
	work, cut := context.WithCancelCause(context.Background())
	senders := newSenders(work, cfg.client, cfg.dead, cfg.webhook.MaxInFlight)
	return &partition{
		tenure: t, paused: paused, linger: cfg.webhook.Batch.Linger(), fault: fault,
		asks:     make(chan ask),
		inspects: make(chan chan<- PartitionStatus),
		changed:  make(chan struct{}, 1),
		done:     make(chan struct{}),
		fetch:    newFetch(src),
		lane:     newLane(cfg, t, senders),
		work:     work, cut: cut,
	}
}

// run delivers until ctx ends, then lets requests under way end for at most
// drain, unless the cause is errLost. All progress is published when it returns.
func (p *partition) run(ctx context.Context, drain time.Duration) {
	defer close(p.done)
	defer p.end()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	revoked := ctx.Done()
	for revoked != nil || p.lane.inFlight > 0 {
		if revoked != nil {
			p.pump()
			p.arm(timer)
		}
		select {
		case <-p.fetch.source.Wake():
			p.fetch.empty = false
		case d := <-p.lane.senders.results:
			p.lane.finished(d)
		case a := <-p.asks:
			p.lane.state(a)
		case reply := <-p.inspects:
			reply <- p.lane.status(p.paused.Load())
		case <-p.changed:
		case <-timer.C:
			p.lane.expire(time.Now())
		case <-revoked:
			revoked = nil
			if errors.Is(context.Cause(ctx), errLost) {
				p.cut(errLost)
				continue
			}
			stop := time.AfterFunc(drain, func() { p.cut(context.DeadlineExceeded) })
			defer stop.Stop()
		}
	}
}

// end lets go of everything; no request is under way.
func (p *partition) end() {
	p.cut(nil)
	p.lane.senders.close()
	p.lane.drop()
	p.fetch.release()
}

// pump starts every delivery that may go now.
func (p *partition) pump() {
	if p.paused.Load() {
		return
	}
	now := time.Now()
	p.lane.sendDue(now)
	for p.lane.room() && !p.broke {
		limit := p.lane.webhook.Batch.MaxBytes
		full, err := p.fetch.fill(p.lane.limit, limit)
		if err != nil {
			p.broke = true
			p.fault(p.tenure.topicPartition, err)
		}
		if p.fetch.waiting() == 0 {
			p.atRest()
			return
		}
		if !full && p.linger > 0 && now.Before(p.fetch.since.Add(p.linger)) {
			return
		}
		b := p.fetch.cut(p.lane.limit, limit)
		if err := p.lane.deliver(b, now); err != nil {
			// Cannot be: the client gave an offset again. What is not entered is
			// not committed, so the member begins anew from the committed offset.
			b.Free()
			p.broke = true
			p.fault(p.tenure.topicPartition, err)
			return
		}
	}
}

// atRest moves the safe offset over what carries no record, transaction markers
// and aborted records, once everything read is settled: so that lag reaches 0.
func (p *partition) atRest() {
	if len(p.lane.open) > 0 || p.broke {
		return
	}
	if n := p.fetch.source.Position(); n >= 0 {
		p.lane.ledger.Advance(n)
		p.lane.publish(p.tenure, p.lane.ledger.Next())
	}
}

// arm sets the timer to the next thing that time alone brings about.
func (p *partition) arm(timer *time.Timer) {
	paused := p.paused.Load()
	at := p.lane.wakeAt(paused)
	if p.linger > 0 && !paused && p.fetch.waiting() > 0 && p.lane.room() {
		if t := p.fetch.since.Add(p.linger); at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if at.IsZero() {
		timer.Stop()
		return
	}
	timer.Reset(time.Until(at))
}

// nudge makes the partition look again whether it is paused. Anybody may call it.
func (p *partition) nudge() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// inspect returns the partition's status, or false when it has ended.
func (p *partition) inspect(ctx context.Context) (PartitionStatus, bool) {
	reply := make(chan PartitionStatus, 1)
	select {
	case p.inspects <- reply:
		return <-reply, true
	case <-p.done:
	case <-ctx.Done():
	}
	return PartitionStatus{}, false
}

// ask puts a statement to the lane. ErrNoOwner means that the tenure has ended.
func (p *partition) ask(ctx context.Context, a ask) (reply, error) {
	back := make(chan reply, 1)
	a.reply = back
	select {
	case p.asks <- a:
		return <-back, nil
	case <-p.done:
		return reply{}, ErrNoOwner
	case <-ctx.Done():
		return reply{}, ctx.Err()
	}
}
