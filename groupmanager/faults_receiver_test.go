package groupmanager_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/webhooks"
)

// A receiver that fails is shown as such and spared; when it is well again everything
// is delivered, and the webhook is active.
func TestH1_AFailingReceiverDegradesItsWebhook(t *testing.T) {
	t.Parallel()
	s := newScene(t, 2, func(*gatewaytest.Delivery) gatewaytest.Answer {
		return gatewaytest.Answer{Status: http.StatusInternalServerError}
	}, quick)
	s.produce(t, 2, 40)
	gatewaytest.Await(t, patience, func() error {
		e, err := s.Get("default", faultHook)
		if err != nil || e.Webhook.State != webhooks.Degraded || e.Webhook.StateReason == nil || *e.Webhook.StateReason != "circuit_open" {
			return fmt.Errorf("state %s for %v (%v), want degraded for circuit_open", e.Webhook.State, e.Webhook.StateReason, err)
		}
		if r := s.row(t, 0); r.State != groupmanager.PartitionBackingOff || r.NextAttemptAt == nil {
			return fmt.Errorf("row %+v, want backing_off until the next probe", r)
		}
		return nil
	})
	s.receiver.SetScript(gatewaytest.OK)
	s.caughtUp(t)
	if e, err := s.Get("default", faultHook); err != nil || e.Webhook.State != webhooks.Active {
		t.Errorf("state %s (%v) when all is delivered, want active", e.Webhook.State, err)
	}
}

// A receiver that takes longer for one delivery than a member may be silent, and
// more records than anybody would want to hold: the member is not given up.
func TestH14_ASlowReceiverOfAFastTopicKeepsTheMember(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1, func(*gatewaytest.Delivery) gatewaytest.Answer { return gatewaytest.Answer{Delay: stallFor} }, quick)
	s.produce(t, 1, 20_000)
	generation := s.deliveryOf(t, 0, 0).Generation
	s.delivered(t, faultHook, 3)
	if got := s.row(t, 0); got.Generation != generation || got.Owner == "" || *got.CommittedOffset < 10 {
		t.Errorf("generation %d, committed %s, want it held at %d and the first deliveries committed", got.Generation, show(got.CommittedOffset), generation)
	}
	s.receiver.SetScript(gatewaytest.OK)
	if r := s.caughtUp(t); r.Repeats != 0 {
		t.Errorf("%d records came twice, want none", r.Repeats)
	}
	if got := s.row(t, 0).Generation; got != generation {
		t.Errorf("generation %d after %d, want no rebalance", got, generation)
	}
}
