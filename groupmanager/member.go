package groupmanager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.opentelemetry.io/otel/attribute"

	"github.com/kpush/kpush/internal/partitionqueue"
	"github.com/kpush/kpush/webhooks"
)

const (
	// pollTimeout is how long one poll may wait; it bounds how late a stop is seen.
	pollTimeout = 100 * time.Millisecond
	// fetchOffsetsTimeout bounds one read of committed offsets in the assign callback.
	fetchOffsetsTimeout = 5 * time.Second
	// fetchOffsetsTries in one callback; then the member begins anew with backoff.
	fetchOffsetsTries = 3
	// closeTimeout is when a consumer that does not close is abandoned: Close
	// hangs for ever after a fencing (confluent-kafka-go 2.11).
	closeTimeout = 10 * time.Second
)

// Failures of a member that its group has a name for.
var (
	errOffsetOutOfRange = errors.New("the committed offset is not in the log any more")
	errTopicGone        = errors.New("a topic of the webhook does not exist any more")
	errNotAuthorized    = errors.New("the credentials were refused for a topic or the group")
	errOffsetsReset     = errors.New("offsets were reset by policy")
	errLeaked           = errors.New("a record came out of the wrong queue")
)

// held is a partition that the member holds, with what has to be ended with it.
type held struct {
	*partition
	queue  *partitionqueue.Queue
	cancel context.CancelCauseFunc
}

// fault is an error that a partition's queue gave.
type fault struct {
	topicPartition
	err error
}

// member is one Kafka consumer in its group: it polls for events only, answers
// rebalances, and owns the partitions and the committer. A member lives once.
type member struct {
	consumer  *kafka.Consumer
	queues    *partitionqueue.Queues
	committer *committer
	lane      *laneConfig
	topics    map[string]topicInfo
	paused    *atomic.Bool
	drain     time.Duration // below the rebalance timeout
	reset     string        // the webhook's offset_reset
	logger    *slog.Logger

	lease   lease
	current atomic.Int32 // the group's generation; -1 before the first join
	faults  chan fault   // one slot: the first fault ends the member

	// Owned by run; the rebalance callback runs inside its Poll, or inside Close.
	fatal error
	ctx   context.Context // of run: when it has ended nothing is taken any more

	mu     sync.Mutex // guards the look-ups of acks, status and metrics
	held   map[topicPartition]held
	closed bool
}

// run joins the group and serves it until ctx ends or something fatal happens.
// All partitions are drained and all their progress is committed when it returns.
func (m *member) run(ctx context.Context, topics []string) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	m.ctx = ctx
	var commits sync.WaitGroup
	if err := m.consumer.SubscribeTopics(topics, m.rebalance); err != nil {
		return errors.Join(fmt.Errorf("subscribing: %w", err), m.leave(&commits))
	}
	committing, stop := context.WithCancel(context.Background())
	commits.Go(func() { m.committer.run(committing) })
	for ctx.Err() == nil && m.fatal == nil {
		m.event(m.consumer.Poll(int(pollTimeout.Milliseconds())))
		m.current.Store(m.queues.Generation())
		select {
		case f := <-m.faults:
			m.fatal = m.explain(f)
		default:
		}
	}
	end()
	m.release(slices.Collect(maps.Keys(m.held)), m.consumer.AssignmentLost())
	m.resetOffset()
	stop()
	return errors.Join(m.fatal, m.leave(&commits))
}

// event looks at what Poll gave. Records never come this way.
func (m *member) event(e kafka.Event) {
	switch e := e.(type) {
	case *kafka.Message:
		m.fatal = fmt.Errorf("%s: %w", e.TopicPartition, errLeaked)
	case kafka.Error:
		switch {
		case e.Code() == kafka.ErrUnknownTopicOrPart || e.Code() == kafka.ErrUnknownTopic:
			m.fatal = errTopicGone
		case e.Code() == kafka.ErrTopicAuthorizationFailed || e.Code() == kafka.ErrGroupAuthorizationFailed:
			m.fatal = fmt.Errorf("%w: %w", errNotAuthorized, e)
		case e.IsFatal():
			m.fatal = fmt.Errorf("the Kafka client gave up: %w", e)
		default:
			m.logger.Debug("Kafka client", "error", e)
		}
	}
}

// explain turns a fault of a partition's queue into what the group knows.
func (m *member) explain(f fault) error {
	var e *partitionqueue.Error
	if errors.As(f.err, &e) {
		switch e.Code {
		case kafka.ErrAutoOffsetReset, kafka.ErrOffsetOutOfRange:
			gone := &resetError{at: f.topicPartition, committed: -1}
			if h, ok := m.find(f.topicPartition); ok {
				gone.committed = m.committer.committed(h.tenure)
			}
			return gone
		case kafka.ErrUnknownTopicOrPart, kafka.ErrUnknownTopic, kafka.ErrUnknownPartition:
			return errTopicGone
		case kafka.ErrTopicAuthorizationFailed:
			return fmt.Errorf("%w: %w", errNotAuthorized, f.err)
		}
	}
	return fmt.Errorf("%s [%d]: %w", f.topic, f.partition, f.err)
}

