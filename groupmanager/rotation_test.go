package groupmanager_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/webhooks"
)

// TestG5: a secret is rotated at one replica, by way of the other that leads, while both
// deliver. All of it verifies, by either secret in the overlap, and the group does not
// notice: the same generation, nothing twice.
func TestG5_RotationWhileDeliveriesGoOn(t *testing.T) {
	leader, other := pair(t, gatewaytest.OK)
	leader.kafka.CreateTopic(t, "orders", 2)
	created := leader.webhook(t, "billing", "orders", batchOf(5))
	shared(t, "billing", leader, other)
	stop := leader.produce(t, "orders", 2)
	more := func(n int) { // records that arrived
		t.Helper()
		want := leader.receiver.Distinct("billing") + n
		gatewaytest.Await(t, patience, func() error {
			if got := leader.receiver.Distinct("billing"); got < want {
				return fmt.Errorf("%d records arrived, want %d", got, want)
			}
			return nil
		})
	}
	more(20)

	fresh := webhooks.NewSecret()
	old, renewed := webhooks.FormatSecret(created.Secret), webhooks.FormatSecret(fresh)
	rotated, err := other.RotateSecret(t.Context(), "default", "billing", webhooks.Rotation{Secret: fresh, Overlap: time.Hour})
	if err != nil || !slices.Equal(rotated.Secret, fresh) || len(rotated.Former) != 1 {
		t.Fatalf("rotating at a replica that does not lead: %+v, %v", rotated, err)
	}
	at := time.Now()
	more(20) // by the old secret, which the receiver still has
	for _, h := range []*house{leader, other} {
		if e, err := h.Get("default", "billing"); err != nil || e.Revision != rotated.Revision || !slices.Equal(e.Secret, fresh) {
			t.Errorf("%s has revision %d, %v, want %d", h.id, e.Revision, err, rotated.Revision)
		}
	}
	leader.receiver.Verify(t, "billing", renewed)
	more(20)

	last := webhooks.NewSecret()
	leader.receiver.Verify(t, "billing", renewed, webhooks.FormatSecret(last))
	if _, err := leader.RotateSecret(t.Context(), "default", "billing", webhooks.Rotation{Secret: last}); err != nil {
		t.Fatal(err)
	}
	more(20)
	stop()
	leader.caughtUp(t, "billing")
	for _, c := range leader.receiver.Complaints() {
		t.Error(c)
	}
	counts, generations, seen := map[int]int{}, map[int32]bool{}, map[string]bool{}
	for _, d := range leader.receiver.Deliveries("billing") {
		signatures := strings.Fields(d.Header.Get("Webhook-Signature"))
		if d.Arrived.After(at.Add(time.Second)) || len(signatures) == 2 {
			counts[len(signatures)]++
		}
		generations[d.Generation] = true
		for _, r := range d.Records {
			record := fmt.Sprint(d.Partition, r.Offset)
			if seen[record] {
				t.Errorf("%s was delivered twice", record)
			}
			seen[record] = true
		}
	}
	if counts[2] == 0 || len(generations) != 1 {
		t.Errorf("deliveries by their number of signatures: %v, generations %v; want some with two, and one generation", counts, generations)
	}
	if len(old) == 0 || len(seen) == 0 {
		t.Error("nothing was delivered")
	}
}

func TestRotationsAreRefusedByAnyReplica(t *testing.T) {
	leader, other := pair(t, gatewaytest.OK)
	for _, h := range []*house{leader, other} {
		if _, err := h.RotateSecret(t.Context(), "default", "none", webhooks.Rotation{Secret: webhooks.NewSecret()}); !errors.Is(err, webhooks.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", h.id, err)
		}
		_, err := h.RotateSecret(t.Context(), "default", "none", webhooks.Rotation{Secret: []byte("short")})
		if _, invalid := errors.AsType[*webhooks.ValidationError](err); !invalid {
			t.Errorf("%s: %v, want a *ValidationError", h.id, err)
		}
	}
}
