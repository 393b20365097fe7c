package groupmanager

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

const (
	// fetchOffsetsTimeout bounds one read of committed offsets in the assign callback.
	fetchOffsetsTimeout = 5 * time.Second
	// fetchOffsetsTries in one callback; then the member begins anew with backoff.
	fetchOffsetsTries = 3
	// fetchOffsetsPause comes before the broker is asked again about an answer
	// that cannot be true.
	fetchOffsetsPause = 300 * time.Millisecond
	// lifecyclePatience is how long a receiver has to hear that partitions have gone.
	lifecyclePatience = 2 * time.Second
)

// rebalance runs inside Poll or Close. The client ignores what it returns, so
// failures are kept in m.fatal; and it assigns by itself, around our queues, if
// the callback does not, so every path here assigns or unassigns something.
func (m *member) rebalance(_ *kafka.Consumer, e kafka.Event) error {
	m.current.Store(m.queues.Generation())
	m.stalled = false
	m.lane.metrics.rebalanced()
	switch e := e.(type) {
	case kafka.AssignedPartitions:
		// The coordinator has answered since the poll before this one.
		m.lease.renew(m.polled.Add(m.session))
		assigned := e.Partitions
		if m.ctx.Err() != nil {
			assigned = nil // the member is leaving: Close serves what was still to come
		} else if err := m.take(assigned); err != nil {
			m.fatal = fmt.Errorf("taking an assignment: %w", err)
			assigned = nil
		}
		m.keep(m.change(assigned, m.consumer.IncrementalAssign, m.consumer.Assign))
		m.begin(assigned)
	case kafka.RevokedPartitions:
		tps := namesOf(e.Partitions)
		m.release(tps, m.consumer.AssignmentLost())
		for _, tp := range tps {
			delete(m.crashed, tp)
		}
		m.keep(m.change(m.known(e.Partitions), m.consumer.IncrementalUnassign, func([]kafka.TopicPartition) error { return m.consumer.Unassign() }))
	}
	return nil
}

// known are those of partitions that the client was told to fetch: not what was
// assigned when the member was leaving already, or could not be taken. To take
// away what it does not know is an error that leaves the rebalance unanswered.
func (m *member) known(list []kafka.TopicPartition) []kafka.TopicPartition {
	assigned, err := m.consumer.Assignment()
	if err != nil {
		return list
	}
	has := namesOf(assigned)
	return slices.DeleteFunc(slices.Clone(list), func(tp kafka.TopicPartition) bool {
		return !slices.Contains(has, topicPartition{*tp.Topic, tp.Partition})
	})
}

func namesOf(list []kafka.TopicPartition) []topicPartition {
	tps := make([]topicPartition, len(list))
	for i, tp := range list {
		tps[i] = topicPartition{*tp.Topic, tp.Partition}
	}
	return tps
}

// listOf is the client's form of partitions, without offsets.
func listOf(tps []topicPartition) []kafka.TopicPartition {
	list := make([]kafka.TopicPartition, len(tps))
	for i, tp := range tps {
		list[i] = kafka.TopicPartition{Topic: &tp.topic, Partition: tp.partition}
	}
	return list
}

// cooperative tells whether partitions come and go one by one in this group.
func (m *member) cooperative() bool { return m.consumer.GetRebalanceProtocol() == "COOPERATIVE" }

// change calls what the group's rebalance protocol wants.
func (m *member) change(tps []kafka.TopicPartition, incremental, eager func([]kafka.TopicPartition) error) error {
	if m.cooperative() {
		return incremental(tps)
	}
	return eager(tps)
}

func (m *member) keep(err error) {
	if err != nil && m.fatal == nil {
		m.fatal = fmt.Errorf("answering a rebalance: %w", err)
	}
}

