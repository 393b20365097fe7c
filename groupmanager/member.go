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
	// closeTimeout is when a consumer that does not close is abandoned: Close
	// hangs for ever after a fencing (confluent-kafka-go 2.11).
	closeTimeout = 10 * time.Second
	// finishTimeout bounds the last commit before partitions are given up.
	finishTimeout = 5 * time.Second
	// leaveTimeout bounds the wait for the client to say to its group that it
	// goes; a JoinGroup that is still to be answered holds it up.
	leaveTimeout = 3 * time.Second
	// leavePoll is how long one poll waits meanwhile.
	leavePoll = 5 * time.Millisecond
)

// Failures of a member that its group has a name for.
var (
	errOffsetOutOfRange = errors.New("the committed offset is not in the log any more")
	errCommitGone       = errors.New("the committed offset is gone from the group")
	errWentBack         = errors.New("the broker tells a lower committed offset than it has confirmed before")
	errTopicGone        = errors.New("a topic of the webhook does not exist any more")
	errTopicRecreated   = errors.New("a topic of the webhook was deleted and made anew")
	errNotAuthorized    = errors.New("the credentials were refused for a topic or the group")
	errInstanceFenced   = errors.New("another process has joined with this replica's kafka.group_instance_id: " +
		"give each replica one of its own, then restart this one")
	errOffsetsReset = errors.New("offsets were set anew")
	errPanicked     = errors.New("a partition panicked")
	errLeaked       = errors.New("a record came out of the wrong queue")
)

// held is a partition that the member holds, with what has to be ended with it.
type held struct {
	*partition
	queue  *partitionqueue.Queue
	cancel context.CancelCauseFunc
}

// member is one Kafka consumer in its group: it polls for events only, answers
// rebalances, and owns the partitions and the committer. A member lives once.
type member struct {
	consumer  *kafka.Consumer
	queues    *partitionqueue.Queues
	committer *committer
	lane      *laneConfig
	lifecycle *lifecycle                                             // nil: the receiver is told of deliveries only
	describe  func(topic string, partition int32) (topicInfo, error) // what is known of a topic
	look      func(topic string) (topicInfo, error)                  // asks the cluster anew
	pinned    map[string]webhooks.Pinned
	memory    *memory // of the group, over the lives of its members
	paused    *atomic.Bool
	drain     time.Duration // below the rebalance timeout
	reset     string        // the webhook's offset_reset
	says      bool          // it tells its group that it leaves: a static member does not
	static    bool          // has a group.instance.id: its generation does not rise when it begins anew
	fenced    func()        // another process has its group.instance.id
	born      time.Time     // just before the consumer was made
	session   time.Duration // that a lease lasts
	maxPoll   time.Duration // between two polls, or the client leaves the group
	logger    *slog.Logger

	lease    lease
	draining atomic.Bool               // run waits for a partition to end
	leaves   atomic.Pointer[time.Time] // when the client leaves the group by itself, unless it is polled before
	current  atomic.Int32              // the group's generation; -1 before the first join
	faults   faults                    // of partitions, on their way to run
	orders   chan order                // seeks, on their way to run
	outgrew  atomic.Bool               // an ack has come that this generation cannot tell the age of
	done     chan struct{}

	// Owned by run; the rebalance callback runs inside its Poll, or inside Close.
	fatal   error
	ctx     context.Context // of run: when it has ended nothing is taken any more
	polled  time.Time       // when Poll returned last
	stalled bool            // the client has given the membership up since the last rebalance
	crashed map[topicPartition]*crash
	seeking *seeking // nil: nothing is being moved

	mu     sync.Mutex // guards the look-ups of acks, status and metrics
	held   map[topicPartition]held
	closed bool
}

// run joins the group and serves it until ctx ends or something fatal happens.
// All partitions are drained and all their progress is committed when it returns.
func (m *member) run(ctx context.Context, topics []string) error {
	defer close(m.done)
	ctx, end := context.WithCancel(ctx)
	defer end()
	m.ctx = ctx
	m.poll(time.Now())
	var commits sync.WaitGroup
	if err := m.consumer.SubscribeTopics(topics, m.rebalance); err != nil {
		m.lifecycle.close()
		return errors.Join(fmt.Errorf("subscribing: %w", err), m.leave(&commits))
	}
	committing, stop := context.WithCancel(context.Background())
	commits.Go(func() { m.committer.run(committing) })
	for ctx.Err() == nil && m.fatal == nil {
		stall()
		e := m.consumer.Poll(int(pollTimeout.Milliseconds()))
		now := time.Now()
		// The client has left the group by itself; it tells of it in a poll to come.
		m.stalled = m.stalled || now.Sub(m.polled) > m.maxPoll
		m.poll(now)
		m.event(e)
		m.current.Store(m.queues.Generation())
		m.tend()
	}
	end()
	m.release(m.disowned(m.fatal), true)
	m.release(slices.Collect(maps.Keys(m.held)), m.consumer.AssignmentLost() || errors.Is(m.fatal, errInstanceFenced))
	m.lifecycle.close()
	m.resetOffsets()
	stop()
	return errors.Join(m.fatal, m.leave(&commits))
}

