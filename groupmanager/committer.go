package groupmanager

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

const (
	// commitInterval is how long what became safe may wait for company: a
	// synchronous commit takes 5-6 ms on Kafka 4, so many records share one.
	commitInterval = 100 * time.Millisecond
	// commitRetry is the pause after a commit that the broker refused.
	commitRetry = 500 * time.Millisecond
)

var (
	errCommitHung       = errors.New("a commit did not come back in time")
	errNotInGroup       = errors.New("the member is not in the group now")
	errCommitIncomplete = errors.New("the final commit did not cover everything")
)

// position is what a commit holds of one partition.
type position struct {
	offset   int64
	metadata string // text of acker.Metadata about what begins at offset
}

// commitFunc commits positions and returns the partitions the broker confirmed.
// An error means that the call as a whole failed.
type commitFunc func(map[topicPartition]position) (map[topicPartition]bool, error)

// committer turns the safe offsets of the member's live tenures into committed
// ones. One commit is in flight at most; what becomes safe meanwhile goes in the
// next. It is the only place that commits.
//
// The lock covers "is the tenure still live" and the hand-off; a revoke takes the
// tenures out under the lock and then waits for the commit in flight, so after
// finish no commit of theirs can be served any more.
type committer struct {
	commit     commitFunc
	generation func() int32
	metrics    *instruments
	logger     *slog.Logger

	dirty  chan struct{} // something became safe; one slot
	urgent chan struct{} // somebody waits for a commit; one slot

	mu      sync.Mutex
	live    map[topicPartition]*tenure
	busy    chan struct{} // closed when the commit in flight is back; nil when there is none
	refused int32         // generation that the coordinator has refused; -1: none
	proof   bool          // the next round commits something, due or not
}

func newCommitter(commit commitFunc, generation func() int32, metrics *instruments, logger *slog.Logger) *committer {
	return &committer{
		commit: commit, generation: generation, metrics: metrics, logger: logger,
		dirty:   make(chan struct{}, 1),
		urgent:  make(chan struct{}, 1),
		live:    make(map[topicPartition]*tenure),
		refused: -1,
	}
}

// begin makes a tenure live.
func (c *committer) begin(t *tenure) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live[t.topicPartition] = t
}

// publish tells that everything below n may be committed. The partition calls it.
func (c *committer) publish(t *tenure, n int64) {
	if n <= t.safe.Load() {
		return
	}
	t.safe.Store(n)
	select {
	case c.dirty <- struct{}{}:
	default:
	}
}

// note tells the delivery state that belongs to a commit of n.at. The partition calls it.
func (c *committer) note(t *tenure, n *note) {
	t.noted.Store(n)
	select {
	case c.dirty <- struct{}{}:
	default:
	}
}

// await returns the committed offset once it covers what was asked. It fails with
// ErrNoOwner when the tenure ends first, and with ctx.
func (c *committer) await(ctx context.Context, t *tenure, cover int64) (int64, error) {
	c.mu.Lock()
	if t.committed >= cover {
		defer c.mu.Unlock()
		return t.committed, nil
	}
	if t.ended {
		defer c.mu.Unlock()
		return 0, ErrNoOwner
	}
	done := make(chan int64, 1)
	t.waiters = append(t.waiters, waiter{cover, done})
	c.mu.Unlock()

	select {
	case c.urgent <- struct{}{}:
	default:
	}
	select {
	case n, ok := <-done:
		if !ok {
			return 0, ErrNoOwner
		}
		return n, nil
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		t.waiters = slices.DeleteFunc(t.waiters, func(w waiter) bool { return w.done == done })
		return 0, ctx.Err()
	}
}

// prove has a commit made soon though nothing may be due: that the coordinator takes
// it tells that the member is in its group.
func (c *committer) prove() {
	c.mu.Lock()
	c.proof = true
	c.mu.Unlock()
	select {
	case c.urgent <- struct{}{}:
	default:
	}
}

// committed returns what the broker confirmed for t; -1 when that is not known.
func (c *committer) committed(t *tenure) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return t.committed
}

// run commits until ctx ends.
func (c *committer) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	// pause waits for d, or less when somebody waits for a commit.
	pause := func(d time.Duration) {
		timer.Reset(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.urgent:
		case <-ctx.Done():
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.urgent:
		case <-c.dirty:
			pause(commitInterval)
		}
		for ctx.Err() == nil {
			err := c.round()
			if err == nil {
				break
			}
			c.logger.Warn("commit failed, will be tried again", "error", err, "retry_in", commitRetry)
			pause(commitRetry)
		}
	}
}