// take makes a tenure of each assigned partition and splits its queue off, which
// has to be done before the client starts to fetch. It fills in where to begin.
// After an error none of them is held.
func (m *member) take(tps []kafka.TopicPartition) error {
	if len(tps) == 0 {
		return nil
	}
	starts, err := m.starts(namesOf(tps))
	if err != nil {
		return err
	}
	generation := m.current.Load()
	for i := range tps {
		tp := topicPartition{*tps[i].Topic, tps[i].Partition}
		at := starts[tp]
		tps[i].Offset = kafka.Offset(at.begin)
		queue, err := m.queues.Split(tp.topic, tp.partition)
		if err != nil {
			m.release(namesOf(tps[:i]), false)
			return err
		}
		tn := newTenure(tp, at.topicID, generation, at.committed)
		tn.doubt = m.memory.doubtOf(tp, generation)
		p := newPartition(m.lane, tn, queue, m.paused, m.fault)
		m.mu.Lock()
		m.held[tp] = held{partition: p, queue: queue}
		m.mu.Unlock()
	}
	return nil
}

// start is where a partition begins.
type start struct {
	topicID   [16]byte
	committed position // offset -1 for none
	begin     int64    // an explicit offset
}

// starts tells where partitions begin: at the committed offset, or at the earliest
// for one that came after the webhook was registered. A *positionError says that
// the group has lost its place in some.
func (m *member) starts(tps []topicPartition) (map[topicPartition]start, error) {
	topics := make(map[topicPartition]topicInfo, len(tps))
	for _, tp := range tps {
		info, err := m.describe(tp.topic, tp.partition)
		if err != nil {
			return nil, err
		}
		m.memory.know(tp, info.id)
		topics[tp] = info
	}
	committed, err := m.committedPositions(tps)
	if err != nil {
		return nil, err
	}
	starts := make(map[topicPartition]start, len(tps))
	var lost []topicPartition
	for _, tp := range tps {
		at, ok := committed[tp]
		if !ok && m.wasPinned(tp, topics[tp]) {
			lost = append(lost, tp)
			continue
		}
		s := start{topicID: topics[tp].id, committed: at, begin: at.offset}
		if !ok {
			s.committed.offset = -1
			if s.begin, err = m.earliest(tp); err != nil {
				return nil, err
			}
		}
		starts[tp] = s
	}
	if len(lost) > 0 {
		return nil, &positionError{why: errCommitGone, at: lost}
	}
	return starts, nil
}

// wasPinned tells whether the partition got a committed offset when the webhook
// was registered. A topic made anew since has none, rightly: Kafka drops the
// offsets of a topic with the topic.
func (m *member) wasPinned(tp topicPartition, info topicInfo) bool {
	p, ok := m.pinned[tp.topic]
	return ok && tp.partition < p.Partitions && (p.TopicID == "" || p.TopicID == hex.EncodeToString(info.id[:]))
}

// earliest is where a partition without a committed offset begins. It is an
// explicit offset because the client, told "the beginning", rewinds the partition
// when a rebalance comes while it is asking where that is.
func (m *member) earliest(tp topicPartition) (int64, error) {
	low, _, err := m.consumer.QueryWatermarkOffsets(tp.topic, tp.partition, int(fetchOffsetsTimeout.Milliseconds()))
	if err != nil {
		return 0, fmt.Errorf("asking for the beginning of %s [%d]: %w", tp.topic, tp.partition, err)
	}
	m.logger.Info("partition has no committed offset, beginning at earliest", "topic", tp.topic, "partition", tp.partition, "offset", low)
	return low, nil
}

// committedPositions reads where the group stands, without partitions that have no
// commit. An answer that lies below what the broker has confirmed to this replica
// before is not believed: it is asked for again, and then it is errWentBack.
func (m *member) committedPositions(tps []topicPartition) (map[topicPartition]position, error) {
	err := m.ctx.Err()
	for n := 0; n < fetchOffsetsTries && m.ctx.Err() == nil; n++ {
		var found []kafka.TopicPartition
		if found, err = m.consumer.Committed(listOf(tps), int(fetchOffsetsTimeout.Milliseconds())); err != nil {
			continue
		}
		committed := make(map[topicPartition]position, len(found))
		for _, tp := range found {
			if tp.Error != nil {
				return nil, fmt.Errorf("reading the committed offset of %s [%d]: %w", *tp.Topic, tp.Partition, tp.Error)
			}
			if tp.Offset >= 0 {
				p := position{offset: int64(tp.Offset)}
				if tp.Metadata != nil {
					p.metadata = *tp.Metadata
				}
				committed[topicPartition{*tp.Topic, tp.Partition}] = p
			}
		}
		if err = m.memory.check(tps, committed); err == nil {
			return committed, nil
		}
		m.logger.Error("the broker's answer about committed offsets is not believed", "error", err)
		select {
		case <-time.After(fetchOffsetsPause):
		case <-m.ctx.Done():
		}
	}
	return nil, fmt.Errorf("reading committed offsets: %w", err)
}

