package groupmanager_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/kafkastore"
)

// occupy joins a webhook's group as a member that is not seen to leave: it stands
// for a static one, whose session goes on when it has ended.
func (h *house) occupy(t *testing.T, id, topic string) (free func()) {
	t.Helper()
	group := "kpush.default." + id
	other := gatewaytest.DialKafka(t, h.brokers, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.DisableAutoCommit(), kgo.Balancers(kgo.CooperativeStickyBalancer()))
	gatewaytest.Await(t, patience, func() error {
		if g, err := h.kafka.Admin().DescribeGroups(t.Context(), group); err != nil || len(g[group].Members) != 2 {
			return fmt.Errorf("group %s has %d members, %v, want two", group, len(g[group].Members), err)
		}
		return nil
	})
	return other.Client().Close
}

// groupGone waits until a webhook's group is gone with its offsets.
func (h *house) groupGone(t *testing.T, id string) {
	t.Helper()
	gatewaytest.Await(t, patience, func() error {
		if got, err := h.kafka.Admin().FetchOffsets(t.Context(), "kpush.default."+id); !errors.Is(err, kerr.GroupIDNotFound) {
			return fmt.Errorf("offsets %v (%v), want no group", got, err)
		}
		return nil
	})
}

// ended waits until a deletion has come to its end: then there is nothing to delete.
func (h *house) ended(t *testing.T, id string) {
	t.Helper()
	gatewaytest.Await(t, patience, func() error {
		if err := h.Delete(t.Context(), "default", id, false); !errors.Is(err, webhooks.ErrNotFound) {
			return fmt.Errorf("deleting it again: %v, want ErrNotFound", err)
		}
		return nil
	})
}

// refusedFor wants a call to end without success when it has little time.
func refusedFor(t *testing.T, what string, call func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := call(ctx); !errors.Is(err, webhooks.ErrUnavailable) {
		t.Errorf("%s: %v, want ErrUnavailable", what, err)
	}
}

// The webhook was gone at the first call, and what was left to do was nobody's: the
// call again was answered that there is no such webhook, and the offsets stayed.
func TestADeletionWithOffsetsThatTakesLongerThanItsCallGoesOn(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 2)
	h.webhook(t, "billing", "orders", earliest)
	free := h.occupy(t, "billing", "orders")
	remove := func(ctx context.Context) error { return h.Delete(ctx, "default", "billing", true) }
	refusedFor(t, "deleting", remove)
	if _, err := h.Get("default", "billing"); !errors.Is(err, webhooks.ErrNotFound) {
		t.Errorf("after the first call: %v, want it gone", err)
	}
	refusedFor(t, "deleting again", remove)
	// What it would pin would be removed with the group.
	refusedFor(t, "making it anew meanwhile", func(ctx context.Context) error {
		_, _, err := h.Put(ctx, h.spec(t, "billing", "orders"), nil)
		return err
	})
	refusedFor(t, "giving its group to another", func(ctx context.Context) error {
		_, err := h.Create(ctx, h.spec(t, "other", "orders", func(w *webhooks.Webhook) { w.GroupID = "kpush.default.billing" }))
		return err
	})

	joined := make(chan error, 1)
	go func() { joined <- remove(t.Context()) }()
	anew := make(chan error, 1)
	spec := h.spec(t, "billing", "orders")
	go func() {
		e, created, err := h.Put(t.Context(), spec, nil)
		if err == nil && !created {
			err = errors.New("it was there")
		}
		h.receiver.Verify(t, "billing", webhooks.FormatSecret(e.Secret))
		anew <- err
	}()
	time.Sleep(500 * time.Millisecond) // both wait
	free()
	if err := <-joined; err != nil {
		t.Errorf("the call that waited: %v", err)
	}
	if err := <-anew; err != nil {
		t.Errorf("making it anew, which waited: %v", err)
	}
	produced := &gatewaytest.Produced{}
	h.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 2, Records: 20, Size: 20})
	h.caughtUp(t, "billing")
	h.audit(t, "billing", "orders", produced, true)
}

func TestADeletionNobodyWaitsForIsFinishedByTheNextLeader(t *testing.T) {
	leader, other := pair(t, gatewaytest.OK)
	leader.kafka.CreateTopic(t, "orders", 2)
	leader.webhook(t, "billing", "orders")
	leader.kafka.CreateTopic(t, "bills", 2)
	shared(t, "billing", leader, other)
	outsider := gatewaytest.DialKafka(t, leader.brokers, kgo.ConsumerGroup("kpush.default.billing"), kgo.ConsumeTopics("bills"),
		kgo.DisableAutoCommit(), kgo.Balancers(kgo.CooperativeStickyBalancer()))
	gatewaytest.Await(t, patience, func() error {
		if g, err := leader.kafka.Admin().DescribeGroups(t.Context(), "kpush.default.billing"); err != nil || len(g["kpush.default.billing"].Members) != 3 {
			return fmt.Errorf("%d members, %v, want three", len(g["kpush.default.billing"].Members), err)
		}
		return nil
	})
	refusedFor(t, "deleting", func(ctx context.Context) error { return other.Delete(ctx, "default", "billing", true) })
	leader.stop()
	outsider.Client().Close()
	other.groupGone(t, "billing")
	other.ended(t, "billing")
}

// Somebody else uses the group and will not leave it: that must not keep the id for
// ever.
func TestTheOffsetsOfAGroupThatIsNeverLeftStay(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 2)
	h.webhook(t, "billing", "orders", earliest)
	h.occupy(t, "billing", "orders")
	// A deletion as it stands in the registry after an hour: one that was begun now
	// would be worked on for a minute before anybody looks at it again.
	since, err := json.Marshal(map[string]any{
		"deletion_version": 1, "since": time.Now().Add(-time.Hour), "group_id": "kpush.default.billing", "offsets": true,
	})
	if err != nil {
		t.Fatal(err)
	}
	h.kafka.Produce(t, &gatewaytest.Produced{}, &kgo.Record{Topic: kafkastore.DefaultTopic, Partition: 0, Key: []byte("webhook/default/billing"), Value: since})
	h.ended(t, "billing")
	if offsets, err := h.kafka.Admin().FetchOffsets(t.Context(), "kpush.default.billing"); err != nil || len(offsets) == 0 {
		t.Errorf("offsets %v, %v, want them left to who is in the group", offsets, err)
	}
	// A group with members in which every partition has its offset may be taken.
	if _, created, err := h.Put(t.Context(), h.spec(t, "billing", "orders"), nil); err != nil || !created {
		t.Errorf("making it anew: created %v, %v", created, err)
	}
}
