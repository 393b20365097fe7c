package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

const (
	// pollTimeout is how long one poll may wait; it bounds how late a stop is seen.
	pollTimeout = 100 * time.Millisecond

	// closeTimeout is when a consumer that does not close is abandoned: Close can
	// hang for ever after a fencing (confluent-kafka-go 2.11).
	closeTimeout = 5 * time.Second

	// leadGrace is how long the leadership is held back for Lead to end. It is below
	// every rebalance timeout, or the group would go on without this member.
	leadGrace = 5 * time.Second

	// Pauses between two memberships, and between two calls of Lead; each is twice
	// the one before.
	firstPause = 500 * time.Millisecond
	maxPause   = 30 * time.Second

	// soundLife is how long something has to have lasted for the pauses to begin anew.
	soundLife = 10 * time.Second
)

// belong keeps this replica in the control group until ctx ends.
func (r *Replica) belong(ctx context.Context) {
	var former <-chan struct{}
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		m := &member{Replica: r, former: former}
		err := m.run(ctx)
		former = m.former
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) >= soundLife {
			pause = firstPause
		}
		r.logger.Error("the membership in the control group ended and will begin again", "group", r.group, "error", err, "retry_in", pause)
		sleep(ctx, pause)
		pause = min(2*pause, maxPause)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// member is one consumer in the control group. It lives once. Its fields belong to
// the goroutine of run, in whose polls the rebalance callback is called; after
// that to the one that closes the consumer.
type member struct {
	*Replica
	consumer *kafka.Consumer
	fatal    error
	gone     bool // it takes nothing any more

	reign  *reign          // nil unless it owns the partition
	former <-chan struct{} // closed when the reign before has ended; nil: there was none
}

// reign is the time from an assignment of the partition to its revocation.
type reign struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when Lead has returned
}

// run joins the group and takes part until ctx ends or something fatal happens.
func (m *member) run(ctx context.Context) error {
	conf := m.kafka.Control(m.group)
	consumer, err := kafka.NewConsumer(&conf)
	if err != nil {
		return fmt.Errorf("making the consumer: %w", err)
	}
	m.consumer = consumer
	logging, stopLogs := context.WithCancel(context.WithoutCancel(ctx))
	var logs sync.WaitGroup
	logs.Go(func() { m.kafka.Logs(logging, consumer.Logs()) })
	defer logs.Wait()
	defer stopLogs()

	err = consumer.SubscribeTopics([]string{m.topic}, m.rebalance)
	for err == nil && m.fatal == nil && ctx.Err() == nil {
		m.event(consumer.Poll(int(pollTimeout.Milliseconds())))
	}
	m.gone = true
	m.abdicate()
	m.close()
	return errors.Join(err, m.fatal)
}

// close closes the consumer, which leaves the group, and abandons it when that
// hangs.
func (m *member) close() {
	closed := make(chan error, 1)
	go func() { closed <- m.consumer.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			m.logger.Warn("leaving the control group failed", "group", m.group, "error", err)
		}
	case <-time.After(closeTimeout):
		m.logger.Error("the consumer of the control group did not close in time and was abandoned", "group", m.group)
	}
}

// event looks at what Poll gave. There are no records: nothing is ever assigned to
// the client, see rebalance.
func (m *member) event(e kafka.Event) {
	err, ok := e.(kafka.Error)
	switch {
	case !ok:
	case err.IsFatal(), err.Code() == kafka.ErrTopicAuthorizationFailed, err.Code() == kafka.ErrGroupAuthorizationFailed:
		m.fatal = err
	default:
		m.logger.Debug("Kafka client of the control group", "error", err)
	}
}

// rebalance begins and ends reigns. Whatever is assigned, the client is told of no
// partition: then it fetches nothing, while the group knows the partition as ours.
// It has to be told, or it would assign by itself.
func (m *member) rebalance(_ *kafka.Consumer, e kafka.Event) error {
	switch e := e.(type) {
	case kafka.AssignedPartitions:
		if m.owns(e.Partitions) && !m.gone {
			m.accede()
		}
		m.keep(m.consumer.IncrementalAssign(nil))
	case kafka.RevokedPartitions:
		if m.owns(e.Partitions) {
			m.abdicate()
		}
		m.keep(m.consumer.IncrementalUnassign(nil))
	}
	return nil
}

// owns tells whether the partition that makes a leader is among those.
func (m *member) owns(tps []kafka.TopicPartition) bool {
	for _, tp := range tps {
		if *tp.Topic == m.topic && tp.Partition == 0 {
			return true
		}
	}
	return false
}

// keep remembers the first failure; the client ignores what the callback returns.
func (m *member) keep(err error) {
	if err != nil && m.fatal == nil {
		m.fatal = fmt.Errorf("answering a rebalance: %w", err)
	}
}

// accede begins to lead.
func (m *member) accede() {
	if m.reign != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.reign = &reign{cancel, make(chan struct{})}
	m.leads.Store(true)
	m.logger.Info("this replica leads", "group", m.group, "replica", m.self.ID)
	go m.rule(ctx, m.reign.done, m.former)
}

// abdicate ends the reign, and waits for leadGrace.
func (m *member) abdicate() {
	if m.reign == nil {
		return
	}
	m.leads.Store(false)
	m.reign.cancel()
	select {
	case <-m.reign.done:
		m.logger.Info("this replica does not lead any more", "group", m.group, "replica", m.self.ID, "lost", m.consumer.AssignmentLost())
	case <-time.After(leadGrace):
		m.logger.Error("leading does not end and is left behind", "group", m.group, "waited", leadGrace)
	}
	m.former, m.reign = m.reign.done, nil
}

// rule calls Lead until ctx ends. It first waits for the reign before, of which
// something may have been left behind.
func (r *Replica) rule(ctx context.Context, done chan<- struct{}, former <-chan struct{}) {
	defer close(done)
	if former != nil {
		<-former
	}
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := r.lead(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) >= soundLife {
			pause = firstPause
		}
		r.logger.Error("leading ended and will begin again", "replica", r.self.ID, "error", err, "retry_in", pause)
		sleep(ctx, pause)
		pause = min(2*pause, maxPause)
	}
}
