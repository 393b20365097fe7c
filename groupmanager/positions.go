package groupmanager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/internal/partitionqueue"
	"github.com/kpush/kpush/webhooks"
)

// fault is why a partition cannot go on.
type fault struct {
	topicPartition
	tenure *tenure // whose fault it is; nil: whoever holds the partition
	err    error
}

// faults collects them for the member, which looks after every poll. A tenure
// has one at most, and then its partition does nothing more.
type faults struct {
	mu   sync.Mutex
	list []fault
}

func (f *faults) add(one fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, one)
}

func (f *faults) take() []fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := f.list
	f.list = nil
	return list
}

// fault is where partitions tell theirs.
func (m *member) fault(t *tenure, err error) { m.faults.add(fault{t.topicPartition, t, err}) }

// explain turns a fault of a partition into what the group knows, or heals it here
// and returns nil. That of a tenure that has ended meanwhile, by a revoke in the same
// poll, is nobody's any more: what it says of the partition is the next owner's to find.
func (m *member) explain(f fault) error {
	if f.tenure != nil && f.tenure != tenureOf(m.held[f.topicPartition]) {
		return nil
	}
	if errors.Is(f.err, errPanicked) {
		m.crash(f.topicPartition)
		return nil
	}
	if errors.Is(f.err, errTopicRecreated) {
		if at := m.heldOf(f.topic); len(at) > 0 {
			return &positionError{why: errTopicRecreated, at: at}
		}
		return errOffsetsReset // nothing to set anew, but the topic has to be known anew
	}
	e, ok := errors.AsType[*partitionqueue.Error](f.err)
	if !ok {
		return fmt.Errorf("%s [%d]: %w", f.topic, f.partition, f.err)
	}
	switch e.Code {
	case kafka.ErrAutoOffsetReset, kafka.ErrOffsetOutOfRange:
		if m.isAnother(f.topicPartition) {
			return &positionError{why: errTopicRecreated, at: m.heldOf(f.topic)}
		}
		lost := &positionError{why: errOffsetOutOfRange, at: []topicPartition{f.topicPartition}}
		if h, ok := m.held[f.topicPartition]; ok {
			lost.from = m.committer.committed(h.tenure)
		}
		return lost
	case kafka.ErrUnknownTopicOrPart, kafka.ErrUnknownTopic, kafka.ErrUnknownPartition:
		return errTopicGone
	case kafka.ErrTopicAuthorizationFailed:
		return fmt.Errorf("%w: %w", errNotAuthorized, f.err)
	}
	return fmt.Errorf("%s [%d]: %w", f.topic, f.partition, f.err)
}

// isAnother tells whether the topic is not the one any more that the tenure began with.
func (m *member) isAnother(tp topicPartition) bool {
	h, ok := m.held[tp]
	if !ok {
		return false
	}
	now, err := m.look(tp.topic)
	return err == nil && now.id != h.tenure.topicID
}

// heldOf are the partitions held of a topic.
func (m *member) heldOf(topic string) []topicPartition {
	return slices.DeleteFunc(slices.Collect(maps.Keys(m.held)), func(tp topicPartition) bool { return tp.topic != topic })
}

// positionError says that the group has lost its place in some partitions.
type positionError struct {
	why  error
	at   []topicPartition
	from int64 // errOffsetOutOfRange: the committed offset that is not in the log any more
}

func (e *positionError) Error() string {
	return fmt.Sprintf("%s [%d]: %v", e.at[0].topic, e.at[0].partition, e.why)
}

func (e *positionError) Unwrap() error { return e.why }

// disowned are the partitions whose tenures end without a commit when the member
// ends with err: their topic is not the one that they read.
func (m *member) disowned(err error) []topicPartition {
	if e, ok := errors.AsType[*positionError](err); ok && errors.Is(e.why, errTopicRecreated) {
		return e.at
	}
	return nil
}

// resetOffsets commits a new place for the partitions in which the group has lost
// its own, as the webhook's policy says, while the member is still in its group.
// Without a policy the failure stands. In a topic that was made anew the place is
// its beginning: nothing of it was delivered, whatever was committed for the one
// before it.
func (m *member) resetOffsets() {
	lost, ok := errors.AsType[*positionError](m.fatal)
	if !ok {
		return
	}
	policy := m.reset
	if errors.Is(lost.why, errTopicRecreated) {
		policy = webhooks.ResetEarliest
	}
	if policy == webhooks.ResetError {
		return
	}
	due := make(map[topicPartition]position, len(lost.at))
	for _, tp := range lost.at {
		low, high, err := m.consumer.QueryWatermarkOffsets(tp.topic, tp.partition, int(fetchOffsetsTimeout.Milliseconds()))
		switch {
		case isMissing(err) && errors.Is(lost.why, errTopicRecreated):
			continue // it came back with fewer partitions
		case err != nil:
			m.fatal = fmt.Errorf("asking for the ends of %s [%d]: %w", tp.topic, tp.partition, err)
			return
		}
		to := low
		if policy == webhooks.ResetLatest {
			to = high
		}
		due[tp] = position{offset: to}
	}
	m.memory.forget(lost.at)
	if err := m.place(due); err != nil {
		m.fatal = fmt.Errorf("committing a reset: %w", err)
		return
	}
	for tp, to := range due {
		passed := int64(0) // in a topic made anew, or where nobody knows where the group was
		if errors.Is(lost.why, errOffsetOutOfRange) {
			passed = max(0, to.offset-max(0, lost.from))
		}
		m.lane.metrics.passedOver(passed)
		m.logger.Error("the group had lost its place in a partition and was set anew", "topic", tp.topic, "partition", tp.partition,
			"reason", lost.why, "from", lost.from, "to", to.offset, "offset_reset", policy, "passed_over", passed)
	}
	m.fatal = errOffsetsReset
}