// resetError says which partition's committed offset is gone.
type resetError struct {
	at        topicPartition
	committed int64
}

func (e *resetError) Error() string {
	return fmt.Sprintf("%s [%d]: %v", e.at.topic, e.at.partition, errOffsetOutOfRange)
}

func (e *resetError) Unwrap() error { return errOffsetOutOfRange }

// resetOffset moves a committed offset that is not in the log any more to where
// the webhook's policy says, while the member is still in its group. Without a
// policy the failure stands.
func (m *member) resetOffset() {
	var gone *resetError
	if !errors.As(m.fatal, &gone) || m.reset == webhooks.ResetError {
		return
	}
	low, high, err := m.consumer.QueryWatermarkOffsets(gone.at.topic, gone.at.partition, int(fetchOffsetsTimeout.Milliseconds()))
	if err != nil {
		m.fatal = fmt.Errorf("asking for the ends of %s [%d]: %w", gone.at.topic, gone.at.partition, err)
		return
	}
	to := low
	if m.reset == webhooks.ResetLatest {
		to = high
	}
	if confirmed, err := m.commit(map[topicPartition]int64{gone.at: to}); err != nil || !confirmed[gone.at] {
		m.fatal = fmt.Errorf("committing the reset of %s [%d]: %w", gone.at.topic, gone.at.partition, err)
		return
	}
	passed := max(0, to-max(gone.committed, 0))
	m.lane.metrics.passedOver(passed)
	m.logger.Error("the committed offset was not in the log any more and was reset by policy", "topic", gone.at.topic,
		"partition", gone.at.partition, "from", gone.committed, "to", to, "offset_reset", m.reset, "passed_over", passed)
	m.fatal = errOffsetsReset
}

// fault keeps the first error of a partition's queue for run. Partitions call it.
func (m *member) fault(tp topicPartition, err error) {
	select {
	case m.faults <- fault{tp, err}:
	default:
	}
}

// rebalance runs inside Poll or Close. The client ignores what it returns, so
// failures are kept in m.fatal; and it assigns by itself, around our queues, if
// the callback does not, so every path here assigns or unassigns something.
func (m *member) rebalance(_ *kafka.Consumer, e kafka.Event) error {
	m.current.Store(m.queues.Generation())
	m.lane.metrics.rebalanced()
	switch e := e.(type) {
	case kafka.AssignedPartitions:
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
		var tps []topicPartition
		for _, tp := range e.Partitions {
			tps = append(tps, topicPartition{*tp.Topic, tp.Partition})
		}
		m.release(tps, m.consumer.AssignmentLost())
		m.keep(m.change(e.Partitions, m.consumer.IncrementalUnassign, func([]kafka.TopicPartition) error { return m.consumer.Unassign() }))
	}
	return nil
}

// change calls what the group's rebalance protocol wants.
func (m *member) change(tps []kafka.TopicPartition, cooperative, eager func([]kafka.TopicPartition) error) error {
	if m.consumer.GetRebalanceProtocol() == "COOPERATIVE" {
		return cooperative(tps)
	}
	return eager(tps)
}

func (m *member) keep(err error) {
	if err != nil && m.fatal == nil {
		m.fatal = fmt.Errorf("answering a rebalance: %w", err)
	}
}

// take makes a tenure of each assigned partition and splits its queue off, which
// has to be done before the client starts to fetch. It fills in where to begin:
// the committed offset, or the earliest for a partition that has none, since the
// start of the others was pinned when the webhook was registered.
func (m *member) take(tps []kafka.TopicPartition) error {
	if len(tps) == 0 {
		return nil
	}
	committed, err := m.committedOffsets(tps)
	if err != nil {
		return err
	}
	for i := range tps {
		tp := topicPartition{*tps[i].Topic, tps[i].Partition}
		at, ok := committed[tp]
		if tps[i].Offset = kafka.Offset(at); !ok {
			committed[tp] = -1
			if tps[i].Offset, err = m.earliest(tp); err != nil {
				return err
			}
		}
	}
	generation := m.current.Load()
	for i := range tps {
		tp := topicPartition{*tps[i].Topic, tps[i].Partition}
		queue, err := m.queues.Split(tp.topic, tp.partition)
		if err != nil {
			m.release(slices.Collect(maps.Keys(m.held)), false)
			return err
		}
		t := newTenure(tp, m.topics[tp.topic].id, generation, committed[tp])
		p := newPartition(m.lane, t, queue, m.paused, m.fault)
		m.mu.Lock()
		m.held[tp] = held{partition: p, queue: queue}
		m.mu.Unlock()
	}
	return nil
}

// earliest is where a partition without a committed offset begins. It is an
// explicit offset because the client, told "the beginning", rewinds the partition
// when a rebalance comes while it is asking where that is.
func (m *member) earliest(tp topicPartition) (kafka.Offset, error) {
	low, _, err := m.consumer.QueryWatermarkOffsets(tp.topic, tp.partition, int(fetchOffsetsTimeout.Milliseconds()))
	if err != nil {
		return 0, fmt.Errorf("asking for the beginning of %s [%d]: %w", tp.topic, tp.partition, err)
	}
	m.logger.Info("partition has no committed offset, beginning at earliest", "topic", tp.topic, "partition", tp.partition, "offset", low)
	return kafka.Offset(low), nil
}