// round commits what is safe and not yet committed.
func (c *committer) round() error {
	generation := c.generation() // asks the client's own thread, so not under the lock
	c.mu.Lock()
	taken := make([]*tenure, 0, len(c.live))
	for _, t := range c.live {
		taken = append(taken, t)
	}
	due := dueOf(taken)
	if c.proof && len(due) == 0 && generation >= 0 && generation != c.refused {
		for _, t := range taken {
			if p := t.confirmed(); p.offset >= 0 {
				due[t.topicPartition] = p // once more
				break
			}
		}
	}
	c.proof = false
	switch {
	case len(due) == 0:
		c.mu.Unlock()
		return nil
	case generation < 0 || generation == c.refused:
		// An empty group accepts a commit with generation -1 from anybody; and one
		// that the coordinator has refused it will refuse again.
		c.mu.Unlock()
		return errNotInGroup
	}
	busy := make(chan struct{})
	c.busy = busy
	c.mu.Unlock()

	confirmed, err := c.timedCommit(due)

	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = nil
	close(busy)
	if isOutOfGroup(err) {
		c.refused = generation
	}
	return c.confirm(taken, due, confirmed, err)
}

// dueOf is what of tenures has to be committed now. The caller holds committer.mu.
func dueOf(tenures []*tenure) map[topicPartition]position {
	due := make(map[topicPartition]position)
	for _, t := range tenures {
		if p := t.position(); p != t.confirmed() && p.offset >= 0 {
			due[t.topicPartition] = p
		}
	}
	return due
}

// confirm takes in the answer to a commit. The caller holds committer.mu.
func (c *committer) confirm(tenures []*tenure, due map[topicPartition]position, confirmed map[topicPartition]bool, err error) error {
	for _, t := range tenures {
		if confirmed[t.topicPartition] {
			t.confirm(due[t.topicPartition])
		}
	}
	if err == nil && len(confirmed) < len(due) {
		return errCommitIncomplete
	}
	return err
}

// isOutOfGroup tells whether the coordinator says that the member or its
// generation is not of the group any more. The tenures end when the client tells
// of it; until it has joined anew nothing is committed.
func isOutOfGroup(err error) bool {
	e, ok := errors.AsType[kafka.Error](err)
	if !ok {
		return false
	}
	switch e.Code() {
	case kafka.ErrIllegalGeneration, kafka.ErrUnknownMemberID, kafka.ErrStaleMemberEpoch, kafka.ErrFencedInstanceID:
		return true
	}
	return false
}

// finish commits the last safe offsets of tenures whose partitions have stopped,
// and ends them. After it nothing commits for them any more. It returns by the
// deadline; errCommitHung means that a commit may still be on its way, so that
// the member must leave the group.
func (c *committer) finish(tenures []*tenure, deadline time.Time) error {
	c.mu.Lock()
	for _, t := range tenures {
		delete(c.live, t.topicPartition)
	}
	busy := c.busy
	c.mu.Unlock()
	defer c.end(tenures)

	if busy != nil {
		select {
		case <-busy:
		case <-time.After(time.Until(deadline)):
			return errCommitHung
		}
	}
	for {
		c.mu.Lock()
		due := dueOf(tenures)
		c.mu.Unlock()
		if len(due) == 0 {
			return nil
		}
		if c.generation() < 0 {
			return errNotInGroup
		}
		confirmed, err := c.commitBy(deadline, due)
		c.mu.Lock()
		err = c.confirm(tenures, due, confirmed, err)
		c.mu.Unlock()
		if errors.Is(err, errCommitHung) || isOutOfGroup(err) || (err != nil && time.Until(deadline) < commitRetry) {
			return err
		}
		if err != nil {
			time.Sleep(commitRetry / 10)
		}
	}
}

// commitBy is one commit that is waited for until the deadline: errCommitHung
// means that it may still be on its way.
func (c *committer) commitBy(deadline time.Time, due map[topicPartition]position) (map[topicPartition]bool, error) {
	type outcome struct {
		confirmed map[topicPartition]bool
		err       error
	}
	back := make(chan outcome, 1)
	go func() {
		confirmed, err := c.timedCommit(due)
		back <- outcome{confirmed, err}
	}()
	select {
	case o := <-back:
		return o.confirmed, o.err
	case <-time.After(time.Until(deadline)):
		return nil, errCommitHung
	}
}

// drop ends tenures that were lost: nothing is committed for them.
func (c *committer) drop(tenures []*tenure) {
	c.mu.Lock()
	for _, t := range tenures {
		t.lost.Store(true)
		delete(c.live, t.topicPartition)
	}
	c.mu.Unlock()
	c.end(tenures)
}

func (c *committer) end(tenures []*tenure) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range tenures {
		t.ended = true
		for _, w := range t.waiters {
			close(w.done)
		}
		t.waiters = nil
	}
}

func (c *committer) timedCommit(due map[topicPartition]position) (map[topicPartition]bool, error) {
	start := time.Now()
	confirmed, err := c.commit(due)
	c.metrics.committed(time.Since(start), err)
	return confirmed, err
}
