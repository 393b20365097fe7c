package webhooks

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// secretOf is a signing secret of one letter.
func secretOf(letter string) []byte { return []byte(strings.Repeat(letter, 32)) }

func rotate(t *testing.T, r *process, id, letter string, overlap time.Duration) Entry {
	t.Helper()
	e, err := r.Rotate(t.Context(), DefaultTenant, id, Rotation{secretOf(letter), overlap})
	if err != nil {
		t.Fatalf("Rotate: %v", err)
	}
	return e
}

// signers are the letters of the secrets that sign at a time, the newest first.
func signers(e Entry, at time.Time) string {
	letters := string(e.Secret[:1])
	for _, k := range e.Former {
		if !k.Ended(at) {
			letters += string(k.Secret[:1])
		}
	}
	return letters
}

// TestG5: which keys sign when, over rotations one after the other.
func TestG5_WhichKeysSign(t *testing.T) {
	begin := time.Date(2026, 9, 22, 10, 0, 0, 0, time.UTC)
	type step struct {
		hour    int
		letter  string
		overlap time.Duration
	}
	for _, test := range []struct {
		claim string
		steps []step
		want  map[int]string // who signs, by the hour
	}{
		{"either signs for the overlap, to its end", []step{{0, "b", 24 * time.Hour}}, map[int]string{0: "ba", 23: "ba", 24: "b", 25: "b"}},
		{"without an overlap the former ends at once", []step{{0, "b", 0}}, map[int]string{0: "b"}},
		{"again during an overlap: each to its own end",
			[]step{{0, "b", 24 * time.Hour}, {2, "c", 24 * time.Hour}}, map[int]string{2: "cba", 24: "cb", 26: "c"}},
		{"a shorter overlap is one for all",
			[]step{{0, "b", 24 * time.Hour}, {2, "c", time.Hour}}, map[int]string{2: "cba", 3: "c"}},
		{"without an overlap all former ones end",
			[]step{{0, "b", 24 * time.Hour}, {2, "c", 0}}, map[int]string{2: "c"}},
		{"of four former ones the oldest ends", []step{
			{0, "b", 24 * time.Hour}, {1, "c", 24 * time.Hour}, {2, "d", 24 * time.Hour}, {3, "e", 24 * time.Hour},
		}, map[int]string{3: "edcb"}},
		{"the same secret again changes nothing",
			[]step{{0, "b", 24 * time.Hour}, {1, "b", 24 * time.Hour}}, map[int]string{1: "ba", 24: "b"}},
		{"the same secret again may end the former sooner",
			[]step{{0, "b", 24 * time.Hour}, {1, "b", 0}}, map[int]string{1: "b"}},
		{"back to the one before", []step{{0, "b", 24 * time.Hour}, {1, "a", time.Hour}}, map[int]string{1: "aba", 2: "a"}},
	} {
		t.Run(test.claim, func(t *testing.T) {
			e := Entry{Webhook: hook("w"), Secret: secretOf("a")}
			for _, s := range test.steps {
				e, _ = e.rotated(Rotation{secretOf(s.letter), s.overlap}, begin.Add(time.Duration(s.hour)*time.Hour))
			}
			for hour, want := range test.want {
				at := begin.Add(time.Duration(hour) * time.Hour)
				if got := signers(e, at); got != want {
					t.Errorf("at hour %d %q sign, want %q", hour, got, want)
				}
				if ends := e.OverlapEnds(at); (ends != nil) != (len(want) > 1) || ends != nil && !ends.After(at) {
					t.Errorf("at hour %d the overlap ends at %v, while %q sign", hour, ends, want)
				}
			}
		})
	}
}

func TestARotationIsDurableAndSeenByAll(t *testing.T) {
	log := newMemory()
	r, other := start(t, log.open(), nil), follow(t, log.open(), nil, slog.DiscardHandler)
	w := hook("a")
	w.Signing.Schemes = []string{SchemeV1, SchemeV1a}
	created := create(t, r, w)
	done := rotate(t, r, "a", "b", time.Hour)
	if !bytes.Equal(done.Secret, secretOf("b")) || len(done.Former) != 1 || !bytes.Equal(done.Former[0].Secret, created.Secret) ||
		!done.Former[0].Private.Equal(created.Private) || done.Private.Equal(created.Private) || done.Revision <= created.Revision {
		t.Errorf("rotated to %+v from %+v", done, created)
	}
	if left := time.Until(done.Former[0].Until); left > time.Hour || left < 59*time.Minute {
		t.Errorf("the former key signs for %v more, want an hour", left)
	}
	if err := other.Await(t.Context(), done.Revision); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(done, get(t, other, "a")); diff != "" {
		t.Errorf("another replica (-rotated +got):\n%s", diff)
	}
	r.stop()
	if diff := cmp.Diff(done, get(t, start(t, log.open(), nil), "a")); diff != "" {
		t.Errorf("after a restart (-rotated +got):\n%s", diff)
	}
}