func isMissing(err error) bool {
	e, ok := errors.AsType[kafka.Error](err)
	return ok && (e.Code() == kafka.ErrUnknownTopicOrPart || e.Code() == kafka.ErrUnknownTopic || e.Code() == kafka.ErrUnknownPartition)
}

// place commits positions of partitions that have no tenure now; all or an error.
func (m *member) place(due map[topicPartition]position) error {
	if len(due) == 0 {
		return nil
	}
	if m.queues.Generation() < 0 {
		return errNotInGroup
	}
	confirmed, err := m.committer.commitBy(time.Now().Add(finishTimeout), due)
	if err == nil && len(confirmed) < len(due) {
		err = errCommitIncomplete
	}
	return err
}

// order asks a member to move the committed offsets of partitions. What has moved is
// in the group's memory when it is done.
type order struct {
	seek    string // its id: no partition is moved twice by one seek
	targets map[topicPartition]int64
	done    chan<- error // has room for one
}

// seeking is an order that is being carried out: what it is to move is ending.
type seeking struct {
	order
	going map[topicPartition]held
}

// seek has those of the partitions that are held end, as a revoke would. It does not
// wait for them: the member goes on polling, and answers rebalances meanwhile.
func (m *member) seek(o order) {
	o.targets = maps.Clone(o.targets)
	for _, tp := range m.memory.moved(o.seek) {
		delete(o.targets, tp)
	}
	m.seeking = &seeking{order: o, going: make(map[topicPartition]held)}
	for tp := range o.targets {
		if h, ok := m.held[tp]; ok {
			m.seeking.going[tp] = h
			h.cancel(context.Canceled)
		}
	}
	m.endSeek()
}

// endSeek moves what a seek is to move once all of it has ended, and begins it anew
// there. Others of the group are not disturbed. What a rebalance has taken away by
// then is not moved here, whether it came back or not.
func (m *member) endSeek() {
	s := m.seeking
	for _, h := range s.going {
		select {
		case <-h.done:
		default:
			return
		}
	}
	m.seeking = nil
	due := make(map[topicPartition]position)
	for tp, to := range s.targets {
		h, ok := m.held[tp]
		_, crashed := m.crashed[tp]
		if ok && h.tenure == tenureOf(s.going[tp]) || !ok && crashed {
			due[tp] = position{offset: to}
		}
	}
	lost := m.consumer.AssignmentLost()
	tps := slices.Collect(maps.Keys(due))
	m.release(tps, lost)
	if len(due) == 0 || lost {
		s.done <- nil
		return
	}
	m.memory.forget(tps)
	for _, tp := range tps {
		m.doubt(tp, s.going[tp])
	}
	err := m.place(due)
	if err == nil {
		m.memory.move(s.seek, tps)
	} else {
		err = fmt.Errorf("moving committed offsets: %w", err)
	}
	if errors.Is(err, errCommitHung) {
		m.keep(err)
	}
	for _, tp := range tps {
		delete(m.crashed, tp)
	}
	m.resume(tps)
	s.done <- err
}

// doubt remembers how far a partition was delivered before a seek: by h, or by the
// tenure that crashed.
func (m *member) doubt(tp topicPartition, h held) {
	d := doubt{generation: m.current.Load(), upTo: -1}
	if c := m.crashed[tp]; c != nil {
		d.upTo = c.sent
	}
	if h.partition != nil { // it has ended
		d.upTo = max(d.upTo, h.lane.ledger.LastSent())
	}
	if m.static {
		d.until = time.Now().Add(m.lane.webhook.Ack.MaxTimeout())
	}
	m.memory.doubt(tp, d)
}

// tenureOf is the tenure of what is or was held; nil if nothing is.
func tenureOf(h held) *tenure {
	if h.partition == nil {
		return nil
	}
	return h.tenure
}