// begin lets the partitions that were taken run.
func (m *member) begin(tps []kafka.TopicPartition) {
	var begun []*partition
	for _, tp := range namesOf(tps) {
		ctx, cancel := context.WithCancelCause(context.Background())
		m.mu.Lock()
		h := m.held[tp]
		h.cancel = cancel
		m.held[tp] = h
		m.mu.Unlock()
		m.committer.begin(h.tenure)
		h.tenure.waiting.Store(m.lifecycle != nil)
		begun = append(begun, h.partition)
		go h.run(ctx, m.drain) // release waits for it
		m.logger.Info("partition assigned", "topic", tp.topic, "partition", tp.partition,
			"generation", h.tenure.began, "committed_offset", h.tenure.start)
	}
	if len(begun) > 0 {
		m.lifecycle.assigned(m.current.Load(), begun)
	}
}

// release ends partitions, all at once: drained and committed, or dropped when
// they were lost. None of their goroutines runs when it returns.
func (m *member) release(tps []topicPartition, lost bool) {
	var going []held
	var tenures []*tenure
	m.mu.Lock()
	for _, tp := range tps {
		if h, ok := m.held[tp]; ok {
			going, tenures = append(going, h), append(tenures, h.tenure)
		}
	}
	m.mu.Unlock()
	if len(going) == 0 {
		return
	}
	cause := context.Canceled
	if lost {
		m.committer.drop(tenures)
		cause = errLost
	} else if breaksDrain {
		cause = errLost
	}
	for _, h := range going {
		if h.cancel != nil {
			h.cancel(cause)
			if errors.Is(cause, errLost) { // one that drains already does not look at a cause any more
				h.cut(errLost)
			}
		}
	}
	for _, h := range going {
		if h.cancel != nil {
			m.ended(h.partition)
		} else {
			h.end() // it never ran
		}
	}
	if !lost {
		if err := m.committer.finish(tenures, time.Now().Add(finishTimeout)); err != nil {
			m.logger.Warn("the last commit before giving partitions up failed, their last records will come again", "error", err)
			if errors.Is(err, errCommitHung) {
				m.keep(err)
			}
		}
	}
	m.committer.haunt(tenures)
	m.lifecycle.given(m.current.Load(), tps, lost, time.Now().Add(min(lifecyclePatience, m.drain)))
	for _, h := range going {
		h.queue.Close()
		m.mu.Lock()
		delete(m.held, h.tenure.topicPartition)
		m.mu.Unlock()
		m.logger.Info("partition given up", "topic", h.tenure.topic, "partition", h.tenure.partition,
			"generation", m.current.Load(), "lost", lost, "safe_offset", h.tenure.safe.Load())
	}
}

// resume begins partitions that are ours and were released anew, where the group has
// its committed offset. The client moves them there, and its assignment is left alone:
// outside of the rebalance callback, to unassign or assign something counts as the
// answer to a rebalance that waits to come out of Poll, whatever that was about, and
// has the client forget that an assignment was lost. If one was, or if the client does
// not read a partition yet or any more, it is not for us to begin anything.
func (m *member) resume(tps []topicPartition) {
	if len(tps) == 0 || m.fatal != nil || m.consumer.AssignmentLost() {
		return
	}
	list := listOf(tps)
	if err := m.take(list); err != nil {
		m.fatal = fmt.Errorf("taking partitions again: %w", err)
		return
	}
	moved, err := m.consumer.SeekPartitions(list)
	for _, tp := range moved {
		err = cmp.Or(err, tp.Error)
	}
	if err != nil {
		m.logger.Warn("partitions cannot begin anew within the member, it begins anew itself", "error", err)
		m.fatal = errOffsetsReset
		return
	}
	m.begin(list)
}

// all lists the partitions held now.
func (m *member) all() []held {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Collect(maps.Values(m.held)), func(h held) bool { return h.cancel == nil })
}