func TestTheSameRotationAgainIsNoChange(t *testing.T) {
	r := start(t, newMemory().open(), nil)
	create(t, r, hook("a"))
	once, again := rotate(t, r, "a", "b", time.Hour), rotate(t, r, "a", "b", time.Hour)
	if diff := cmp.Diff(once, again); diff != "" {
		t.Errorf("(-once +again):\n%s", diff)
	}
}

func TestRotateRefuses(t *testing.T) {
	r := start(t, newMemory().open(), nil)
	if _, err := r.Rotate(t.Context(), DefaultTenant, "a", Rotation{Secret: secretOf("b")}); !errors.Is(err, ErrNotFound) {
		t.Errorf("without a webhook: %v, want ErrNotFound", err)
	}
	create(t, r, hook("a"))
	for name, test := range map[string]struct {
		rotation Rotation
		want     []string
	}{
		"no secret":           {Rotation{}, []string{"/secret"}},
		"a negative overlap":  {Rotation{secretOf("b"), -1}, []string{"/overlap_ms"}},
		"too long an overlap": {Rotation{secretOf("b"), MaxOverlap + 1}, []string{"/overlap_ms"}},
	} {
		_, err := r.Rotate(t.Context(), DefaultTenant, "a", test.rotation)
		if diff := cmp.Diff(test.want, pointers(t, err)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// What has ended is not kept for ever: the next change of the webhook drops it.
func TestAKeyThatHasEndedIsNotWrittenAgain(t *testing.T) {
	log := newMemory()
	r := start(t, log.open(), nil)
	create(t, r, hook("a"))
	rotate(t, r, "a", "b", time.Millisecond)
	for e := get(t, r, "a"); len(e.Former) > 0 && !e.Former[0].Ended(time.Now()); { // it may have ended already
		time.Sleep(time.Millisecond)
	}
	paused, err := r.SetState(t.Context(), DefaultTenant, "a", Paused, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := get(t, r, "a"); len(paused.Former) != 0 || len(got.Former) != 0 || strings.Contains(string(log.records[len(log.records)-1].value), "former") {
		t.Errorf("former keys %v are answered, %v read, want none", paused.Former, got.Former)
	}
}

// TestG6: a secret has 24 to 64 bytes.
func TestG6_SecretsAreOf24To64Bytes(t *testing.T) {
	for n, good := range map[int]bool{0: false, 23: false, 24: true, 32: true, 64: true, 65: false, 1000: false} {
		secret := bytes.Repeat([]byte{0xfb}, n)
		got, err := ParseSecret(FormatSecret(secret))
		if (err == nil) != good || good && !bytes.Equal(got, secret) {
			t.Errorf("%d bytes: %v, %v, want it taken: %v", n, got, err, good)
		}
		if err := (Rotation{Secret: secret}).Validate(); (err == nil) != good {
			t.Errorf("a rotation to %d bytes: %v, want it taken: %v", n, err, good)
		}
	}
	good := FormatSecret(secretOf("s"))
	for name, text := range map[string]string{
		"no prefix": strings.TrimPrefix(good, "whsec_"), "another prefix": "whpk_" + strings.TrimPrefix(good, "whsec_"),
		"no base64": "whsec_" + strings.Repeat("!", 40), "base64url": strings.Replace(FormatSecret(bytes.Repeat([]byte{0xff}, 30)), "/", "_", 1),
		"a line break": good[:20] + "\n" + good[20:], "a space": good + " ", "no padding": strings.TrimRight(good, "="), "empty": "",
	} {
		if _, err := ParseSecret(text); err == nil {
			t.Errorf("%s is taken", name)
		} else if text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("%s: the error repeats it: %v", name, err)
		}
	}
}

// TestG8: neither secrets nor private keys, former ones too, can be read in the log,
// and the key that seals them can be exchanged.
func TestG8_SigningKeysAreSealed(t *testing.T) {
	log := newMemory()
	r := start(t, log.open(), ring(t, testKey(1)))
	w := hook("a")
	w.Signing.Schemes = []string{SchemeV1, SchemeV1a}
	create(t, r, w)
	rotate(t, r, "a", "b", time.Hour)
	before := rotate(t, r, "a", "c", time.Hour)
	if len(before.Former) != 2 {
		t.Fatalf("%d former keys, want 2", len(before.Former))
	}
	r.stop()
	keys := []FormerKey{{Secret: before.Secret, Private: before.Private}}
	for _, k := range append(keys, before.Former...) {
		for _, hidden := range [][]byte{k.Secret, k.Private.Seed()} {
			for _, text := range []string{string(hidden), base64.StdEncoding.EncodeToString(hidden), hex.EncodeToString(hidden), fmt.Sprint(hidden)} {
				for _, record := range log.records {
					if strings.Contains(string(record.value), text) {
						t.Errorf("the record at %d holds a key", record.offset)
					}
				}
			}
		}
	}

	r = start(t, log.open(), ring(t, testKey(2), testKey(1)))
	if diff := cmp.Diff(before, get(t, r, "a")); diff != "" {
		t.Errorf("with a new key in front (-before +got):\n%s", diff)
	}
	if _, err := r.SetState(t.Context(), DefaultTenant, "a", Paused, nil); err != nil {
		t.Fatal(err)
	}
	r.stop()
	got := get(t, start(t, log.open(), ring(t, testKey(2))), "a")
	if !cmp.Equal(before.Secret, got.Secret) || !cmp.Equal(before.Private, got.Private) || !cmp.Equal(before.Former, got.Former) {
		t.Error("once written anew the keys do not open with the new key alone")
	}
	_, err := start(t, log.open(), ring(t, testKey(3))).Get(DefaultTenant, "a")
	if !errors.Is(err, ErrUnreadable) {
		t.Errorf("with another key: %v, want ErrUnreadable", err)
	}
}

// A receiver knows its secret. If the seal of one could stand where the seed of the
// key pair does, whoever writes to the registry could have it sign by what is known.
func TestASecretIsNotTakenForASeed(t *testing.T) {
	k := ring(t, testKey(1))
	sealed, _, err := k.sealKey(secretOf("s"), nil, "default/a")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := k.openKey(sealed, sealed, "default/a"); !errors.Is(err, errUnsealable) {
		t.Errorf("a secret as a seed: %v, want errUnsealable", err)
	}
}

// TestG9: a webhook that signs by v1a has a key pair, whose public key it shows, and
// in an overlap the former one's.
func TestG9_PublicKeysAreShown(t *testing.T) {
	r := start(t, newMemory().open(), nil)
	w := hook("a")
	shown := func(e Entry) []string { return e.Shown(time.Now()).Signing.PublicKeys }
	if e := create(t, r, w); e.Private != nil || len(shown(e)) != 0 || shown(e) == nil {
		t.Errorf("by v1 alone: keys %v, want []", shown(e))
	}
	w.Signing.Schemes = []string{SchemeV1a}
	first, _, err := r.Replace(t.Context(), w, nil)
	if err != nil {
		t.Fatal(err)
	}
	if keys := shown(first); len(keys) != 1 || !strings.HasPrefix(keys[0], "whpk_") {
		t.Fatalf("by v1a: keys %q, want one", keys)
	}
	second := rotate(t, r, "a", "b", time.Hour)
	if keys := shown(second); len(keys) != 2 || keys[0] == keys[1] || keys[1] != shown(first)[0] {
		t.Errorf("in the overlap: keys %q, want a new one and %q", keys, shown(first))
	}
	if keys := second.PublicKeys(second.Former[0].Until); len(keys) != 1 {
		t.Errorf("after it: keys %q, want one", keys)
	}
	all, err := r.PublicKeys(time.Now())
	if err != nil || len(all) != 2 || !slices.ContainsFunc(all, func(k PublicKey) bool { return k.String() == shown(second)[0] }) {
		t.Errorf("of all webhooks: %v, %v, want the two", all, err)
	}

	same := get(t, r, "a").Shown(time.Now()) // as GET answers it
	e, changed, err := r.Replace(t.Context(), same, nil)
	if err != nil || changed || e.Webhook.Signing.PublicKeys != nil {
		t.Errorf("what was shown put back: changed %v, %v, keys %v", changed, err, e.Webhook.Signing.PublicKeys)
	}
	w.Signing.Enabled = false
	off, _, err := r.Replace(t.Context(), w, nil)
	if err != nil || len(shown(off)) != 0 {
		t.Errorf("unsigned: keys %q, %v, want none", shown(off), err)
	}
	w.Signing.Enabled, w.Signing.Schemes = true, []string{SchemeV1}
	if _, _, err := r.Replace(t.Context(), w, nil); err != nil {
		t.Fatal(err)
	}
	if e := rotate(t, r, "a", "c", time.Hour); e.Private != nil || len(shown(e)) != 0 {
		t.Errorf("rotated without v1a: keys %q, want none", shown(e))
	}
}

// The example of RFC 8037, A.1 to A.3.
func TestG9_JWKsAreThoseOfTheRFC(t *testing.T) {
	seed, err := base64.RawURLEncoding.DecodeString("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(publicKey(ed25519.NewKeyFromSeed(seed)).JWK())
	const want = `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","alg":"EdDSA","use":"sig",` +
		`"kid":"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}
