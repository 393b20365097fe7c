package groupmanager_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/webhooks"
)

// The tests of this file and its neighbours are rows of the table of faults, and are
// called by their ids. They run against an embedded broker that is made to fail.

// The webhook, its group and its topic of the rows.
const (
	faultTopic = "orders"
	faultHook  = "billing"
	faultGroup = "kpush.default." + faultHook
)

// scene is a house on a broker that can be made to fail, with one webhook.
type scene struct {
	*house
	broker   *gatewaytest.Broker
	produced *gatewaytest.Produced
	pinned   int // commits that pinned where the webhook begins
}

// newScene registers the webhook on a topic of that many partitions.
func newScene(t *testing.T, partitions int32, script gatewaytest.Script, properties map[string]string) *scene {
	t.Helper()
	s := &scene{broker: gatewaytest.NewBroker(t), produced: &gatewaytest.Produced{}}
	s.house = &house{
		id: "replica-1", houses: new(1), brokers: s.broker.Addr(),
		receiver: gatewaytest.NewReceiver(t, script), properties: properties,
	}
	s.kafka = gatewaytest.DialKafka(t, s.brokers)
	s.kafka.CreateTopic(t, faultTopic, partitions)
	s.start(t)
	s.webhook(t, faultHook, faultTopic, earliest, batchOf(10), func(w *webhooks.Webhook) { w.Ack.TimeoutMs = 5000 })
	s.pinned = 1
	return s
}

// produce spreads records over the partitions.
func (s *scene) produce(t *testing.T, partitions int32, records int) {
	t.Helper()
	s.kafka.ProduceLoad(t, s.produced, gatewaytest.Load{Topic: faultTopic, Partitions: partitions, Records: records, Size: 20})
}

// caughtUp waits until all is delivered and committed, and then looks whether it
// came about in the right way.
func (s *scene) caughtUp(t *testing.T) gatewaytest.Report {
	t.Helper()
	s.house.caughtUp(t, faultHook)
	s.broker.CheckCommits(t, faultGroup, s.pinned)
	return s.audit(t, faultHook, faultTopic, s.produced, true)
}

// at is the committed offset of partition p.
func (s *scene) at(t *testing.T, p int32) int64 {
	t.Helper()
	return s.kafka.Committed(t, faultGroup)[gatewaytest.Partition{Topic: faultTopic, ID: p}]
}

// row is what the gateway says of partition p.
func (s *scene) row(t *testing.T, p int32) groupmanager.PartitionStatus {
	t.Helper()
	rows, err := s.Partitions(t.Context(), "default", faultHook)
	if err != nil {
		t.Fatal(err)
	}
	return rows[p]
}

// owned waits until this replica holds partition p at a generation above old.
func (s *scene) owned(t *testing.T, p int32, old int32) int32 {
	t.Helper()
	var generation int32
	gatewaytest.Await(t, patience, func() error {
		rows, err := s.Partitions(t.Context(), "default", faultHook)
		if err != nil {
			return err
		}
		generation = rows[p].Generation
		if rows[p].Owner == "" || generation <= old {
			return fmt.Errorf("partition %d is %s at generation %d, want it held above %d", p, rows[p].State, generation, old)
		}
		return nil
	})
	return generation
}

// join adds a member that is not ours to the group; it commits nothing.
func (s *scene) join(t *testing.T) *kgo.Client {
	t.Helper()
	return gatewaytest.DialKafka(t, s.brokers, kgo.ConsumerGroup(faultGroup), kgo.ConsumeTopics(faultTopic),
		kgo.DisableAutoCommit(), kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.HeartbeatInterval(100*time.Millisecond)).Client()
}

// movedTo is the partition that is not ours any more since the other member joined.
func (s *scene) moved(t *testing.T, since int32) (gone, kept int32) {
	t.Helper()
	gatewaytest.Await(t, patience, func() error {
		rows, err := s.Partitions(t.Context(), "default", faultHook)
		if err != nil {
			return err
		}
		gone, kept = -1, -1
		for _, r := range rows {
			if r.Owner == "" {
				gone = r.Partition
			} else if r.Generation > since {
				kept = r.Partition
			}
		}
		if gone < 0 || kept < 0 {
			return fmt.Errorf("no partition has moved: %+v", rows)
		}
		return nil
	})
	return gone, kept
}

// deliveryOf is the latest delivery of partition p that is of that generation or later.
func (s *scene) deliveryOf(t *testing.T, p, generation int32) gatewaytest.Delivery {
	t.Helper()
	var found gatewaytest.Delivery
	gatewaytest.Await(t, patience, func() error {
		for _, d := range s.receiver.Deliveries(faultHook) {
			if d.Partition.ID == p && d.Generation >= generation {
				found = d
			}
		}
		if len(found.Records) == 0 {
			return fmt.Errorf("partition %d was not delivered since generation %d", p, generation)
		}
		return nil
	})
	return found
}

// byToken and byFields are the two ways to say that a delivery is done.
func byToken(d gatewaytest.Delivery) groupmanager.AckRequest {
	return groupmanager.AckRequest{Token: d.Token}
}

func byFields(d gatewaytest.Delivery) groupmanager.AckRequest {
	return groupmanager.AckRequest{
		Tenant: "default", WebhookID: faultHook, Topic: d.Partition.Topic, Partition: d.Partition.ID,
		Generation: d.Generation, Offset: d.Last(),
	}
}

// failing makes the group's requests of that kind fail until the handle is removed.
func (s *scene) failing(fault kfake.Fault, keys ...kmsg.Key) *kfake.FaultHandle {
	fault.Keys, fault.Group = keys, faultGroup
	if fault.Count == 0 {
		fault.Count = -1
	}
	return s.broker.Fault(fault)
}

// hit waits until a fault has happened n times.
func hit(t *testing.T, h *kfake.FaultHandle, n int) {
	t.Helper()
	gatewaytest.Await(t, patience, func() error {
		if got := h.Hits(); got < n {
			return fmt.Errorf("it happened %d times, want %d", got, n)
		}
		return nil
	})
}

// failed waits until the webhook's state is failed for that reason.
func (s *scene) failed(t *testing.T, reason string) {
	t.Helper()
	gatewaytest.Await(t, patience, func() error {
		e, err := s.Get("default", faultHook)
		if err != nil || e.Webhook.State != webhooks.Failed || e.Webhook.StateReason == nil || *e.Webhook.StateReason != reason {
			return fmt.Errorf("state %s for %v (%v), want failed for %s", e.Webhook.State, e.Webhook.StateReason, err, reason)
		}
		return nil
	})
}
