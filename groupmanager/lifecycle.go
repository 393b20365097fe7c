package groupmanager

import (
	"context"
	"crypto/rand"
	"log/slog"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// notifier makes lifecycle calls to one webhook, *delivery.Notifier outside of
// tests. It is called from many goroutines at once and returns promptly when ctx
// ends.
type notifier interface {
	Notify(ctx context.Context, id string, n delivery.Notice) delivery.Result
}

// lifecycle tells the receiver of a webhook which partitions its member gets and
// gives up. A paused webhook's is told as well, for its member stays in the group.
//
// A member has one if its webhook has a lifecycle URL. It calls assigned and given
// from the goroutine on which it answers rebalances, and close when it has given up
// everything. With nil, which tells nobody, all methods do nothing.
//
// Each assignment has a goroutine of its own until the receiver has confirmed it,
// so that none waits behind another; there are no more of them than partitions.
type lifecycle struct {
	notifier notifier
	retry    webhooks.Retry
	logger   *slog.Logger
	ctx      context.Context // of every call
	end      context.CancelFunc
	running  sync.WaitGroup // the goroutines of announcements

	generation int32 // told last; owned by who calls assigned and given

	mu      sync.Mutex
	pending map[*announcement]struct{}
	told    map[topicPartition]struct{} // the receiver has confirmed that they are here
	deleted bool                        // nothing is announced any more
	silent  bool                        // nothing is told any more
}

// hushPatience is how long a deletion waits for the receiver to be told that its
// partitions have gone: their last requests end first, and it has lifecyclePatience
// to answer.
const hushPatience = lifecyclePatience + time.Second

// announcement is one assigned call, until it is answered 2xx or its partitions
// have gone. All its attempts have one id.
type announcement struct {
	id         string
	generation int32
	ctx        context.Context // ends when no partition is left
	drop       context.CancelFunc

	// Guarded by lifecycle.mu.
	partitions []*partition
	cut        context.CancelFunc // of the attempt under way; nil when there is none
	judged     chan struct{}      // closed when that attempt is over and counted
	attempts   int                // that failed
	last       *AttemptError
	next       time.Time
}

func newLifecycle(n notifier, retry webhooks.Retry, logger *slog.Logger) *lifecycle {
	ctx, end := context.WithCancel(context.Background())
	return &lifecycle{
		notifier: n, retry: retry, logger: logger, ctx: ctx, end: end,
		pending: make(map[*announcement]struct{}),
		told:    make(map[topicPartition]struct{}),
	}
}

// assigned tells the receiver that ps are here, in one call, and returns at once.
// Their tenures must be waiting. When the receiver has answered 2xx they wait no
// longer and are nudged; until then the call is tried again with the webhook's
// backoff, without end and without those that have ended meanwhile.
func (l *lifecycle) assigned(generation int32, ps []*partition) {
	if l == nil || len(ps) == 0 || l.ctx.Err() != nil {
		return
	}
	l.generation = generation
	ctx, drop := context.WithCancel(l.ctx)
	a := &announcement{id: newCallID(), generation: generation, ctx: ctx, drop: drop, partitions: slices.Clone(ps)}
	l.mu.Lock()
	l.pending[a] = struct{}{}
	l.mu.Unlock()
	l.running.Go(func() { l.announce(a) })
}

// given tells the receiver that tps have gone, in one call, once: after they were
// drained and their last commit, or when they were lost. Calls that still announce
// some of them are cut first and go on without them. It returns when the receiver
// has answered, whatever it said, or at the deadline. The receiver is not told of
// partitions whose assignment it has not confirmed. A generation below 0, which is
// what a client has that was put out of its group, stands for the last one it had.
func (l *lifecycle) given(generation int32, tps []topicPartition, lost bool, deadline time.Time) {
	if l == nil || len(tps) == 0 {
		return
	}
	if generation < 0 {
		generation = l.generation
	}
	l.generation = generation
	ctx, cancel := context.WithDeadline(l.ctx, deadline)
	defer cancel()
	for _, judged := range l.withdraw(tps) {
		select {
		case <-judged:
		case <-ctx.Done():
		}
	}
	gone := l.forget(tps)
	if len(gone) == 0 {
		return
	}
	n := delivery.Notice{Type: delivery.PartitionsRevoked, Generation: generation, Partitions: gone, Now: time.Now()}
	if lost {
		n.Type = delivery.PartitionsLost
	}
	if r := l.notifier.Notify(ctx, newCallID(), n); r.Verdict != delivery.Acked {
		l.logger.Warn("lifecycle call failed and is not repeated", "type", n.Type, "generation", generation,
			"partitions", len(gone), "code", r.Code, "status", r.Status)
	}
}

// hush is for the end of a webhook that was deleted. When it returns no call is begun
// any more. An assigned call is not even tried again meanwhile; that the partitions
// have gone is still told if that comes about soon.
func (l *lifecycle) hush(ctx context.Context) {
	if l == nil {
		return
	}
	l.mu.Lock()
	l.deleted = true
	l.mu.Unlock()
	select {
	case <-l.ctx.Done(): // the member has given up everything
	case <-time.After(hushPatience):
	case <-ctx.Done():
	}
	l.mu.Lock()
	l.silent = true
	l.mu.Unlock()
}

// close cuts every call and returns when none is under way. Partitions that are
// still waiting stay so.
func (l *lifecycle) close() {
	if l == nil {
		return
	}
	l.end()
	l.running.Wait()
}

// explain fills in what a row of /partitions tells of a partition that waits for
// its assigned call: the attempts, the last error and the time of the next attempt.
// It leaves other rows alone. Any goroutine may call it.
func (l *lifecycle) explain(s *PartitionStatus) {
	if l == nil || s.State != PartitionWaitingLifecycle {
		return
	}
	tp := topicPartition{s.Topic, s.Partition}
	l.mu.Lock()
	defer l.mu.Unlock()
	for a := range l.pending {
		if !slices.ContainsFunc(a.partitions, func(p *partition) bool { return p.tenure.topicPartition == tp }) {
			continue
		}
		s.Attempt, s.LastError = a.attempts, a.last
		if a.cut != nil {
			s.Attempt++
		} else if !a.next.IsZero() {
			s.NextAttemptAt = new(a.next)
		}
	}
}

// announce makes the attempts of one announcement.
func (l *lifecycle) announce(a *announcement) {
	defer func() {
		a.drop()
		l.mu.Lock()
		delete(l.pending, a)
		l.mu.Unlock()
	}()
	for {
		ctx, ps := l.attempt(a)
		if len(ps) == 0 {
			return
		}
		n := delivery.Notice{Type: delivery.PartitionsAssigned, Generation: a.generation, Now: time.Now()}
		for _, p := range ps {
			n.Partitions = append(n.Partitions, delivery.Partition{Topic: p.tenure.topic, Partition: p.tenure.partition})
		}
		r := l.notifier.Notify(ctx, a.id, n)
		failed, wait := l.judge(ctx, a, ps, r)
		if r.Verdict == delivery.Acked {
			for _, p := range ps {
				p.tenure.waiting.Store(false)
				p.nudge()
			}
			return
		}
		if failed > 0 {
			l.logger.Log(a.ctx, levelOfAttempt(failed), "lifecycle call failed, its partitions wait for it",
				"type", n.Type, "generation", n.Generation, "partitions", len(ps), "call_id", a.id,
				"attempt", failed, "code", r.Code, "status", r.Status, "next_attempt_in", wait)
		}
		select {
		case <-time.After(wait):
		case <-a.ctx.Done():
			return
		}
	}
}

// attempt begins an attempt for the partitions that have not gone; with none of
// them there is no attempt.
func (l *lifecycle) attempt(a *announcement) (context.Context, []*partition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a.partitions = slices.DeleteFunc(a.partitions, func(p *partition) bool {
		select {
		case <-p.done:
			return true
		default:
			return false
		}
	})
	if a.ctx.Err() != nil || len(a.partitions) == 0 || l.deleted {
		return nil, nil
	}
	ctx, cut := context.WithCancel(a.ctx)
	a.cut, a.judged = cut, make(chan struct{})
	return ctx, slices.Clone(a.partitions)
}

// judge ends the attempt that was made with ctx for ps. It returns how many have
// failed and how long to wait for the next. One that given has cut did not fail, and
// is made anew at once; but if its answer was there first, the partitions count as
// told, so that given tells of them too.
func (l *lifecycle) judge(ctx context.Context, a *announcement, ps []*partition, r delivery.Result) (failed int, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	withdrawn := ctx.Err() != nil
	a.cut()
	a.cut = nil
	close(a.judged)
	if r.Verdict == delivery.Acked {
		for _, p := range ps {
			l.told[p.tenure.topicPartition] = struct{}{}
		}
		return 0, 0
	}
	if withdrawn {
		return 0, 0
	}
	a.attempts++
	wait = delivery.Backoff(l.retry, a.attempts, r.RetryAfter, mathrand.Float64())
	a.last = &AttemptError{Code: r.Code, Status: r.Status, At: r.At}
	a.next = time.Now().Add(wait)
	return a.attempts, wait
}

// withdraw takes tps out of what is still announced and cuts the attempts that
// speak of them. What it returns is closed when those are over.
func (l *lifecycle) withdraw(tps []topicPartition) []<-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	gone := make(map[topicPartition]bool, len(tps))
	for _, tp := range tps {
		gone[tp] = true
	}
	var cut []<-chan struct{}
	for a := range l.pending {
		left := slices.DeleteFunc(a.partitions, func(p *partition) bool { return gone[p.tenure.topicPartition] })
		if len(left) == len(a.partitions) {
			continue
		}
		a.partitions = left
		if a.cut != nil {
			a.cut()
			cut = append(cut, a.judged)
		}
		if len(left) == 0 {
			a.drop()
		}
	}
	return cut
}

// forget returns those of tps that the receiver has been told of, and will be told
// of no more; none when it is not told anything any more.
func (l *lifecycle) forget(tps []topicPartition) []delivery.Partition {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.silent {
		return nil
	}
	var gone []delivery.Partition
	for _, tp := range tps {
		if _, ok := l.told[tp]; ok {
			delete(l.told, tp)
			gone = append(gone, delivery.Partition{Topic: tp.topic, Partition: tp.partition})
		}
	}
	return gone
}

// newCallID is the webhook-id of a lifecycle call; it has no full stop.
func newCallID() string { return "lc_" + strings.ToLower(rand.Text()) }