// committedOffsets reads where the group stands, without partitions that have no commit.
func (m *member) committedOffsets(tps []kafka.TopicPartition) (map[topicPartition]int64, error) {
	err := m.ctx.Err()
	for n := 0; n < fetchOffsetsTries && m.ctx.Err() == nil; n++ {
		var found []kafka.TopicPartition
		if found, err = m.consumer.Committed(tps, int(fetchOffsetsTimeout.Milliseconds())); err != nil {
			continue
		}
		offsets := make(map[topicPartition]int64, len(found))
		for _, tp := range found {
			if tp.Error != nil {
				return nil, fmt.Errorf("reading the committed offset of %s [%d]: %w", *tp.Topic, tp.Partition, tp.Error)
			}
			if tp.Offset >= 0 {
				offsets[topicPartition{*tp.Topic, tp.Partition}] = int64(tp.Offset)
			}
		}
		return offsets, nil
	}
	return nil, fmt.Errorf("reading committed offsets: %w", err)
}

// begin lets the partitions that were taken run.
func (m *member) begin(tps []kafka.TopicPartition) {
	for i := range tps {
		tp := topicPartition{*tps[i].Topic, tps[i].Partition}
		ctx, cancel := context.WithCancelCause(context.Background())
		m.mu.Lock()
		h := m.held[tp]
		h.cancel = cancel
		m.held[tp] = h
		m.mu.Unlock()
		m.committer.begin(h.tenure)
		go h.run(ctx, m.drain) // release waits for it
		m.logger.Info("partition assigned", "topic", tp.topic, "partition", tp.partition,
			"generation", h.tenure.began, "committed_offset", h.tenure.committed)
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
	}
	for _, h := range going {
		if h.cancel != nil {
			h.cancel(cause)
		}
	}
	for _, h := range going {
		if h.cancel != nil {
			<-h.done
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
	for _, h := range going {
		h.queue.Close()
		m.mu.Lock()
		delete(m.held, h.tenure.topicPartition)
		m.mu.Unlock()
		m.logger.Info("partition given up", "topic", h.tenure.topic, "partition", h.tenure.partition,
			"generation", m.current.Load(), "lost", lost, "safe_offset", h.tenure.safe.Load())
	}
}

// finishTimeout bounds the last commit before partitions are given up.
const finishTimeout = 5 * time.Second

// leave closes the consumer, which leaves the group, and abandons it when that
// hangs. A commit under way comes first, and hangs for as long as no broker answers.
func (m *member) leave(commits *sync.WaitGroup) error {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	back := make(chan error, 1)
	go func() {
		commits.Wait()
		m.queues.Close()
		back <- m.consumer.Close()
	}()
	select {
	case err := <-back:
		return err
	case <-time.After(closeTimeout):
		m.logger.Error("the Kafka consumer did not close in time and was abandoned")
		return nil
	}
}

// commit is the committer's commitFunc.
func (m *member) commit(offsets map[topicPartition]int64) (map[topicPartition]bool, error) {
	tps := make([]kafka.TopicPartition, 0, len(offsets))
	topic, same := "", true
	for tp, n := range offsets {
		tps = append(tps, kafka.TopicPartition{Topic: &tp.topic, Partition: tp.partition, Offset: kafka.Offset(n)})
		same = same && (topic == "" || topic == tp.topic)
		topic = tp.topic
	}
	if !same {
		topic = ""
	}
	span := m.lane.tracer.operation("commit", topic, attribute.String("messaging.operation.type", "settle"))
	defer span.End()
	answer, err := m.consumer.CommitOffsets(tps)
	confirmed := make(map[topicPartition]bool, len(offsets))
	for _, tp := range answer {
		if err == nil && tp.Error == nil {
			confirmed[topicPartition{*tp.Topic, tp.Partition}] = true
		} else if tp.Error != nil && err == nil {
			m.logger.Warn("offset not committed", "topic", *tp.Topic, "partition", tp.Partition, "error", tp.Error)
		}
	}
	return confirmed, err
}

// find returns the partition held for tp.
func (m *member) find(tp topicPartition) (held, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h, ok := m.held[tp]
	return h, ok && h.cancel != nil
}

// all lists the partitions held now.
func (m *member) all() []held {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Collect(maps.Values(m.held)), func(h held) bool { return h.cancel == nil })
}

// highWatermark is what the last fetch told of the end of the log; -1 when unknown.
// The lock keeps the consumer from being closed meanwhile; nothing is asked of a broker.
func (m *member) highWatermark(tp topicPartition) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return -1
	}
	_, high, err := m.consumer.GetWatermarkOffsets(tp.topic, tp.partition)
	if err != nil || high < 0 {
		return -1
	}
	return high
}