// seek moves the committed offsets of those partitions that this replica holds now,
// and returns all that it has moved for the seek of that id: when ctx ends the member
// goes on, and the same seek again finds done what was done. Nothing remembered of the
// other partitions stands in the way of their new offsets when they come here.
func (g *group) seek(ctx context.Context, id string, targets map[topicPartition]int64) (moved []topicPartition, err error) {
	g.memory.forget(slices.Collect(maps.Keys(targets)))
	g.mu.Lock()
	m := g.member
	g.mu.Unlock()
	if m != nil {
		err = m.carryOut(ctx, id, targets)
	}
	return g.memory.moved(id), err
}

// carryOut gives run an order and waits for what comes of it; nothing, if run ends.
func (m *member) carryOut(ctx context.Context, id string, targets map[topicPartition]int64) error {
	done := make(chan error, 1)
	select {
	case m.orders <- order{id, targets, done}:
	case <-m.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-m.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// crash is a partition that panicked.
type crash struct {
	times int       // in a row
	due   time.Time // when it begins anew; zero: it runs
	began time.Time // when it began anew last
	sent  int64     // the last offset it had delivered
}

// crash lets go of a partition whose goroutine has panicked. What it had published
// is committed; the rest comes again, with backoff.
func (m *member) crash(tp topicPartition) {
	h := m.held[tp]
	m.release([]topicPartition{tp}, false)
	c := m.crashed[tp]
	if c == nil {
		c = &crash{sent: -1}
		m.crashed[tp] = c
	}
	if h.partition != nil {
		c.sent = max(c.sent, h.lane.ledger.LastSent())
	}
	if time.Since(c.began) > restartMax {
		c.times = 0
	}
	wait := min(restartInitial<<min(c.times, 6), restartMax)
	c.times++
	c.due = time.Now().Add(wait)
	m.logger.Error("a partition failed from within and will begin anew", "topic", tp.topic, "partition", tp.partition,
		"times", c.times, "retry_in", wait)
}

// restartCrashed begins partitions anew whose time has come.
func (m *member) restartCrashed(now time.Time) {
	var due []topicPartition
	for tp, c := range m.crashed {
		if !c.due.IsZero() && !now.Before(c.due) {
			c.due, c.began = time.Time{}, now
			due = append(due, tp)
		}
	}
	m.resume(due)
}

// memory is what this replica knows of the committed offsets of a group: those that
// the broker has confirmed to it. A lower answer later is a broker's error (seen
// with several vendors) or somebody's reset, and a reset is told: by seek, or by
// resume. Safe for concurrent use.
type memory struct {
	mu   sync.Mutex
	ids  map[topicPartition][16]byte // topic id of what is remembered
	at   map[topicPartition]int64
	seek string           // the last one of which something was moved here
	done []topicPartition // what was moved of it

	doubts map[topicPartition]doubt
}

func newMemory() *memory {
	return &memory{
		ids: make(map[topicPartition][16]byte), at: make(map[topicPartition]int64),
		doubts: make(map[topicPartition]doubt),
	}
}

// know tells which topic a partition is of. Another one than before begins anew.
func (r *memory) know(tp topicPartition, id [16]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ids[tp] != id {
		delete(r.at, tp)
		r.ids[tp] = id
	}
}

// confirm remembers that the broker has confirmed an offset.
func (r *memory) confirm(tp topicPartition, offset int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at[tp] = max(offset, r.at[tp])
}

// check returns errWentBack if an answer lies below what is remembered.
func (r *memory) check(tps []topicPartition, committed map[topicPartition]position) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, tp := range tps {
		known, ok := r.at[tp]
		if !ok {
			continue
		}
		if p, has := committed[tp]; !has || p.offset < known {
			told := int64(-1)
			if has {
				told = p.offset
			}
			return fmt.Errorf("%s [%d]: %w: %d after %d", tp.topic, tp.partition, errWentBack, told, known)
		}
	}
	return nil
}

// move remembers that partitions were moved by a seek.
func (r *memory) move(seek string, tps []topicPartition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seek != seek {
		r.seek, r.done = seek, nil
	}
	r.done = append(r.done, tps...)
}

// doubt remembers what a seek leaves behind in a partition, beside what one before it
// in the same generation has left.
func (r *memory) doubt(tp topicPartition, d doubt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.doubts[tp]; ok && old.generation == d.generation {
		d.upTo = max(d.upTo, old.upTo)
	}
	r.doubts[tp] = d
}

// doubtOf is what there is to doubt in a tenure that begins in that generation.
func (r *memory) doubtOf(tp topicPartition, generation int32) doubt {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d, ok := r.doubts[tp]; ok && d.generation == generation {
		return d
	}
	return noDoubt
}

// moved is what was moved by a seek.
func (r *memory) moved(seek string) []topicPartition {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seek != seek {
		return nil
	}
	return slices.Clone(r.done)
}

// forget drops what is remembered of partitions.
func (r *memory) forget(tps []topicPartition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, tp := range tps {
		delete(r.at, tp)
	}
}

// forget drops what this replica remembers of the group's committed offsets: what
// the broker tells next is believed.
func (g *group) forget() {
	g.memory.mu.Lock()
	defer g.memory.mu.Unlock()
	clear(g.memory.at)
}
