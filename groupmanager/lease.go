package groupmanager

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/internal/kafkaconf"
)

const (
	// usualSession is the session of a group member where nothing else is said:
	// session.timeout.ms of the client, group.consumer.session.timeout.ms of the broker.
	usualSession = 45 * time.Second

	// leasePart of the session is what a lease lasts. The coordinator counts from
	// when it got a heartbeat, we from when its answer came: a slow answer must not
	// make ours end later than its.
	leasePart = 0.9
)

// lease is how long this replica may act as the owner of its partitions without
// hearing from anybody: to the moment at which the coordinator would give up a
// member that it last heard from when we last heard from it. It is renewed by
// every sign of life from the coordinator, as long as the member polls. These come
// with the client's statistics, through the poll loop; while that waits for a drain, by
// commits, which the coordinator takes from members of its group alone.
//
// The client library has such a clock of its own for the classic protocol, but
// tells of its end through the poll loop, and has none for KIP-848. A process that
// was stopped and goes on finds the lease over before it does anything.
type lease struct {
	until atomic.Pointer[time.Time] // with a monotonic reading; nil: no lease yet
}

// renew sets the end of the lease, never to an earlier time.
func (l *lease) renew(until time.Time) {
	for {
		old := l.until.Load()
		if old != nil && !until.After(*old) || l.until.CompareAndSwap(old, &until) {
			return
		}
	}
}

// holds tells whether the lease has not ended at now.
func (l *lease) holds(now time.Time) bool {
	until := l.until.Load()
	return until != nil && now.Before(*until)
}

// leaseOf is how long a lease of a member with this configuration lasts. With KIP-848
// the session is the broker's to set.
func (s *shared) leaseOf(ctx context.Context, conf kafka.ConfigMap) time.Duration {
	session := milliseconds(conf, "session.timeout.ms", usualSession)
	if s.cfg.Kafka.GroupProtocol == kafkaconf.ConsumerKIP848 {
		var err error
		if session, err = s.cluster.consumerSession(ctx); err != nil {
			session = usualSession
			s.logger.Warn("the brokers' session timeout for consumers could not be read, its default is assumed",
				"session", session, "error", err)
		}
	}
	return time.Duration(leasePart * float64(session))
}

// consumerSession is the session that brokers give members by KIP-848.
func (c *cluster) consumerSession(ctx context.Context) (time.Duration, error) {
	const setting = "group.consumer.session.timeout.ms"
	meta, err := c.admin.GetMetadata(nil, false, int(adminTimeout.Milliseconds()))
	if err != nil || len(meta.Brokers) == 0 {
		return 0, fmt.Errorf("looking for a broker: %w", err)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	broker := kafka.ConfigResource{Type: kafka.ResourceBroker, Name: strconv.Itoa(int(meta.Brokers[0].ID))}
	results, err := c.admin.DescribeConfigs(ctx, []kafka.ConfigResource{broker}, kafka.SetAdminRequestTimeout(adminTimeout))
	if err != nil {
		return 0, fmt.Errorf("describing the broker's configuration: %w", err)
	}
	for _, r := range results {
		if ms, err := strconv.Atoi(r.Config[setting].Value); err == nil && ms > 0 {
			return time.Duration(ms) * time.Millisecond, nil
		}
	}
	return 0, fmt.Errorf("the broker does not tell %s", setting)
}

// rebalanceTimeout is how long the broker waits for members to rejoin: what
// librdkafka sends as such is max.poll.interval.ms.
func rebalanceTimeout(conf kafka.ConfigMap) time.Duration {
	return milliseconds(conf, "max.poll.interval.ms", 5*time.Minute)
}

func milliseconds(conf kafka.ConfigMap, property string, usual time.Duration) time.Duration {
	v, _ := conf.Get(property, "")
	ms, err := strconv.Atoi(fmt.Sprint(v))
	if err != nil || ms <= 0 {
		return usual
	}
	return time.Duration(ms) * time.Millisecond
}

// statistics is what is read of the client's statistics (librdkafka's STATISTICS.md).
type statistics struct {
	Age     int64 `json:"age"` // microseconds since the client was made
	Brokers struct {
		Coordinator struct {
			RxIdle int64 `json:"rxidle"` // microseconds since something came; -1 if nothing did
		} `json:"GroupCoordinator"`
	} `json:"brokers"`
}

// heard renews the lease from the client's statistics. They may have waited for a
// poll while the process was stopped, so their own clock counts, not the time now.
// The coordinator has a connection to itself: heartbeats, commits and their like.
func (m *member) heard(text string) {
	var s statistics
	if err := json.Unmarshal([]byte(text), &s); err != nil || s.Brokers.Coordinator.RxIdle < 0 || s.Age <= 0 {
		return
	}
	if m.current.Load() < 0 || m.stalled {
		return // not in the group: what the coordinator says is no sign of a session
	}
	m.lease.renew(m.born.Add(time.Duration(s.Age-s.Brokers.Coordinator.RxIdle)*time.Microsecond + m.session))
}

// proven renews the lease after a commit that was made at that time and taken by the
// coordinator, but not for longer than the client stays in the group without a poll,
// and only while the poll loop waits for a drain. One that stands still for another
// reason has to let its lease end, and soon: as long as its partitions are read, the
// client takes that for polls and does not leave.
func (m *member) proven(at time.Time) {
	if !m.draining.Load() {
		return
	}
	until := at.Add(m.session)
	if leaves := m.leaves.Load(); leaves == nil {
		return
	} else if leaves.Before(until) {
		until = *leaves
	}
	m.lease.renew(until)
}

// ended waits until a partition has, and keeps the lease up for the others meanwhile.
func (m *member) ended(p *partition) {
	m.draining.Store(true)
	defer m.draining.Store(false)
	tick := time.NewTicker(max(minStatistics, m.session/statisticsPart))
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			return
		case now := <-tick.C:
			if !m.lease.holds(now.Add(m.session / 2)) {
				m.committer.prove()
			}
		}
	}
}
