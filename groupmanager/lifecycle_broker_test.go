package groupmanager_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/webhooks"
)

// notice is a lifecycle call as it comes over the wire.
type notice struct {
	Type       string
	WebhookID  string `json:"webhook_id"`
	Generation int32
	Partitions []struct {
		Topic     string
		Partition int32
	}
	answered int
}

// herald is a receiver of lifecycle calls.
type herald struct {
	url    string
	status atomic.Int32 // of its answers

	mu    sync.Mutex
	calls []notice
}

// newHerald starts one; look is called with each call before it is answered.
func newHerald(t *testing.T, look func(notice)) *herald {
	t.Helper()
	h := &herald{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := notice{answered: int(h.status.Load())}
		if err := json.NewDecoder(r.Body).Decode(&n); err != nil || r.Header.Get("webhook-signature") == "" {
			t.Errorf("a lifecycle call came with headers %v and cannot be read: %v", r.Header, err)
		}
		look(n)
		h.mu.Lock()
		h.calls = append(h.calls, n)
		h.mu.Unlock()
		w.WriteHeader(n.answered)
	}))
	t.Cleanup(server.Close)
	h.url = server.URL
	h.status.Store(http.StatusOK)
	return h
}

// heard lists the partitions of the calls of a type that were answered 2xx.
func (h *herald) heard(kind string) []int32 {
	h.mu.Lock()
	defer h.mu.Unlock()
	var heard []int32
	for _, n := range h.calls {
		for _, p := range n.Partitions {
			if n.Type == kind && n.answered == http.StatusOK {
				heard = append(heard, p.Partition)
			}
		}
	}
	slices.Sort(heard)
	return heard
}

func toldAt(url string) func(*webhooks.Webhook) {
	return func(w *webhooks.Webhook) { w.Lifecycle = &webhooks.Lifecycle{URL: url} }
}

func TestNothingIsDeliveredBeforeTheReceiverKnowsOfThePartitions(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	herald := newHerald(t, func(notice) {})
	herald.status.Store(http.StatusServiceUnavailable)
	h.kafka.CreateTopic(t, "orders", 2)
	produced := &gatewaytest.Produced{}
	h.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 2, Records: 100, Size: 20})
	h.webhook(t, "billing", "orders", earliest, toldAt(herald.url))
	gatewaytest.Await(t, patience, func() error {
		rows, err := h.Partitions(t.Context(), "default", "billing")
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.State != groupmanager.PartitionWaitingLifecycle || r.LastError == nil || r.LastError.Status != http.StatusServiceUnavailable || r.Attempt < 3 {
				return fmt.Errorf("%s [%d] is %s after attempt %d, last error %+v", r.Topic, r.Partition, r.State, r.Attempt, r.LastError)
			}
		}
		return nil
	})
	if n := len(h.receiver.Deliveries("billing")); n != 0 {
		t.Fatalf("%d deliveries came before the receiver had confirmed, want none", n)
	}
	herald.status.Store(http.StatusOK)
	h.caughtUp(t, "billing")
	h.audit(t, "billing", "orders", produced, true)
	if got := herald.heard("kafka.partitions.assigned"); !slices.Equal(got, []int32{0, 1}) {
		t.Errorf("the receiver was told of partitions %v, want each once", got)
	}
}

// TestARevokeIsToldAfterTheDrain looks at the moment of the call: nothing of the
// partition is under way, and what was acked is committed.
func TestARevokeIsToldAfterTheDrain(t *testing.T) {
	h := newHouse(t, func(*gatewaytest.Delivery) gatewaytest.Answer {
		return gatewaytest.Answer{Delay: 300 * time.Millisecond}
	})
	const group = "kpush.default.billing"
	herald := newHerald(t, func(n notice) {
		if n.Type != "kafka.partitions.revoked" {
			return
		}
		committed := h.kafka.Committed(t, group)
		for _, p := range n.Partitions {
			at := gatewaytest.Partition{Topic: p.Topic, ID: p.Partition}
			for _, d := range h.receiver.Deliveries("billing") {
				if d.Partition == at && (d.Answered.IsZero() || committed[at] <= d.Last()) {
					t.Errorf("%v is called revoked with %d committed and a delivery of %d to %d answered at %v", at, committed[at], d.First(), d.Last(), d.Answered)
				}
			}
		}
	})
	h.kafka.CreateTopic(t, "orders", 2)
	h.webhook(t, "billing", "orders", earliest, batchOf(1), toldAt(herald.url))
	produced := &gatewaytest.Produced{}
	h.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: "orders", Partitions: 2, Records: 40, Size: 20})
	h.delivered(t, "billing", 2)

	other := h.another(t)
	moved := shared(t, "billing", h, other)
	gatewaytest.Await(t, patience, func() error {
		assigned, revoked := herald.heard("kafka.partitions.assigned"), herald.heard("kafka.partitions.revoked")
		if len(revoked) != 1 || moved[revoked[0]] != other || len(assigned) != 3 {
			return fmt.Errorf("told of %v assigned and %v revoked, want 0, 1 and the one that moved, which was revoked", assigned, revoked)
		}
		return nil
	})
	h.caughtUp(t, "billing")
	if r := h.audit(t, "billing", "orders", produced, true); r.Repeats != 0 {
		t.Errorf("%d records came twice over a hand-over, want 0", r.Repeats)
	}
	other.stop()
	h.stop()
	if assigned, revoked := herald.heard("kafka.partitions.assigned"), herald.heard("kafka.partitions.revoked"); !slices.Equal(assigned, revoked) {
		t.Errorf("in the end %v were assigned and %v revoked, want the same", assigned, revoked)
	}
}

func TestADeletedWebhookIsNotCalledAtItsLifecycleURLAfterTheAnswer(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 2)
	var answered atomic.Bool
	herald := newHerald(t, func(n notice) {
		if answered.Load() {
			t.Errorf("%s of %s came after the deletion was answered", n.Type, n.WebhookID)
		}
	})
	herald.status.Store(http.StatusServiceUnavailable)
	h.webhook(t, "waiting", "orders", toldAt(herald.url), func(w *webhooks.Webhook) { w.Retry.MaxBackoffMs = 50; w.Retry.InitialBackoffMs = 50 })
	gatewaytest.Await(t, patience, func() error {
		herald.mu.Lock()
		defer herald.mu.Unlock()
		if len(herald.calls) < 3 {
			return fmt.Errorf("%d calls, want some", len(herald.calls))
		}
		return nil
	})
	if err := h.Delete(t.Context(), "default", "waiting", false); err != nil {
		t.Fatal(err)
	}
	answered.Store(true)
	time.Sleep(500 * time.Millisecond) // ten times its backoff
	answered.Store(false)

	herald.status.Store(http.StatusOK)
	h.webhook(t, "told", "orders", toldAt(herald.url))
	gatewaytest.Await(t, patience, func() error {
		if got := herald.heard("kafka.partitions.assigned"); len(got) != 2 {
			return fmt.Errorf("told of %v, want both partitions", got)
		}
		return nil
	})
	if err := h.Delete(t.Context(), "default", "told", false); err != nil {
		t.Fatal(err)
	}
	answered.Store(true)
	if got := herald.heard("kafka.partitions.revoked"); !slices.Equal(got, []int32{0, 1}) {
		t.Errorf("when the deletion was answered %v were told to have gone, want both", got)
	}
	time.Sleep(500 * time.Millisecond)
}
