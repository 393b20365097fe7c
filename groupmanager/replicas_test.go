package groupmanager_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/internal/kafkaconf"
	"github.com/kpush/kpush/webhooks"
)

// pair starts two replicas on one broker: the one that leads, and the one that does not.
func pair(t *testing.T, script gatewaytest.Script) (leader, other *house) {
	t.Helper()
	leader = newHouse(t, script)
	other = leader.another(t)
	if !leader.leads(t) || other.leads(t) {
		t.Fatal("the first replica does not lead, or the second does")
	}
	return leader, other
}

// shared waits until each of the houses holds a partition of the webhook, and
// returns who holds which.
func shared(t *testing.T, id string, houses ...*house) map[int32]*house {
	t.Helper()
	owners := map[int32]*house{}
	gatewaytest.Await(t, patience, func() error {
		rows, err := houses[0].Partitions(t.Context(), "default", id)
		if err != nil {
			return err
		}
		clear(owners)
		count := map[string]int{}
		for _, r := range rows {
			count[r.Owner]++
			for _, h := range houses {
				if h.id == r.Owner && r.Generation >= 0 {
					owners[r.Partition] = h
				}
			}
		}
		if len(owners) != len(rows) || len(count) != len(houses) {
			return fmt.Errorf("partitions are held by %v, want each by one of %d replicas, and each of them to have one", count, len(houses))
		}
		return nil
	})
	return owners
}

// produce writes records to partitions 0 to n-1 of a topic until stop.
func (h *house) produce(t *testing.T, topic string, partitions int32) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var producing sync.WaitGroup
	producing.Go(func() {
		for n := int32(0); ctx.Err() == nil; n++ {
			h.kafka.Client().ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: n % partitions, Value: []byte("value")})
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	stop = func() {
		cancel()
		producing.Wait()
	}
	t.Cleanup(stop)
	return stop
}

func TestChangesAreTakenByAnyReplicaAndSeenByAll(t *testing.T) {
	leader, other := pair(t, gatewaytest.OK)
	leader.kafka.CreateTopic(t, "orders", 2)
	created := other.webhook(t, "billing", "orders")
	seen := func(want func(webhooks.Entry, error) error) {
		t.Helper()
		for _, h := range []*house{leader, other} {
			gatewaytest.Await(t, time.Second, func() error {
				e, err := h.Get("default", "billing")
				if err := want(e, err); err != nil {
					return fmt.Errorf("at %s: %w", h.id, err)
				}
				return nil
			})
		}
	}
	seen(func(e webhooks.Entry, err error) error {
		if err != nil || e.Revision != created.Revision || !slices.Equal(e.Secret, created.Secret) {
			return fmt.Errorf("revision %d (%v) or another secret, want %d", e.Revision, err, created.Revision)
		}
		return nil
	})
	described := other.spec(t, "billing", "orders", func(w *webhooks.Webhook) { w.Description = "changed" })
	put, isNew, err := other.Put(t.Context(), described, &created.Revision)
	if err != nil || isNew || put.Revision <= created.Revision || put.Webhook.Description != "changed" {
		t.Fatalf("put: %+v, new %v, %v", put, isNew, err)
	}
	if again, isNew, err := other.Put(t.Context(), described, nil); err != nil || isNew || again.Revision != put.Revision {
		t.Errorf("the same content again: revision %d, new %v, %v, want revision %d", again.Revision, isNew, err, put.Revision)
	}
	if e, err := other.Pause(t.Context(), "default", "billing"); err != nil || e.Webhook.State != webhooks.Paused {
		t.Errorf("pause: state %s, %v", e.Webhook.State, err)
	}
	if e, err := other.Resume(t.Context(), "default", "billing"); err != nil || e.Webhook.State != webhooks.Active {
		t.Errorf("resume: state %s, %v", e.Webhook.State, err)
	}
	if err := other.Delete(t.Context(), "default", "billing", false); err != nil {
		t.Fatal(err)
	}
	seen(func(_ webhooks.Entry, err error) error {
		if !errors.Is(err, webhooks.ErrNotFound) {
			return fmt.Errorf("%v, want it gone", err)
		}
		return nil
	})
}

