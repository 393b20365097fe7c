package groupmanager_test

import (
	"testing"

	"github.com/kpush/kpush/internal/gatewaytest"
)

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