// poll notes that Poll has returned.
func (m *member) poll(now time.Time) {
	m.polled = now
	m.leaves.Store(new(now.Add(m.maxPoll)))
}

// tend does what others have asked of run since the last poll.
func (m *member) tend() {
	for _, f := range m.faults.take() {
		if err := m.explain(f); err != nil && m.fatal == nil {
			m.fatal = err
		}
	}
	m.restartCrashed(time.Now())
	if m.fatal == nil && m.outgrew.Load() {
		m.logger.Info("the member begins anew, for acks by fields in this generation may be older than a seek")
		m.fatal = errOffsetsReset
	}
	if m.fatal != nil {
		return
	}
	if m.seeking != nil {
		m.endSeek()
		return
	}
	select {
	case o := <-m.orders:
		m.seek(o)
	default:
	}
}

// outgrow has the member leave and join again, once, which raises the generation: a
// receiver that acks by fields would come no further in this one. A static member
// keeps its generation, so it waits for the doubt to end. Anybody may call it.
func (m *member) outgrow() {
	if !m.static {
		m.outgrew.Store(true)
	}
}

// event looks at what Poll gave. Records never come this way.
func (m *member) event(e kafka.Event) {
	switch e := e.(type) {
	case *kafka.Stats:
		m.heard(e.String())
	case *kafka.Message:
		m.fatal = fmt.Errorf("%s: %w", e.TopicPartition, errLeaked)
	case kafka.Error:
		switch {
		case e.Code() == kafka.ErrUnknownTopicOrPart || e.Code() == kafka.ErrUnknownTopic:
			m.fatal = errTopicGone
		case e.Code() == kafka.ErrTopicAuthorizationFailed || e.Code() == kafka.ErrGroupAuthorizationFailed:
			m.fatal = fmt.Errorf("%w: %w", errNotAuthorized, e)
		case e.Code() == kafka.ErrFencedInstanceID:
			m.fatal = errInstanceFenced
			m.fenced() // now: a consumer that was fenced does not close
		case e.IsFatal():
			m.fatal = fmt.Errorf("the Kafka client gave up: %w", e)
		default:
			m.logger.Debug("Kafka client", "error", e)
		}
	}
}

// leave leaves the group and closes the consumer, which it abandons when that
// hangs. A commit under way comes first, and hangs for as long as no broker answers.
func (m *member) leave(commits *sync.WaitGroup) error {
	if m.says {
		poll := func() { m.event(m.consumer.Poll(int(leavePoll.Milliseconds()))) }
		if err := m.queues.Leave(leaveTimeout, poll); err != nil {
			m.logger.Debug("the group is not told that its member leaves", "error", err)
		}
	}
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
func (m *member) commit(due map[topicPartition]position) (map[topicPartition]bool, error) {
	tps := make([]kafka.TopicPartition, 0, len(due))
	topic, same := "", true
	for tp, p := range due {
		tps = append(tps, kafka.TopicPartition{Topic: &tp.topic, Partition: tp.partition, Offset: kafka.Offset(p.offset), Metadata: &p.metadata})
		same = same && (topic == "" || topic == tp.topic)
		topic = tp.topic
	}
	if !same {
		topic = ""
	}
	span := m.lane.tracer.operation("commit", topic, attribute.String("messaging.operation.type", "settle"))
	defer span.End()
	at := time.Now()
	answer, err := m.consumer.CommitOffsets(tps)
	if e, ok := errors.AsType[kafka.Error](err); ok && e.Code() == kafka.ErrGroupAuthorizationFailed {
		m.faults.add(fault{topicPartition{*tps[0].Topic, tps[0].Partition}, nil, fmt.Errorf("%w: %w", errNotAuthorized, err)})
	}
	confirmed := make(map[topicPartition]bool, len(due))
	for _, tp := range answer {
		if err == nil && tp.Error == nil {
			of := topicPartition{*tp.Topic, tp.Partition}
			confirmed[of] = true
			m.memory.confirm(of, due[of].offset)
		} else if tp.Error != nil && err == nil {
			m.logger.Warn("offset not committed", "topic", *tp.Topic, "partition", tp.Partition, "error", tp.Error)
		}
	}
	// An empty group takes a commit from anybody, but then we are in none.
	if len(confirmed) > 0 && m.queues.Generation() >= 0 {
		m.proven(at)
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
