package groupmanager_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/webhooks"
)

func TestASeekMovesRunningPartitionsOfAllReplicas(t *testing.T) {
	leader, other := pair(t, gatewaytest.OK)
	leader.kafka.CreateTopic(t, "orders", 4)
	produced := &gatewaytest.Produced{}
	leader.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 4, Records: 40, Size: 20})
	leader.webhook(t, "billing", "orders", earliest)
	shared(t, "billing", leader, other)
	leader.caughtUp(t, "billing")
	count := func() int {
		n := 0
		for _, d := range leader.receiver.Deliveries("billing") {
			n += len(d.Records)
		}
		return n
	}
	before := count()

	earliestAgain := groupmanager.SeekRequest{To: "earliest", DryRun: true}
	check := func(moves []groupmanager.SeekMove, err error, want int, from, to int64) {
		t.Helper()
		if err != nil || len(moves) != want {
			t.Fatalf("moves %+v, %v, want %d of them", moves, err, want)
		}
		for _, m := range moves {
			if m.Topic != "orders" || m.From == nil || *m.From != from || m.To != to {
				t.Errorf("partition %d moves from %s to %d, want %d to %d", m.Partition, show(m.From), m.To, from, to)
			}
		}
	}
	moves, err := other.Seek(t.Context(), "default", "billing", earliestAgain)
	check(moves, err, 4, 10, 0)
	if got := leader.committed(t, "billing", "orders"); got != 10 || count() != before {
		t.Errorf("after a dry run committed offset %d and %d records delivered, want 10 and %d", got, count(), before)
	}
	earliestAgain.DryRun = false
	moves, err = other.Seek(t.Context(), "default", "billing", earliestAgain)
	check(moves, err, 4, 10, 0)
	gatewaytest.Await(t, patience, func() error {
		if got := count(); got != before+40 {
			return fmt.Errorf("%d records delivered, want all 40 again after %d", got, before)
		}
		return nil
	})
	leader.caughtUp(t, "billing")

	// Two partitions to offsets of their own; the others stay.
	moves, err = leader.Seek(t.Context(), "default", "billing", groupmanager.SeekRequest{Partitions: []groupmanager.SeekPartition{
		{Topic: "orders", Partition: 1, Offset: 7}, {Topic: "orders", Partition: 2, Offset: 7},
	}})
	check(moves, err, 2, 10, 7)
	gatewaytest.Await(t, patience, func() error {
		if got := count(); got != before+40+6 {
			return fmt.Errorf("%d records delivered, want 6 more after %d", got, before+40)
		}
		return nil
	})
	leader.caughtUp(t, "billing")
}

func TestAPausedWebhookIsMovedByATime(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 2)
	h.kafka.ProduceLoad(t, &gatewaytest.Produced{}, gatewaytest.Load{Topic: "orders", Partitions: 2, Records: 20, Size: 20})
	h.webhook(t, "billing", "orders", earliest)
	h.caughtUp(t, "billing")
	if _, err := h.Pause(t.Context(), "default", "billing"); err != nil {
		t.Fatal(err)
	}
	moves, err := h.Seek(t.Context(), "default", "billing", groupmanager.SeekRequest{Time: new(time.Unix(0, 0))})
	if err != nil || len(moves) != 2 || moves[0].To != 0 {
		t.Fatalf("to the beginning of time: %+v, %v, want both partitions at 0", moves, err)
	}
	if got := h.committed(t, "billing", "orders"); got != 0 {
		t.Errorf("committed offset %d of a paused webhook, want 0", got)
	}
	moves, err = h.Seek(t.Context(), "default", "billing", groupmanager.SeekRequest{Time: new(time.Now().Add(time.Hour))})
	if err != nil || len(moves) != 2 || moves[1].To != 10 {
		t.Errorf("to a time that has not come: %+v, %v, want both partitions at their ends", moves, err)
	}
}