func TestAnyReplicaRefusesAsTheLeaderDoes(t *testing.T) {
	leader, other := pair(t, gatewaytest.OK)
	leader.kafka.CreateTopic(t, "orders", 1)
	e := leader.webhook(t, "billing", "orders")
	spec := func(id, topic string, change ...func(*webhooks.Webhook)) webhooks.Webhook {
		return other.spec(t, id, topic, change...)
	}
	old := e.Revision - 1
	var topic *groupmanager.TopicError
	var invalid *webhooks.ValidationError
	ctx := t.Context()
	for name, refused := range map[string]func() (got error, ok bool){
		"the same id": func() (error, bool) {
			_, err := other.Create(ctx, spec("billing", "orders"))
			return err, errors.Is(err, webhooks.ErrExists)
		},
		"the group of another": func() (error, bool) {
			_, err := other.Create(ctx, spec("x", "orders", func(w *webhooks.Webhook) { w.GroupID = "kpush.default.billing" }))
			return err, errors.Is(err, webhooks.ErrGroupInUse)
		},
		"no such topic": func() (error, bool) {
			_, err := other.Create(ctx, spec("x", "nowhere"))
			return err, errors.As(err, &topic) && topic.Topic == "nowhere"
		},
		"another group": func() (error, bool) {
			_, _, err := other.Put(ctx, spec("billing", "orders", func(w *webhooks.Webhook) { w.GroupID = "other" }), nil)
			return err, errors.As(err, &invalid) && invalid.Fields[0].Pointer == "/group_id"
		},
		"another revision": func() (error, bool) {
			_, _, err := other.Put(ctx, spec("billing", "orders", batchOf(7)), &old)
			return err, errors.Is(err, webhooks.ErrPrecondition)
		},
		"a revision of nothing": func() (error, bool) {
			_, _, err := other.Put(ctx, spec("x", "orders"), &old)
			return err, errors.Is(err, webhooks.ErrPrecondition)
		},
		"to pause nothing": func() (error, bool) {
			_, err := other.Pause(ctx, "default", "x")
			return err, errors.Is(err, webhooks.ErrNotFound)
		},
		"to delete nothing": func() (error, bool) {
			err := other.Delete(ctx, "default", "x", true)
			return err, errors.Is(err, webhooks.ErrNotFound)
		},
		"to move nothing": func() (error, bool) {
			_, err := other.Seek(ctx, "default", "x", groupmanager.SeekRequest{To: "earliest"})
			return err, errors.Is(err, webhooks.ErrNotFound)
		},
	} {
		if err, ok := refused(); !ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestX8_TheSameWebhookRegisteredAtTwoReplicasAtOnceHasOneWinner(t *testing.T) {
	leader, other := pair(t, gatewaytest.OK)
	houses := []*house{leader, other}
	leader.kafka.CreateTopic(t, "orders", 1)
	both := func(do func(n int, h *house) error) (failed [2]error) {
		var doing sync.WaitGroup
		for n, h := range houses {
			doing.Go(func() { failed[n] = do(n, h) })
		}
		doing.Wait()
		return failed
	}
	// oneWins checks that one of two did it and the other has the refusal.
	oneWins := func(t *testing.T, failed [2]error, refusal error) (winner int) {
		t.Helper()
		won := slices.IndexFunc(failed[:], func(err error) bool { return err == nil })
		if won < 0 || !errors.Is(failed[1-won], refusal) {
			t.Fatalf("the two ended with %v, want one of them to win and the other with %v", failed, refusal)
		}
		return won
	}
	for round := range 5 {
		id := fmt.Sprint("billing-", round)
		var entries [2]webhooks.Entry
		won := oneWins(t, both(func(n int, h *house) (err error) {
			entries[n], err = h.Create(t.Context(), h.spec(t, id, "orders", batchOf(n+1)))
			return err
		}), webhooks.ErrExists)

		var created [2]bool
		for n, err := range both(func(n int, h *house) (err error) {
			_, created[n], err = h.Put(t.Context(), h.spec(t, "put-"+id, "orders", batchOf(n+1)), nil)
			return err
		}) {
			if err != nil {
				t.Errorf("upsert at replica %d: %v", n+1, err)
			}
		}
		if created[0] == created[1] {
			t.Errorf("two upserts at once say of being new: %v, want one of them", created)
		}

		matched := oneWins(t, both(func(n int, h *house) error {
			_, _, err := h.Put(t.Context(), h.spec(t, id, "orders", batchOf(10+n)), &entries[won].Revision)
			return err
		}), webhooks.ErrPrecondition)
		for _, h := range houses {
			gatewaytest.Await(t, patience, func() error {
				e, err := h.Get("default", id)
				if err != nil || e.Webhook.Batch.MaxRecords != 10+matched || !slices.Equal(e.Secret, entries[won].Secret) {
					return fmt.Errorf("at %s: batches of %d (%v), or the secret is not the winner's; want %d", h.id, e.Webhook.Batch.MaxRecords, err, 10+matched)
				}
				return nil
			})
		}
	}
}

// ack asks again while the partition counts as being between owners, which it may
// for a moment after it is not.
func (h *house) ack(t *testing.T, r groupmanager.AckRequest) (a groupmanager.AckAnswer, err error) {
	t.Helper()
	gatewaytest.Await(t, patience, func() error {
		if a, err = h.Ack(t.Context(), r); errors.Is(err, groupmanager.ErrNoOwner) {
			return err
		}
		return nil
	})
	return a, err
}

func TestM15_AnAckAtTheWrongReplicaIsPassedToTheOwner(t *testing.T) {
	leader, other := pair(t, promised)
	leader.kafka.CreateTopic(t, "orders", 4)
	leader.webhook(t, "billing", "orders", earliest, batchOf(1))
	owners := shared(t, "billing", leader, other)
	leader.kafka.ProduceLoad(t, &gatewaytest.Produced{}, gatewaytest.Load{Topic: "orders", Partitions: 4, Records: 4, Size: 20})
	leader.delivered(t, "billing", 4)
	wrong := func(d gatewaytest.Delivery) *house {
		if owners[d.Partition.ID] == leader {
			return other
		}
		return leader
	}
	seen := map[*house]bool{}
	for _, d := range leader.receiver.Deliveries("billing") {
		h := wrong(d)
		fields := groupmanager.AckRequest{Tenant: "default", WebhookID: "billing", Topic: "orders", Partition: d.Partition.ID, Generation: d.Generation, Offset: d.Last()}
		ask := groupmanager.AckRequest{Token: d.Token}
		if seen[h] { // one of each replica's by token, the other by fields
			ask = fields
		}
		seen[h] = true

		var stale *groupmanager.StaleError
		newer := fields
		newer.Generation += 100
		if _, err := h.ack(t, newer); !errors.As(err, &stale) || stale.Current < d.Generation {
			t.Errorf("%s: a generation newer than any: %v, want stale and the current generation", d.Partition, err)
		}
		beyond := fields
		beyond.Offset += 10
		if _, err := h.ack(t, beyond); !errors.Is(err, groupmanager.ErrOffsetOutOfRange) {
			t.Errorf("%s: an offset never delivered: %v", d.Partition, err)
		}
		a, err := h.ack(t, ask)
		if err != nil || a.Result != "committed" || a.CommittedOffset == nil || *a.CommittedOffset != d.Last()+1 {
			t.Errorf("%s: %+v, %v, want committed up to %d", d.Partition, a, err, d.Last()+1)
		}
		for _, repeat := range []groupmanager.AckRequest{fields, {Token: d.Token}} {
			if a, err := h.ack(t, repeat); err != nil || a.Result != "already_committed" {
				t.Errorf("%s: the ack again: %+v, %v, want already_committed", d.Partition, a, err)
			}
		}
		if _, err := h.ack(t, groupmanager.AckRequest{Token: d.Token, Outcome: "nack"}); !errors.Is(err, groupmanager.ErrOutcomeConflict) {
			t.Errorf("%s: a nack after the ack: %v, want a conflict", d.Partition, err)
		}
	}
	if len(seen) != 2 {
		t.Fatalf("%d replicas were the wrong one, want both", len(seen))
	}
	unknown := groupmanager.AckRequest{Tenant: "default", WebhookID: "billing", Topic: "orders", Partition: 99, Generation: 1}
	for h := range seen {
		if _, err := h.ack(t, unknown); !errors.Is(err, groupmanager.ErrPartitionNotFound) {
			t.Errorf("a partition that does not exist, at %s: %v", h.id, err)
		}
	}
}

func TestAnAckForAReplicaThatIsGoneFindsTheNextOwner(t *testing.T) {
	leader, other := pair(t, promised)
	leader.kafka.CreateTopic(t, "orders", 2)
	leader.webhook(t, "billing", "orders", earliest)
	owners := shared(t, "billing", leader, other)
	leader.kafka.ProduceLoad(t, &gatewaytest.Produced{}, gatewaytest.Load{Topic: "orders", Partitions: 2, Records: 2, Size: 20})
	leader.delivered(t, "billing", 2)
	deliveries := leader.receiver.Deliveries("billing")
	third := leader.another(t)
	other.stop()
	shared(t, "billing", leader, third)
	for _, d := range deliveries {
		if owners[d.Partition.ID] != other {
			continue
		}
		for _, h := range []*house{leader, third} {
			var stale *groupmanager.StaleError
			if _, err := h.ack(t, groupmanager.AckRequest{Token: d.Token}); !errors.As(err, &stale) {
				t.Errorf("at %s: %v, want stale: the tenure of the replica that is gone is over", h.id, err)
			}
		}
	}
}

func TestEveryPartitionIsShownWhoeverHoldsIt(t *testing.T) {
	leader, other := pair(t, gatewaytest.OK)
	leader.kafka.CreateTopic(t, "orders", 5)
	other.webhook(t, "billing", "orders", earliest)
	owners := shared(t, "billing", leader, other)
	leader.kafka.ProduceLoad(t, &gatewaytest.Produced{}, gatewaytest.Load{Topic: "orders", Partitions: 5, Records: 50, Size: 20})
	for _, h := range []*house{leader, other} {
		h.caughtUp(t, "billing")
		rows, err := h.Partitions(t.Context(), "default", "billing")
		if err != nil {
			t.Fatal(err)
		}
		for p, r := range rows {
			if r.Topic != "orders" || r.Partition != int32(p) || r.Owner != owners[r.Partition].id || r.Generation < 0 ||
				r.State != groupmanager.PartitionIdle || r.CommittedOffset == nil || *r.CommittedOffset != 10 ||
				r.DeliveredOffset == nil || *r.DeliveredOffset != 9 {
				t.Errorf("at %s, row %d: %+v, want partition %d of %s, idle, all 10 records delivered and committed", h.id, p, r, p, owners[int32(p)].id)
			}
		}
		var pages []groupmanager.PartitionStatus
		for more := true; more; {
			var after groupmanager.Place
			if n := len(pages); n > 0 {
				after = groupmanager.Place{Topic: pages[n-1].Topic, Partition: pages[n-1].Partition}
			}
			var page []groupmanager.PartitionStatus
			page, more, err = h.PartitionsPage(t.Context(), "default", "billing", after, 2)
			if err != nil || len(page) != min(2, len(rows)-len(pages)) {
				t.Fatalf("after %v: %d rows, %v", after, len(page), err)
			}
			pages = append(pages, page...)
		}
		if !reflect.DeepEqual(pages, rows) {
			t.Errorf("at %s the pages are %+v, want %+v", h.id, pages, rows)
		}
	}
}

// quiet checks that nothing new arrives after now, but for one request under way
// per partition.
func quiet(t *testing.T, h *house, id string) {
	t.Helper()
	now := time.Now()
	time.Sleep(time.Second)
	late := map[gatewaytest.Partition]int{}
	for _, d := range h.receiver.Deliveries(id) {
		if d.Arrived.After(now) {
			late[d.Partition]++
		}
	}
	for p, n := range late {
		if n > 1 {
			t.Errorf("%s: %d requests arrived after the answer, want at most the one that was under way", p, n)
		}
	}
}

func TestNothingIsSentByAnyReplicaAfterADeletionOrAPauseWasAnswered(t *testing.T) {
	leader, other := pair(t, gatewaytest.OK)
	leader.kafka.CreateTopic(t, "orders", 4)
	stop := leader.produce(t, "orders", 4)
	for n, h := range []*house{other, leader} {
		id := fmt.Sprint("billing-", n)
		h.webhook(t, id, "orders", batchOf(1))
		shared(t, id, leader, other)
		h.delivered(t, id, 20)
		if _, err := h.Pause(t.Context(), "default", id); err != nil {
			t.Fatal(err)
		}
		quiet(t, h, id)
		before := len(h.receiver.Deliveries(id))
		if _, err := h.Resume(t.Context(), "default", id); err != nil {
			t.Fatal(err)
		}
		h.delivered(t, id, before+20)
		owned := map[int32]bool{}
		for _, d := range h.receiver.Deliveries(id)[before:] {
			owned[d.Partition.ID] = true
		}
		if len(owned) < 2 {
			t.Errorf("after the resumption only partitions %v are delivered", owned)
		}
		if err := h.Delete(t.Context(), "default", id, n == 0); err != nil {
			t.Fatal(err)
		}
		quiet(t, h, id)
		group := "kpush.default." + id
		_, err := h.kafka.Admin().FetchOffsets(t.Context(), group)
		if gone := errors.Is(err, kerr.GroupIDNotFound); gone != (n == 0) {
			t.Errorf("webhook %s: the group is gone: %v (%v), want that if its offsets were to be deleted", id, gone, err)
		}
	}
	stop()
}

func TestAReplicaThatDoesNotAnswerHoldsUpAPauseAndADeletion(t *testing.T) {
	leader, other := pair(t, gatewaytest.OK)
	leader.kafka.CreateTopic(t, "orders", 2)
	for _, id := range []string{"billing", "shipping"} {
		leader.webhook(t, id, "orders")
		shared(t, id, leader, other)
	}
	other.internal.Listener.Close() // it lives, as far as Kafka knows
	other.internal.CloseClientConnections()

	gatewaytest.Await(t, patience, func() error { // what Kafka said a moment ago is believed, and may be of a rebalance
		rows, err := leader.Partitions(t.Context(), "default", "billing")
		if err != nil {
			return err
		}
		shown := map[string]groupmanager.PartitionStatus{}
		for _, r := range rows {
			shown[r.Owner] = r
		}
		if r, ok := shown[other.id]; !ok || r.State != groupmanager.PartitionUnassigned || r.Generation != -1 || r.EndOffset == nil {
			return fmt.Errorf("partitions %+v, want one of the silent replica, with nothing but what Kafka knows", rows)
		}
		return nil
	})

	soon := func() (context.Context, context.CancelFunc) { return context.WithTimeout(t.Context(), 2*time.Second) }
	ctx, cancel := soon()
	defer cancel()
	if _, err := leader.Pause(ctx, "default", "billing"); !errors.Is(err, webhooks.ErrUnavailable) {
		t.Errorf("pause: %v, want not to know whether all have stopped", err)
	}
	if e, err := leader.Get("default", "billing"); err != nil || e.Webhook.State != webhooks.Paused {
		t.Errorf("state %s, %v after the pause, want it paused all the same", e.Webhook.State, err)
	}
	ctx, cancel = soon()
	defer cancel()
	for range 2 {
		if err := leader.Delete(ctx, "default", "shipping", false); !errors.Is(err, webhooks.ErrUnavailable) {
			t.Errorf("delete: %v, want not to know whether all have stopped", err)
		}
		ctx, cancel = soon()
		defer cancel()
	}
	other.stop()
	if _, err := leader.Pause(t.Context(), "default", "billing"); err != nil {
		t.Errorf("pause, when the silent replica is gone: %v", err)
	}
	// Not found says that it is gone for all, which took until now.
	if err := leader.Delete(t.Context(), "default", "shipping", false); err != nil && !errors.Is(err, webhooks.ErrNotFound) {
		t.Errorf("delete, when the silent replica is gone: %v", err)
	}
	leader.ended(t, "shipping")
}

// Installations with registries of their own may share a cluster, and a group. Nobody
// can ask the other's replica whether it has stopped, nor has to.
func TestAMemberOfAnotherInstallationHoldsUpNothing(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 2)
	h.webhook(t, "billing", "orders")
	const group = "kpush.default.billing"
	gatewaytest.DialKafka(t, h.brokers, kgo.ConsumerGroup(group), kgo.ConsumeTopics("orders"), kgo.DisableAutoCommit(),
		kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.ClientID(kafkaconf.MembersOf("__kpush_of_another").ClientID("gateway-1")))
	gatewaytest.Await(t, patience, func() error {
		if g, err := h.kafka.Admin().DescribeGroups(t.Context(), group); err != nil || len(g[group].Members) != 2 {
			return fmt.Errorf("%d members, %v, want two", len(g[group].Members), err)
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience/3)
	defer cancel()
	if _, err := h.Pause(ctx, "default", "billing"); err != nil {
		t.Errorf("pause: %v", err)
	}
	if err := h.Delete(ctx, "default", "billing", false); err != nil {
		t.Errorf("delete: %v", err)
	}
	// It is in the way like anybody else.
	w := h.spec(t, "other", "orders", earliest, func(w *webhooks.Webhook) { w.GroupID, w.Topics = group, []string{"more"} })
	h.kafka.CreateTopic(t, "more", 1)
	if _, err := h.Create(t.Context(), w); !errors.Is(err, webhooks.ErrGroupInUse) {
		t.Errorf("a webhook with a group that others are in: %v, want ErrGroupInUse", err)
	}
}

func TestGoneAtOneReplicaDisablesTheWebhookAtAll(t *testing.T) {
	leader, other := pair(t, gatewaytest.OK)
	leader.kafka.CreateTopic(t, "orders", 2)
	leader.webhook(t, "billing", "orders")
	owners := shared(t, "billing", leader, other)
	leader.receiver.SetScript(func(*gatewaytest.Delivery) gatewaytest.Answer { return gatewaytest.Answer{Status: 410} })
	for p, h := range owners {
		if h == other { // the one that does not write the registry
			leader.kafka.Produce(t, &gatewaytest.Produced{}, &kgo.Record{Topic: "orders", Partition: p, Value: []byte("value")})
		}
	}
	for _, h := range []*house{other, leader} {
		gatewaytest.Await(t, patience, func() error {
			e, err := h.Get("default", "billing")
			if err != nil || e.Webhook.State != webhooks.Disabled || e.Webhook.StateReason == nil || *e.Webhook.StateReason != "gone" {
				return fmt.Errorf("at %s the state is %s (%v), want disabled", h.id, e.Webhook.State, err)
			}
			return nil
		})
	}
	leader.receiver.SetScript(gatewaytest.OK)
	if _, err := other.Resume(t.Context(), "default", "billing"); err != nil {
		t.Fatal(err)
	}
	leader.caughtUp(t, "billing")
}

func TestChangesGoOnWhenTheLeaderLeaves(t *testing.T) {
	leader, other := pair(t, gatewaytest.OK)
	leader.kafka.CreateTopic(t, "orders", 1)
	other.webhook(t, "before", "orders")
	leader.stop()
	gatewaytest.Await(t, patience, func() error {
		_, err := other.Create(t.Context(), other.spec(t, "after", "orders"))
		return err
	})
	if all, err := other.List("default"); err != nil || len(all) != 2 {
		t.Errorf("%d webhooks, %v, want the one of before and the one of after", len(all), err)
	}
}
