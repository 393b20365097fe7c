package webhooks

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
)

// testKey is a key of 32 bytes of b, in base64.
func testKey(b byte) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32))
}

func ring(t *testing.T, keys ...string) *Keys {
	t.Helper()
	k, err := NewKeys(keys...)
	if err != nil {
		t.Fatalf("NewKeys: %v", err)
	}
	return k
}

func TestKeysRefused(t *testing.T) {
	tests := map[string][]string{
		"none":                {},
		"empty":               {""},
		"31 bytes":            {base64.StdEncoding.EncodeToString(make([]byte, 31))},
		"33 bytes":            {base64.StdEncoding.EncodeToString(make([]byte, 33))},
		"not base64":          {"not base64 at all, is it? S3cret"},
		"the second is bad":   {testKey(1), "S3cret"},
		"the same key twice":  {testKey(1), testKey(2), testKey(1)},
		"raw bytes, not text": {strings.Repeat("k", 32)},
	}
	for name, keys := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := NewKeys(keys...)
			if err == nil {
				t.Fatal("taken, want an error")
			}
			for _, k := range keys {
				if k != "" && strings.Contains(err.Error(), k) {
					t.Errorf("the error repeats a key: %v", err)
				}
			}
		})
	}
}

func TestTheFirstKeySealsAndAllOpen(t *testing.T) {
	before, during, after := ring(t, testKey(1)), ring(t, testKey(2), testKey(1)), ring(t, testKey(2))
	old, err := before.seal([]byte("secret"), "default/a")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := during.open(old, "default/a"); err != nil || string(got) != "secret" {
		t.Errorf("the old key's seal, while rotating: %q, %v", got, err)
	}
	fresh, err := during.seal([]byte("secret"), "default/a")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := after.open(fresh, "default/a"); err != nil || string(got) != "secret" {
		t.Errorf("the new key's seal, after rotating: %q, %v", got, err)
	}
	if _, err := after.open(old, "default/a"); err == nil {
		t.Error("a ring without the old key opens its seal")
	}
}

func TestASealOpensOnlyWhole(t *testing.T) {
	k := ring(t, testKey(1))
	sealed, err := k.seal([]byte("secret"), "default/a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.open(sealed, "default/b"); err == nil {
		t.Error("it opens for another webhook")
	}
	if _, err := k.open(sealed[:len(sealed)-1], "default/a"); err == nil {
		t.Error("it opens cut short")
	}
	if _, err := k.open(nil, "default/a"); err == nil {
		t.Error("nothing opens")
	}
	for i := range sealed {
		damaged := bytes.Clone(sealed)
		damaged[i] ^= 1
		if _, err := k.open(damaged, "default/a"); err == nil {
			t.Errorf("it opens with byte %d damaged", i)
		}
	}
}

func TestDerivedKeysAreApart(t *testing.T) {
	k := ring(t, testKey(1), testKey(2))
	a, b := k.Derive("tokens"), k.Derive("deliveries")
	if len(a) != 2 || len(b) != 2 {
		t.Fatalf("%d and %d subkeys, want one per key", len(a), len(b))
	}
	seen := map[string]bool{string(bytes.Repeat([]byte{1}, 32)): true, string(bytes.Repeat([]byte{2}, 32)): true}
	for _, subkey := range append(a, b...) {
		if len(subkey) != 32 || seen[string(subkey)] {
			t.Errorf("subkey %x is not 32 bytes of its own", subkey)
		}
		seen[string(subkey)] = true
	}
	reversed := ring(t, testKey(2), testKey(1)).Derive("tokens")
	if !bytes.Equal(a[0], reversed[1]) || !bytes.Equal(a[1], reversed[0]) {
		t.Error("a key's subkey depends on where in the ring it stands")
	}
}

func TestFormatSecret(t *testing.T) {
	if got, want := FormatSecret([]byte{0, 0xff, 0x10}), "whsec_AP8Q"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if a, b := NewSecret(), NewSecret(); len(a) != 32 || bytes.Equal(a, b) {
		t.Errorf("secrets %x and %x, want two of 32 bytes", a, b)
	}
}

// TestLoopMarkers: each key of the ring has one, so that a rotation lets none through.
func TestLoopMarkers(t *testing.T) {
	const a, b = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="
	markers := func(keys ...string) []string {
		k, err := NewKeys(keys...)
		if err != nil {
			t.Fatal(err)
		}
		return k.LoopMarkers()
	}
	before, during, after := markers(a), markers(b, a), markers(b)
	if len(before) != 1 || len(during) != 2 || during[1] != before[0] || during[0] != after[0] || before[0] == after[0] {
		t.Errorf("markers before, during and after a rotation: %q, %q, %q", before, during, after)
	}
	if len(before[0]) != 2*loopMarkerSize {
		t.Errorf("a marker has %d digits, want %d", len(before[0]), 2*loopMarkerSize)
	}
}
