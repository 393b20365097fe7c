package partitionqueue

import (
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/internal/records"
)

// audit is what all members have read together.
type audit struct {
	mu   sync.Mutex
	read map[string]int // how often, by the record's value
}

func (a *audit) add(b *records.Batch) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range b.Len() {
		a.read[string(b.Value(i))]++
	}
}

func (a *audit) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.read)
}

// member reads its share of a topic the way the gateway does: split before
// assign, one reader per partition, commit and close at revoke.
type member struct {
	t      *testing.T
	topic  string
	client *kafka.Consumer
	queues *Queues
	audit  *audit
	eager  bool          // the strategy takes all partitions away at each rebalance
	leave  func()        // tells run to end; may be called again
	leaves chan struct{} // closed by leave
	left   chan struct{} // closed when run has returned

	mu      sync.Mutex
	readers map[int32]*reader
}

// reader reads one partition.
type reader struct {
	queue *Queue
	stop  chan struct{} // closed to end it
	done  chan struct{} // closed when it has ended
	mu    sync.Mutex
	safe  int64 // everything before it is in the audit; -1 before the first record
}

func startReader(t *testing.T, q *Queue, a *audit) *reader {
	r := &reader{queue: q, stop: make(chan struct{}), done: make(chan struct{}), safe: -1}
	go func() {
		defer close(r.done)
		b := new(records.Batch)
		for {
			b.Reset()
			n, err := q.Read(b, 50)
			if err != nil {
				t.Errorf("reading: %v", err)
				return
			}
			a.add(b)
			r.mu.Lock()
			if n > 0 {
				r.safe = b.Last() + 1
			} else {
				r.safe = q.Position()
			}
			r.mu.Unlock()
			if n > 0 {
				select {
				case <-r.stop:
					return
				default:
					continue
				}
			}
			select {
			case <-q.Wake():
			case <-r.stop:
				return
			}
		}
	}()
	return r
}

func (r *reader) at() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.safe
}

func join(t *testing.T, brokers, topic, group, strategy string, a *audit) *member {
	t.Helper()
	client := consumer(t, []string{brokers},
		"group.id="+group, "partition.assignment.strategy="+strategy, "isolation.level=read_committed",
		"session.timeout.ms=30000", "heartbeat.interval.ms=200")
	queues, err := Open(client)
	if err != nil {
		t.Fatal(err)
	}
	m := &member{
		t: t, topic: topic, client: client, queues: queues, audit: a, eager: strategy == "range",
		leaves: make(chan struct{}), left: make(chan struct{}), readers: map[int32]*reader{},
	}
	m.leave = sync.OnceFunc(func() { close(m.leaves) })
	if err := client.Subscribe(topic, m.rebalance); err != nil {
		t.Fatal(err)
	}
	go m.run()
	// A test that has failed must not close the client under its member's poll:
	// that crashes in C and hides what the test had to say.
	t.Cleanup(m.stop)
	return m
}

// run polls for events until the member leaves, and commits now and then.
func (m *member) run() {
	defer close(m.left)
	commit := time.NewTicker(100 * time.Millisecond)
	defer commit.Stop()
	for {
		select {
		case <-m.leaves:
			if err := m.queues.Leave(patience, m.poll); err != nil {
				m.t.Errorf("leaving: %v", err)
			}
			m.queues.Close()
			if err := m.client.Close(); err != nil {
				m.t.Errorf("closing: %v", err)
			}
			return
		case <-commit.C:
			if err := m.commit(m.held()); err != nil && !betweenGenerations(err) {
				m.t.Errorf("committing: %v", err)
			}
		default:
			m.poll()
		}
	}
}

func (m *member) poll() {
	switch e := m.client.Poll(20).(type) {
	case *kafka.Message:
		m.t.Errorf("a record of %v came out of Poll", e.TopicPartition)
	case kafka.Error:
		m.t.Errorf("the client says %v", e)
	}
}

func (m *member) stop() {
	m.leave()
	<-m.left
}

func (m *member) held() map[int32]*reader {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.readers)
}

// commit commits what is safe of some of the member's partitions.
func (m *member) commit(readers map[int32]*reader) error {
	var offsets []kafka.TopicPartition
	for p, r := range readers {
		if at := r.at(); at >= 0 {
			offsets = append(offsets, kafka.TopicPartition{Topic: &m.topic, Partition: p, Offset: kafka.Offset(at)})
		}
	}
	if len(offsets) == 0 {
		return nil
	}
	_, err := m.client.CommitOffsets(offsets)
	return err
}

// betweenGenerations tells whether a commit failed because the group had moved
// on to a generation the client had not heard of yet. It costs nothing: the
// partitions stay, or their revoke commits again.
func betweenGenerations(err error) bool {
	var e kafka.Error
	return errors.As(err, &e) && (e.Code() == kafka.ErrRebalanceInProgress || e.Code() == kafka.ErrIllegalGeneration)
}

func (m *member) rebalance(_ *kafka.Consumer, e kafka.Event) error {
	switch e := e.(type) {
	case kafka.AssignedPartitions:
		m.take(e.Partitions)
	case kafka.RevokedPartitions:
		m.give(e.Partitions)
	}
	return nil
}

func (m *member) take(partitions []kafka.TopicPartition) {
	if got := m.queues.Generation(); got < 1 {
		m.t.Errorf("generation %d in the assign callback", got)
	}
	taken := map[int32]*Queue{}
	for _, tp := range partitions {
		q, err := m.queues.Split(*tp.Topic, tp.Partition)
		if err != nil {
			m.t.Errorf("splitting %v: %v", tp, err)
			return
		}
		taken[tp.Partition] = q
	}
	// A start has to be a number: at a logical one the client asks the broker
	// for it, and another rebalance in the midst of that makes it ask twice.
	partitions, err := m.client.Committed(partitions, int(patience.Milliseconds()))
	if err != nil {
		m.t.Errorf("asking for committed offsets: %v", err)
	}
	for i := range partitions {
		if partitions[i].Offset < 0 {
			partitions[i].Offset = 0
		}
	}
	assign := m.client.IncrementalAssign
	if m.eager {
		assign = m.client.Assign
	}
	if err := assign(partitions); err != nil {
		m.t.Errorf("assigning: %v", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for p, q := range taken {
		m.readers[p] = startReader(m.t, q, m.audit)
	}
}

func (m *member) give(partitions []kafka.TopicPartition) {
	if m.client.AssignmentLost() {
		m.t.Error("an assignment was lost")
	}
	given := map[int32]*reader{}
	m.mu.Lock()
	for _, tp := range partitions {
		r := m.readers[tp.Partition]
		given[tp.Partition] = r
		delete(m.readers, tp.Partition)
		close(r.stop)
	}
	m.mu.Unlock()
	for _, r := range given {
		<-r.done
	}
	if err := m.commit(given); err != nil {
		m.t.Errorf("committing at revoke: %v", err)
	}
	for _, r := range given {
		r.queue.Close()
	}
	unassign := func() error { return m.client.IncrementalUnassign(partitions) }
	if m.eager {
		unassign = m.client.Unassign
	}
	if err := unassign(); err != nil {
		m.t.Errorf("unassigning: %v", err)
	}
}
