package webhooks

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// unreadableValues are what a webhook's record may hold that this process cannot read.
func unreadableValues(t *testing.T) map[string][]byte {
	t.Helper()
	w := hook("a")
	foreign, err := encode(Entry{Webhook: w, Secret: []byte("secret")}, ring(t, testKey(9)))
	if err != nil {
		t.Fatal(err)
	}
	own := ring(t, testKey(1))
	good, err := encode(Entry{Webhook: w, Secret: []byte("secret")}, own)
	if err != nil {
		t.Fatal(err)
	}
	other, err := encode(Entry{Webhook: hook("b"), Secret: []byte("secret")}, own)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"a key that is not in the ring": foreign,
		"a newer version":               bytes.Replace(good, version(storedVersion), version(storedVersion+1), 1),
		"no version":                    []byte("{}"),
		"a field of a newer build":      bytes.Replace(good, version(storedVersion), append(version(storedVersion), `,"colour":1`...), 1),
		"cut short":                     good[:len(good)-1],
		"followed by more":              append(bytes.Clone(good), "{}"...),
		"not JSON":                      []byte("\x00\x01"),
		"empty":                         {},
		"another webhook's":             other,
	}
}

// version is the member of an entry's value that tells its version.
func version(n int) []byte { return fmt.Appendf(nil, `"version":%d`, n) }

func TestAnEntryThatCannotBeReadIsKeptAsideAndNeverOverwritten(t *testing.T) {
	for name, value := range unreadableValues(t) {
		t.Run(name, func(t *testing.T) {
			log := newMemory()
			log.put(key(DefaultTenant, "a"), value)
			var out bytes.Buffer
			r := follow(t, log.open(), ring(t, testKey(1)), slog.NewTextHandler(&out, nil))
			r.lead()
			if _, err := r.Get(DefaultTenant, "a"); !errors.Is(err, ErrUnreadable) {
				t.Errorf("Get: %v, want ErrUnreadable", err)
			}
			w := hook("a")
			w.GroupID = "new"
			if _, err := r.Create(t.Context(), w, nil); !errors.Is(err, ErrUnreadable) {
				t.Errorf("Create: %v, want ErrUnreadable", err)
			}
			if _, _, err := r.Replace(t.Context(), w, nil); !errors.Is(err, ErrUnreadable) {
				t.Errorf("Replace: %v, want ErrUnreadable", err)
			}
			if _, err := r.SetState(t.Context(), DefaultTenant, "a", Paused, nil); !errors.Is(err, ErrUnreadable) {
				t.Errorf("SetState: %v, want ErrUnreadable", err)
			}
			if n := len(r.List(DefaultTenant)); n != 0 {
				t.Errorf("%d are listed, want none", n)
			}
			create(t, r, hook("c")) // the others work
			if err := r.Delete(t.Context(), DefaultTenant, "a", AnyRevision); err != nil {
				t.Errorf("Delete: %v", err)
			}
			create(t, r, w)
			r.stop()
			if !strings.Contains(out.String(), "level=ERROR") || !strings.Contains(out.String(), "webhook/default/a") {
				t.Errorf("the log does not say so: %s", out.String())
			}
		})
	}
}

func TestWhatWasPinnedStaysWithTheWebhook(t *testing.T) {
	log := newMemory()
	r := start(t, log.open(), nil)
	pinned := map[string]Pinned{
		"orders":   {TopicID: "000102030405060708090a0b0c0d0e0f", Partitions: 6},
		"payments": {Partitions: 1},
	}
	w := hook("a")
	w.Topics = []string{"orders", "payments"}
	if _, err := r.Create(t.Context(), w, pinned); err != nil {
		t.Fatal(err)
	}
	w.Topics = []string{"orders"}
	replaced, _, err := r.Replace(t.Context(), w, nil)
	if err != nil {
		t.Fatal(err)
	}
	paused, err := r.SetState(t.Context(), DefaultTenant, "a", Paused, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.stop()
	for when, e := range map[string]Entry{
		"replaced": replaced, "paused": paused, "after a restart": get(t, start(t, log.open(), nil), "a"),
	} {
		if diff := cmp.Diff(pinned, e.Pinned); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
}

// The file was written by a build that knew of version 1 alone.
func TestAnEntryOfVersion1IsReadAndWrittenAnewAsOfNow(t *testing.T) {
	value, err := os.ReadFile("testdata/entry_v1.json")
	if err != nil {
		t.Fatal(err)
	}
	log := newMemory()
	log.put(key(DefaultTenant, "a"), value)
	r := start(t, log.open(), nil)
	got := get(t, r, "a")
	want := hook("a")
	want.Labels = map[string]string{"team": "payments"}
	want.State, want.StateReason = Paused, new("by hand")
	want.CreatedAt = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	want.UpdatedAt = want.CreatedAt.Add(time.Hour)
	if diff := cmp.Diff(Entry{Webhook: want, Secret: []byte("0123456789abcdef0123456789abcdef")}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	resumed, err := r.SetState(t.Context(), DefaultTenant, "a", Active, nil)
	if err != nil {
		t.Fatal(err)
	}
	last := log.records[len(log.records)-1]
	if !bytes.HasPrefix(last.value, append([]byte("{"), version(storedVersion)...)) || !bytes.Equal(resumed.Secret, got.Secret) {
		t.Errorf("written anew as %s, with the secret %q, want version %d and %q", last.value, resumed.Secret, storedVersion, got.Secret)
	}
}

func TestAnUnreadableEntryKeepsItsGroup(t *testing.T) {
	log := newMemory()
	log.put(key(DefaultTenant, "a"), unreadableValues(t)["a key that is not in the ring"])
	r := start(t, log.open(), nil)
	b := hook("b")
	b.GroupID = hook("a").GroupID
	if _, err := r.Create(t.Context(), b, nil); !errors.Is(err, ErrGroupInUse) {
		t.Errorf("Create: %v, want ErrGroupInUse", err)
	}
}

func TestRecordsOfOtherKindsAreLeftAlone(t *testing.T) {
	log := newMemory()
	log.put("", []byte("?"))
	log.put("replica/1", []byte("{}"))
	log.put(markerKey, nil)
	r := start(t, log.open(), nil)
	create(t, r, hook("a"))
}

func TestASecretSurvivesTheRotationOfKeys(t *testing.T) {
	log := newMemory()
	r := start(t, log.open(), ring(t, testKey(1)))
	created := create(t, r, hook("a"))
	r.stop()

	r = start(t, log.open(), ring(t, testKey(2), testKey(1)))
	if got := get(t, r, "a"); !bytes.Equal(got.Secret, created.Secret) {
		t.Error("the secret changed with the key in front")
	}
	if _, err := r.SetState(t.Context(), DefaultTenant, "a", Paused, nil); err != nil {
		t.Fatal(err)
	}
	r.stop()

	r = start(t, log.open(), ring(t, testKey(2)))
	if got := get(t, r, "a"); !bytes.Equal(got.Secret, created.Secret) {
		t.Error("once written anew the secret does not open with the new key alone")
	}
}

func TestSecretsDoNotStandInTheLog(t *testing.T) {
	log := newMemory()
	created := create(t, start(t, log.open(), nil), hook("a"))
	for _, r := range log.records {
		if bytes.Contains(r.value, created.Secret) || strings.Contains(string(r.value), strings.TrimPrefix(FormatSecret(created.Secret), "whsec_")) {
			t.Errorf("the record at %d holds the secret", r.offset)
		}
	}
}
