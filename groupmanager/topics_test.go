package groupmanager_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/webhooks"
)

func TestAPatternChoosesTheTopicsThatMatchNow(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders-a", 2)
	h.kafka.CreateTopic(t, "orders-b", 1)
	h.kafka.CreateTopic(t, "other", 1)
	h.kafka.CreateTopic(t, "__orders-internal", 1)
	h.kafka.ProduceLoad(t, &gatewaytest.Produced{}, gatewaytest.Load{Topic: "orders-a", Partitions: 2, Records: 10, Size: 20})
	h.webhook(t, "billing", "^.*orders-")
	rows, err := h.Partitions(t.Context(), "default", "billing")
	if err != nil || len(rows) != 3 || rows[0].Topic != "orders-a" || rows[2].Topic != "orders-b" {
		t.Fatalf("partitions %+v, %v, want those of orders-a and orders-b", rows, err)
	}
	for _, r := range rows {
		if r.Lag == nil || *r.Lag != 0 {
			t.Errorf("%s [%d] has lag %s right after the registration, want it pinned at its end", r.Topic, r.Partition, show(r.Lag))
		}
	}
	none := h.webhook(t, "none", "^nothing-of-that-name")
	if rows, err := h.Partitions(t.Context(), "default", none.Webhook.ID); err != nil || len(rows) != 0 {
		t.Errorf("a pattern that nothing matches: %+v, %v, want no partitions", rows, err)
	}
	ack := groupmanager.AckRequest{Tenant: "default", WebhookID: "billing", Topic: "other", Generation: 1}
	if _, err := h.Ack(t.Context(), ack); !errors.Is(err, groupmanager.ErrPartitionNotFound) {
		t.Errorf("an ack for a topic that does not match: %v", err)
	}
}

// What does not exist has no owner, and never will: no_owner, try again, was wrong for
// it. What came a moment ago exists, whatever this replica has heard of.
func TestAnAckForWhatDoesNotExist(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders-a", 2)
	h.webhook(t, "billing", "^orders-")
	h.caughtUp(t, "billing")
	ack := func(topic string, partition int32) error {
		_, err := h.Ack(t.Context(), groupmanager.AckRequest{Tenant: "default", WebhookID: "billing", Topic: topic, Partition: partition, Generation: 1})
		return err
	}
	if err := ack("orders-none", 0); !errors.Is(err, groupmanager.ErrPartitionNotFound) {
		t.Errorf("a topic that matches and does not exist: %v", err)
	}
	if err := ack("orders-a", 2); !errors.Is(err, groupmanager.ErrPartitionNotFound) {
		t.Errorf("a partition beyond the last: %v", err)
	}
	h.kafka.CreateTopic(t, "orders-b", 1)
	if _, err := h.kafka.Admin().CreatePartitions(t.Context(), 1, "orders-a"); err != nil {
		t.Fatal(err)
	}
	if err := ack("orders-b", 0); errors.Is(err, groupmanager.ErrPartitionNotFound) {
		t.Error("a topic that has just come is not found")
	}
	if err := ack("orders-a", 2); errors.Is(err, groupmanager.ErrPartitionNotFound) {
		t.Error("a partition that has just come is not found")
	}
}

func TestAPatternThatMatchesMoreTopicsThanCanBeKeptIsRefusedBeforeAnythingIsPinned(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	names := make([]string, 3000)
	for i := range names {
		names[i] = fmt.Sprintf("orders-%s-%04d", strings.Repeat("x", 230), i)
	}
	if _, err := h.kafka.Admin().CreateTopics(t.Context(), 1, 1, nil, names...); err != nil {
		t.Fatal(err)
	}
	var invalid *webhooks.ValidationError
	_, err := h.Create(t.Context(), h.spec(t, "billing", "^orders-"))
	if !errors.As(err, &invalid) || len(invalid.Fields) != 1 || invalid.Fields[0].Pointer != "/topics" {
		t.Errorf("%v, want a complaint about /topics", err)
	}
	if got, err := h.kafka.Admin().FetchOffsets(t.Context(), "kpush.default.billing"); !errors.Is(err, kerr.GroupIDNotFound) {
		t.Errorf("%d topics have offsets (%v) after the refusal, want no group", len(got), err)
	}
}