func TestASeekCuresAWebhookThatFailsOverItsOffset(t *testing.T) {
	leader := newHouse(t, gatewaytest.OK)
	leader.kafka.CreateTopic(t, "orders", 1)
	produced := &gatewaytest.Produced{}
	leader.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 1, Records: 10, Size: 20})
	leader.webhook(t, "billing", "orders", earliest)
	leader.caughtUp(t, "billing")
	leader.stop()
	leader.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 1, Records: 10, Size: 20})
	gone := kadm.Offsets{}
	gone.Add(kadm.Offset{Topic: "orders", Partition: 0, At: 15})
	if _, err := leader.kafka.Admin().DeleteRecords(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	leader.start(t)
	other := leader.another(t)
	for _, h := range []*house{other, leader} { // only one of them has the partition
		gatewaytest.Await(t, patience, func() error {
			e, err := h.Get("default", "billing")
			if err != nil || e.Webhook.State != webhooks.Failed || *e.Webhook.StateReason != "offset_out_of_range" {
				return fmt.Errorf("at %s the state is %s, %v, want failed", h.id, e.Webhook.State, err)
			}
			return nil
		})
	}
	moves, err := other.Seek(t.Context(), "default", "billing", groupmanager.SeekRequest{To: "earliest"})
	if err != nil || len(moves) != 1 || moves[0].From == nil || *moves[0].From != 10 || moves[0].To != 15 {
		t.Fatalf("the seek: %+v, %v, want the partition to move from 10 to 15", moves, err)
	}
	if _, err := other.Resume(t.Context(), "default", "billing"); err != nil {
		t.Fatal(err)
	}
	leader.caughtUp(t, "billing")
	gatewaytest.Await(t, patience, func() error {
		if e, err := other.Get("default", "billing"); err != nil || e.Webhook.State != webhooks.Active {
			return fmt.Errorf("after the seek the state is %s, %v, want active", e.Webhook.State, err)
		}
		return nil
	})
}

func TestASeekIsRefused(t *testing.T) {
	leader, other := pair(t, gatewaytest.OK)
	leader.kafka.CreateTopic(t, "orders", 2)
	leader.kafka.ProduceLoad(t, &gatewaytest.Produced{}, gatewaytest.Load{Topic: "orders", Partitions: 2, Records: 20, Size: 20})
	leader.webhook(t, "billing", "orders", earliest)
	leader.caughtUp(t, "billing")
	first := groupmanager.SeekPartition{Topic: "orders", Partition: 0, Offset: 3}
	for pointer, r := range map[string]groupmanager.SeekRequest{
		"/to":                        {},
		"/to/time":                   {Time: new(time.Unix(-1, 0))},
		"/to/partitions":             {Partitions: []groupmanager.SeekPartition{}},
		"/to/partitions/1":           {Partitions: []groupmanager.SeekPartition{first, first}},
		"/to/partitions/1/topic":     {Partitions: []groupmanager.SeekPartition{first, {Topic: "other"}}},
		"/to/partitions/0/topic":     {Partitions: []groupmanager.SeekPartition{{Topic: ""}}},
		"/to/partitions/1/offset":    {Partitions: []groupmanager.SeekPartition{first, {Topic: "orders", Partition: 1, Offset: 11}}},
		"/to/partitions/0/offset":    {Partitions: []groupmanager.SeekPartition{{Topic: "orders", Offset: -1}}},
		"/to/partitions/0/partition": {Partitions: []groupmanager.SeekPartition{{Topic: "orders", Partition: 2}}},
	} {
		for _, h := range []*house{leader, other} {
			var invalid *webhooks.ValidationError
			moves, err := h.Seek(t.Context(), "default", "billing", r)
			if !errors.As(err, &invalid) || invalid.Fields[0].Pointer != pointer {
				t.Errorf("at %s, %+v: %v, %v, want a complaint about %s", h.id, r, moves, err, pointer)
			}
		}
	}
	if got := leader.committed(t, "billing", "orders"); got != 10 {
		t.Errorf("committed offset %d after refusals only, want 10", got)
	}
}

