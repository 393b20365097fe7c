package groupmanager_test

import (
	"fmt"
	"testing"

	"github.com/kpush/kpush/internal/gatewaytest"
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
