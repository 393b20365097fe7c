package groupmanager_test

import (
	"fmt"
	"testing"

	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/webhooks"
)

// TestATopicMadeAnewIsDeliveredFromItsBeginning: the client goes by names, and
// takes the new topic for the old one.
func TestATopicMadeAnewIsDeliveredFromItsBeginning(t *testing.T) {
	for name, later := range map[string]int{"with fewer records": 5, "with more records": 40} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, gatewaytest.OK)
			h.kafka.CreateTopic(t, "orders", 1)
			h.kafka.ProduceLoad(t, new(gatewaytest.Produced), gatewaytest.Load{Topic: "orders", Partitions: 1, Records: 20, Size: 20})
			h.webhook(t, "w", "orders", earliest)
			h.caughtUp(t, "w")
			before := len(h.receiver.Deliveries("w"))

			if _, err := h.kafka.Admin().DeleteTopics(t.Context(), "orders"); err != nil {
				t.Fatal(err)
			}
			anew := gatewaytest.DialKafka(t, h.brokers) // the other one knows the old topic's id
			anew.CreateTopic(t, "orders", 1)
			anew.ProduceLoad(t, new(gatewaytest.Produced), gatewaytest.Load{Topic: "orders", Partitions: 1, Records: later, Size: 20})
			gatewaytest.Await(t, patience, func() error {
				seen := map[int64]bool{}
				for _, d := range h.receiver.Deliveries("w")[before:] {
					for _, r := range d.Records {
						seen[r.Offset] = true
					}
				}
				if len(seen) != later {
					return fmt.Errorf("%d of %d records of the new topic arrived", len(seen), later)
				}
				return nil
			})
			h.caughtUp(t, "w")
			if at := h.committed(t, "w", "orders"); at != int64(later) {
				t.Errorf("committed %d, want %d", at, later)
			}
		})
	}
}

// TestK13_AGroupDeletedWhileStopped: every partition was pinned when the webhook was
// registered, so a group without commits has lost its place.
func TestK13_AGroupDeletedWhileStopped(t *testing.T) {
	for policy, want := range map[string]int{webhooks.ResetError: 0, webhooks.ResetEarliest: 30, webhooks.ResetLatest: 0} {
		t.Run(policy, func(t *testing.T) {
			h := newHouse(t, gatewaytest.OK)
			h.kafka.CreateTopic(t, "orders", 2)
			h.kafka.ProduceLoad(t, new(gatewaytest.Produced), gatewaytest.Load{Topic: "orders", Partitions: 2, Records: 20, Size: 20})
			h.webhook(t, "w", "orders", earliest, func(w *webhooks.Webhook) { w.OffsetReset = policy })
			h.caughtUp(t, "w")
			h.stop()
			h.kafka.DeleteGroup(t, "kpush.default.w")
			h.kafka.ProduceLoad(t, new(gatewaytest.Produced), gatewaytest.Load{Topic: "orders", Partitions: 2, Records: 10, Size: 20})
			before := len(h.receiver.Deliveries("w"))
			h.start(t)
			if policy == webhooks.ResetError {
				gatewaytest.Await(t, patience, func() error {
					if e, err := h.Get("default", "w"); err != nil || e.Webhook.State != webhooks.Failed || *e.Webhook.StateReason != "committed_offset_gone" {
						return fmt.Errorf("state %s, %v; want it failed", e.Webhook.State, err)
					}
					return nil
				})
			} else {
				h.caughtUp(t, "w")
			}
			got := 0
			for _, d := range h.receiver.Deliveries("w")[before:] {
				got += len(d.Records)
			}
			if got != want {
				t.Errorf("%d records delivered after the loss, want %d", got, want)
			}
		})
	}
}