// toOffset is a seek of one partition of the scene's topic.
func toOffset(p int32, offset int64) groupmanager.SeekRequest {
	return groupmanager.SeekRequest{Partitions: []groupmanager.SeekPartition{{Topic: faultTopic, Partition: p, Offset: offset}}}
}

// seek begins a seek and returns what is going to have its error.
func (s *scene) seek(t *testing.T, r groupmanager.SeekRequest) <-chan error {
	sought := make(chan error, 1)
	go func() {
		_, err := s.Seek(t.Context(), "default", faultHook, r)
		sought <- err
	}()
	return sought
}

// While a partition drains for a seek, another member joins and is to get some of the
// others. It gets them when what is being delivered of them has ended, as ever: what
// the seek says to the client must not count as the answer to their revoke.
func TestASeekIsNoAnswerToARebalance(t *testing.T) {
	t.Parallel()
	const partitions, moved, slow = 4, 3, 3 * time.Second
	s := newScene(t, partitions, func(*gatewaytest.Delivery) gatewaytest.Answer { return gatewaytest.Answer{Delay: slow} }, nil)
	s.produce(t, partitions, 1000)
	s.delivered(t, faultHook, partitions)
	sought := s.seek(t, toOffset(moved, 0))
	type taking struct {
		partitions []int32
		at         time.Time
	}
	takings := make(chan taking, 10)
	gatewaytest.DialKafka(t, s.brokers, kgo.ConsumerGroup(faultGroup), kgo.ConsumeTopics(faultTopic), kgo.DisableAutoCommit(),
		kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.HeartbeatInterval(100*time.Millisecond),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, got map[string][]int32) {
			if len(got[faultTopic]) > 0 {
				takings <- taking{got[faultTopic], time.Now()}
			}
		}))
	var taken taking
	select {
	case taken = <-takings:
	case <-time.After(patience):
		t.Fatal("the other member got nothing")
	}
	time.Sleep(slow) // for what should have ended
	if !slices.Contains(taken.partitions, moved) {
		if err := <-sought; err != nil {
			t.Errorf("the seek: %v", err)
		}
	}
	for _, p := range taken.partitions {
		for _, d := range s.receiver.Deliveries(faultHook) {
			if d.Partition.ID == p && d.Arrived.Add(slow).After(taken.at) {
				t.Errorf("a delivery of partition %d from %d was under way %v after another member had got it",
					p, d.First(), d.Arrived.Add(slow).Sub(taken.at))
			}
		}
	}
}

// The member is taken out of its group while a partition drains for a seek. What the
// receiver says of the others after that counts for nothing, for they may be anybody's:
// the client must still know that they were lost when it tells.
func TestASeekDoesNotHideThatPartitionsWereLost(t *testing.T) {
	t.Parallel()
	const slow = 3 * time.Second
	s := newScene(t, 2, func(*gatewaytest.Delivery) gatewaytest.Answer { return gatewaytest.Answer{Delay: slow} }, nil)
	s.produce(t, 2, 100)
	first := s.deliveryOf(t, 0, 0)
	s.deliveryOf(t, 1, 0)
	sought := s.seek(t, toOffset(1, 5))
	s.broker.Expel(t, faultGroup)
	gatewaytest.Await(t, patience, func() error {
		for _, d := range s.receiver.Deliveries(faultHook) {
			if d.Partition == first.Partition && d.Generation > first.Generation && d.First() == first.First() {
				return nil
			}
		}
		return fmt.Errorf("what was under way from %d at the loss has not come again, committed offset %d", first.First(), s.at(t, 0))
	})
	if err := <-sought; err != nil {
		t.Errorf("the seek: %v", err)
	}
}

