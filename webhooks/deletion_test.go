package webhooks

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A deletion that is not at its end takes the webhook's place, for whoever leads
// next: its id and its group are not free before.
func TestADeletionUnderWayIsRememberedUntilItIsAtItsEnd(t *testing.T) {
	log := newMemory()
	first := start(t, log.open(), nil)
	e := create(t, first, hook("a"))
	d, err := first.BeginDelete(t.Context(), DefaultTenant, "a", false)
	if err != nil || d.ID != "a" || d.Tenant != DefaultTenant || d.GroupID != e.Webhook.GroupID || d.Offsets || d.Revision <= e.Revision {
		t.Fatalf("BeginDelete: %+v, %v", d, err)
	}
	if _, err := first.Get(DefaultTenant, "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get: %v, want ErrNotFound", err)
	}
	if n := len(first.List(DefaultTenant)); n != 0 {
		t.Errorf("%d are listed, want none", n)
	}

	second := start(t, log.open(), nil)
	if diff := cmp.Diff([]Deletion{d}, second.Deletions()); diff != "" {
		t.Errorf("what the next leader has to do (-want +got):\n%s", diff)
	}
	if again, err := second.BeginDelete(t.Context(), DefaultTenant, "a", false); err != nil || again != d {
		t.Errorf("BeginDelete again: %+v, %v, want the one under way", again, err)
	}
	more, err := second.BeginDelete(t.Context(), DefaultTenant, "a", true)
	if err != nil || !more.Offsets || more.GroupID != d.GroupID || !more.Since.Equal(d.Since) {
		t.Errorf("BeginDelete with offsets: %+v, %v, want them added", more, err)
	}
	if still, err := second.BeginDelete(t.Context(), DefaultTenant, "a", false); err != nil || still != more {
		t.Errorf("BeginDelete without: %+v, %v, want it as it was asked for", still, err)
	}

	if _, err := second.Create(t.Context(), hook("a"), nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("the same id: %v, want ErrUnavailable", err)
	}
	other := hook("b")
	other.GroupID = e.Webhook.GroupID
	if _, err := second.Create(t.Context(), other, nil); !errors.Is(err, ErrGroupInUse) {
		t.Errorf("the same group: %v, want ErrGroupInUse", err)
	}
	if _, _, err := second.Replace(t.Context(), hook("a"), nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("Replace: %v, want ErrNotFound", err)
	}
	if _, err := second.SetState(t.Context(), DefaultTenant, "a", Active, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("SetState: %v, want ErrNotFound", err)
	}

	if err := second.Delete(t.Context(), DefaultTenant, "a", AnyRevision); err != nil {
		t.Fatal(err)
	}
	if _, ok := second.Deletion(DefaultTenant, "a"); ok || len(second.Deletions()) != 0 {
		t.Error("the deletion is at its end, and still there")
	}
	if _, err := second.BeginDelete(t.Context(), DefaultTenant, "a", false); !errors.Is(err, ErrNotFound) {
		t.Errorf("BeginDelete at last: %v, want ErrNotFound", err)
	}
	create(t, second, hook("a")) // and its group is free again
}

// Who works a deletion off ends that one, not what has come in its place meanwhile.
func TestADeletionEndsAsItWasAskedForLast(t *testing.T) {
	r := start(t, newMemory().open(), nil)
	create(t, r, hook("a"))
	begin := func(offsets bool) Deletion {
		d, err := r.BeginDelete(t.Context(), DefaultTenant, "a", offsets)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := begin(false)
	more := begin(true)
	if err := r.Delete(t.Context(), DefaultTenant, "a", d.Revision); !errors.Is(err, ErrPrecondition) {
		t.Errorf("ending it without the offsets that shall go since: %v, want ErrPrecondition", err)
	}
	if err := r.Delete(t.Context(), DefaultTenant, "a", more.Revision); err != nil {
		t.Errorf("ending it: %v", err)
	}
	if err := r.Delete(t.Context(), DefaultTenant, "a", more.Revision); !errors.Is(err, ErrNotFound) {
		t.Errorf("ending it again: %v, want ErrNotFound", err)
	}
	create(t, r, hook("a"))
	if err := r.Delete(t.Context(), DefaultTenant, "a", more.Revision); !errors.Is(err, ErrNotFound) {
		t.Errorf("ending it when there is another webhook: %v, want ErrNotFound", err)
	}
	get(t, r, "a")
}

// The members of a webhook that this build cannot read may be run by another one.
func TestTheDeletionOfAWebhookThatCannotBeReadKnowsItsGroup(t *testing.T) {
	log := newMemory()
	value, err := encode(Entry{Webhook: hook("a"), Secret: []byte("secret")}, ring(t, testKey(9)))
	if err != nil {
		t.Fatal(err)
	}
	log.put(key(DefaultTenant, "a"), value)
	r := start(t, log.open(), nil)
	if d, err := r.BeginDelete(t.Context(), DefaultTenant, "a", true); err != nil || d.GroupID != hook("a").GroupID {
		t.Errorf("BeginDelete: %+v, %v, want group %s", d, err, hook("a").GroupID)
	}
}

func TestADeletionOfANewerBuildIsNotTakenForOne(t *testing.T) {
	for _, value := range []string{
		`{"deletion_version":2,"since":"2026-09-22T10:00:00Z","group_id":"g","offsets":true}`,
		`{"deletion_version":1,"since":"2026-09-22T10:00:00Z","group_id":"g","offsets":true,"more":1}`,
		`{"deletion_version":1}x`, `null`, `{}`, ``,
	} {
		if d, ok := decodeDeletion(key(DefaultTenant, "a"), []byte(value), 7); ok {
			t.Errorf("%s is read as %+v", value, d)
		}
	}
	if _, ok := decodeDeletion(markerKey, []byte(`{"deletion_version":1}`), 7); ok {
		t.Error("a record of no webhook is read as a deletion")
	}
}