// A receiver that takes its time holds up the seek for as long as a drain may take, and
// no longer: the seek is carried out once, and told.
func TestASeekWaitsForASlowReceiver(t *testing.T) {
	t.Parallel()
	const slow = 12 * time.Second
	var slept atomic.Bool
	h := &house{
		id: "replica-1", houses: new(1), brokers: embedded(t), drain: 2 * slow,
		receiver: gatewaytest.NewReceiver(t, func(d *gatewaytest.Delivery) gatewaytest.Answer {
			if d.First() == 10 && !slept.Swap(true) {
				return gatewaytest.Answer{Delay: slow}
			}
			return gatewaytest.Answer{}
		}),
	}
	h.kafka = gatewaytest.DialKafka(t, h.brokers)
	h.start(t)
	h.kafka.CreateTopic(t, "orders", 1)
	h.kafka.ProduceLoad(t, &gatewaytest.Produced{}, gatewaytest.Load{Topic: "orders", Partitions: 1, Records: 20, Size: 20})
	herald := newHerald(t, func(notice) {}) // of tenures
	h.webhook(t, "billing", "orders", earliest, batchOf(10), toldAt(herald.url))
	h.delivered(t, "billing", 2)
	moves, err := h.Seek(t.Context(), "default", "billing", groupmanager.SeekRequest{To: "earliest"})
	if err != nil || len(moves) != 1 {
		t.Fatalf("the seek: %+v, %v, want the partition moved", moves, err)
	}
	h.delivered(t, "billing", 4)
	h.caughtUp(t, "billing")
	if got := herald.heard("kafka.partitions.assigned"); len(got) != 2 {
		t.Errorf("the partition began %d times, want once more after the seek", len(got))
	}
	if got := len(h.receiver.Deliveries("billing")); got != 4 {
		t.Errorf("%d deliveries, want each of the two once more", got)
	}
}

// Acks by fields have only the generation to tell by, and a seek stays in it. So one for
// what was delivered before the seek as well may be older, and does not count; the
// receiver, who knows of no tokens, comes further in a generation in which there is no
// doubt.
func TestAnAckByFieldsFromBeforeASeekDoesNotCount(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1, promised, nil)
	s.produce(t, 1, 20)
	before := s.deliveryOf(t, 0, 0)
	if _, err := s.Seek(t.Context(), "default", faultHook, toOffset(0, 0)); err != nil {
		t.Fatal(err)
	}
	s.delivered(t, faultHook, 2)
	s.refused(t, "the fields of before the seek", byFields(before), nil)
	if got := s.at(t, 0); got != 0 {
		t.Errorf("committed offset %d after an ack of before the seek, want 0", got)
	}
	after := s.deliveryOf(t, 0, before.Generation+1)
	s.refused(t, "the fields of before the seek, in a later generation", byFields(before), nil)
	s.receiver.Acked(gatewaytest.Ack{Webhook: faultHook, Partition: after.Partition, First: after.First(), Last: after.Last(), At: time.Now()})
	if a, err := s.Ack(t.Context(), byFields(after)); err != nil || a.Result != "committed" {
		t.Errorf("the fields of after the seek: %+v, %v, want committed", a, err)
	}
	s.receiver.SetScript(gatewaytest.OK)
	s.caughtUp(t)
}

// What was not delivered before the seek leaves no doubt, and the group is left alone.
func TestAnAckByFieldsOfWhatIsNewAfterASeekCounts(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1, promised, nil)
	s.produce(t, 1, 20)
	first := s.deliveryOf(t, 0, 0)
	if _, err := s.Seek(t.Context(), "default", faultHook, toOffset(0, 10)); err != nil {
		t.Fatal(err)
	}
	d := s.delivered(t, faultHook, 2)
	a, err := s.Ack(t.Context(), byFields(d))
	if err != nil || a.Result != "committed" || a.Generation != first.Generation {
		t.Errorf("the fields of %d to %d: %+v, %v, want them committed in generation %d", d.First(), d.Last(), a, err, first.Generation)
	}
}
