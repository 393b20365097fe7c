package acker

import (
	"bytes"
	"encoding/base64"
	"errors"
	"math"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

var (
	testKey  = bytes.Repeat([]byte{1}, minKeySize)
	otherKey = bytes.Repeat([]byte{2}, minKeySize)

	exampleToken = Token{
		Tenant: "default", Webhook: "orders-to-billing", Topic: "orders",
		Partition: 3, Generation: 42, Tenure: 0x0123456789abcdef,
		First: 1200, Last: 1249, Attempt: 1, Owner: "http://10.0.0.7:8080",
	}
)

// The text is kept by receivers while a gateway is upgraded: another text
// needs another version.
const exampleTokenText = "AUoHZGVmYXVsdBFvcmRlcnMtdG8tYmlsbGluZwZvcmRlcnMGVAEjRWeJq83v4BJiAhRodHRwOi8vMTAuMC4wLjc6ODA4MPQ7NU797BQYlwG9precDUU"

func TestTokenText(t *testing.T) {
	if got := string(NewTokens(testKey).Append(nil, &exampleToken)); got != exampleTokenText {
		t.Errorf("token: got %s, want %s", got, exampleTokenText)
	}
}

func TestTokenRoundTrip(t *testing.T) {
	tokens := NewTokens(testKey)
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, -1, 700)
		want := Token{
			Tenant:     text.Draw(t, "tenant"),
			Webhook:    text.Draw(t, "webhook"),
			Topic:      text.Draw(t, "topic"),
			Partition:  rapid.Int32().Draw(t, "partition"),
			Generation: rapid.Int32().Draw(t, "generation"),
			Tenure:     rapid.Uint64().Draw(t, "tenure"),
			First:      rapid.Int64().Draw(t, "first"),
			Last:       rapid.Int64().Draw(t, "last"),
			Attempt:    rapid.Int32().Draw(t, "attempt"),
			Owner:      text.Draw(t, "owner"),
		}
		got, err := tokens.Parse(string(tokens.Append(nil, &want)))
		if err != nil || got != want {
			t.Fatalf("got %+v, %v; want %+v", got, err, want)
		}
	})
}

func TestTokenAppendKeepsWhatIsThere(t *testing.T) {
	tokens := NewTokens(testKey)
	if got, want := string(tokens.Append([]byte("token="), &exampleToken)), "token="+exampleTokenText; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestTokenRefused(t *testing.T) {
	tokens := NewTokens(testKey)
	raw, err := base64.RawURLEncoding.DecodeString(exampleTokenText)
	if err != nil {
		t.Fatal(err)
	}
	alphabet := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	end := len(exampleTokenText) - 1
	for _, test := range []struct{ claim, text string }{
		{"nothing", ""},
		{"a version and a key id alone", "AQE"},
		{"a MAC without all in front of it", base64.RawURLEncoding.EncodeToString(append([]byte{tokenVersion}, make([]byte, macSize)...))},
		{"a text cut short", exampleTokenText[:end]},
		{"a text gone on with", exampleTokenText + "A"},
		{"two tokens", exampleTokenText + exampleTokenText},
		{"a line break at the end", exampleTokenText + "\n"},
		{"a line break inside", exampleTokenText[:9] + "\r\n" + exampleTokenText[9:]},
		{"a space in front", " " + exampleTokenText},
		{"padding", exampleTokenText + "="},
		{"the other alphabet", base64.RawStdEncoding.EncodeToString(raw) + "+/"},
		{"stray bits in the last character", exampleTokenText[:end] + string(alphabet[strings.IndexByte(alphabet, exampleTokenText[end])+1])},
		{"a token longer than is looked at", string(tokens.Append(nil, &Token{Owner: strings.Repeat("o", maxTokenText)}))},
		{"a token of another installation", string(NewTokens(otherKey).Append(nil, &exampleToken))},
	} {
		t.Run(test.claim, func(t *testing.T) {
			if got, err := tokens.Parse(test.text); !errors.Is(err, ErrTokenInvalid) || got != (Token{}) {
				t.Errorf("parse %q: got %+v, %v; want %v", test.text, got, err, ErrTokenInvalid)
			}
		})
	}
	if got, err := tokens.Parse(exampleTokenText); err != nil || got != exampleToken {
		t.Errorf("the token itself: got %+v, %v; want %+v", got, err, exampleToken)
	}
}

// TestK1_ATokenWithOneBitChanged is refused, whichever bit it is, and so is the same
// token of another installation.
func TestK1_ATokenWithOneBitChanged(t *testing.T) {
	tokens := NewTokens(testKey)
	raw, err := base64.RawURLEncoding.DecodeString(exampleTokenText)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(raw) {
		changed := bytes.Clone(raw)
		changed[bit/8] ^= 1 << (bit % 8)
		if got, err := tokens.Parse(base64.RawURLEncoding.EncodeToString(changed)); !errors.Is(err, ErrTokenInvalid) || got != (Token{}) {
			t.Errorf("bit %d changed: got %+v, %v; want %v", bit, got, err, ErrTokenInvalid)
		}
	}
	for bit := range 8 * len(exampleTokenText) {
		changed := []byte(exampleTokenText)
		changed[bit/8] ^= 1 << (bit % 8)
		if got, err := tokens.Parse(string(changed)); !errors.Is(err, ErrTokenInvalid) || got != (Token{}) {
			t.Errorf("bit %d of the text changed: got %+v, %v; want %v", bit, got, err, ErrTokenInvalid)
		}
	}
	if _, err := NewTokens(otherKey).Parse(exampleTokenText); !errors.Is(err, ErrTokenInvalid) {
		t.Errorf("by another installation: %v, want %v", err, ErrTokenInvalid)
	}
}

func TestTokenWithAnyCharacterChangedIsRefused(t *testing.T) {
	tokens := NewTokens(testKey)
	for i := range exampleTokenText {
		for _, c := range []byte("Aa0-_.") {
			text := exampleTokenText[:i] + string(c) + exampleTokenText[i+1:]
			if text == exampleTokenText {
				continue
			}
			if got, err := tokens.Parse(text); !errors.Is(err, ErrTokenInvalid) {
				t.Errorf("character %d changed to %q: got %+v, %v; want %v", i, c, got, err, ErrTokenInvalid)
			}
		}
	}
}

// Behind a good MAC the fields still have to be read exactly: a later gateway
// with the same key may have minted other ones.
func TestAuthenticTokenWithOtherFieldsIsRefused(t *testing.T) {
	key := newMACKey(testKey, tokenPurpose)
	seal := func(version byte, fields string) string {
		state := key.get()
		defer key.put(state)
		b := append([]byte{version, key.id}, fields...)
		return base64.RawURLEncoding.EncodeToString(append(b, state.mac(b)...))
	}
	numbers := "\x06\x54" + "\x01\x23\x45\x67\x89\xab\xcd\xef" + "\x02\x02\x02"
	whole := "\x01a\x01b\x01c" + numbers + "\x01d"
	overlong := strings.Repeat("\xff", 10) + "\x01"
	tokens := NewTokens(testKey)
	if got, err := tokens.Parse(seal(tokenVersion, whole)); err != nil || got.Owner != "d" {
		t.Fatalf("whole: got %+v, %v", got, err)
	}
	for _, test := range []struct {
		claim   string
		version byte
		fields  string
	}{
		{"another version", tokenVersion + 1, whole},
		{"no fields", tokenVersion, ""},
		{"a field missing", tokenVersion, whole[:len(whole)-2]},
		{"a string cut short", tokenVersion, whole[:len(whole)-1]},
		{"a field more", tokenVersion, whole + "\x00"},
		{"the tenure cut short", tokenVersion, whole[:12]},
		{"a length beyond the end", tokenVersion, "\xff\xff\x03"},
		{"a length beyond 64 bits", tokenVersion, overlong},
		{"a partition beyond 32 bits", tokenVersion, "\x01a\x01b\x01c" + "\x80\x80\x80\x80\x10" + numbers[1:] + "\x01d"},
	} {
		t.Run(test.claim, func(t *testing.T) {
			if got, err := tokens.Parse(seal(test.version, test.fields)); !errors.Is(err, ErrTokenInvalid) {
				t.Errorf("got %+v, %v; want %v", got, err, ErrTokenInvalid)
			}
		})
	}
}

func TestTokenKeysRotate(t *testing.T) {
	old, rotating, rotated := NewTokens(testKey), NewTokens(otherKey, testKey), NewTokens(otherKey)
	for _, test := range []struct {
		claim   string
		mint    *Tokens
		check   *Tokens
		accepts bool
	}{
		{"while rotating the old key checks", old, rotating, true},
		{"while rotating the new key mints", rotating, rotated, true},
		{"the old gateway does not know the new key", rotating, old, false},
		{"once rotated the old key is gone", old, rotated, false},
	} {
		t.Run(test.claim, func(t *testing.T) {
			_, err := test.check.Parse(string(test.mint.Append(nil, &exampleToken)))
			if got := err == nil; got != test.accepts {
				t.Errorf("accepted: got %v (%v), want %v", got, err, test.accepts)
			}
		})
	}
}

// A key id has 8 bits: with two keys of one id both must be tried.
func TestTokenKeysMayShareAnID(t *testing.T) {
	tokens := NewTokens(testKey, otherKey)
	tokens.keys[0].id = tokens.keys[1].id
	text := string((&Tokens{keys: tokens.keys[1:]}).Append(nil, &exampleToken))
	if got, err := tokens.Parse(text); err != nil || got != exampleToken {
		t.Errorf("got %+v, %v; want %+v", got, err, exampleToken)
	}
}

func TestSubkeysDifferByPurpose(t *testing.T) {
	mac := func(purpose string) string {
		return string(newMACKey(testKey, purpose).get().mac([]byte("message")))
	}
	if mac(tokenPurpose) == mac(deliveryIDPurpose) {
		t.Error("tokens and delivery ids share a key")
	}
}

func TestKeysTooShortAreRefused(t *testing.T) {
	for claim, make := range map[string]func(){
		"tokens without a key":          func() { NewTokens() },
		"tokens with a short key":       func() { NewTokens(testKey, testKey[1:]) },
		"delivery ids with a short key": func() { NewDeliveryIDs(testKey[1:]) },
	} {
		t.Run(claim, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("accepted")
				}
			}()
			make()
		})
	}
}

func TestTokenWithLongestFieldsIsAccepted(t *testing.T) {
	tok := Token{
		Tenant: strings.Repeat("t", 64), Webhook: strings.Repeat("w", 64), Topic: strings.Repeat("o", 249),
		Partition: math.MaxInt32, Generation: math.MaxInt32, Tenure: math.MaxUint64,
		First: math.MaxInt64 - 1, Last: math.MaxInt64, Attempt: math.MaxInt32,
		Owner: "https://" + strings.Repeat("h", 2000),
	}
	tokens := NewTokens(testKey)
	text := string(tokens.Append(nil, &tok))
	if got, err := tokens.Parse(text); err != nil || got != tok {
		t.Errorf("token of %d characters: got %v", len(text), err)
	}
}

func TestTokensAndIDsMayBeShared(t *testing.T) {
	tokens, ids := NewTokens(testKey), NewDeliveryIDs(testKey)
	var all sync.WaitGroup
	for i := range int64(4) {
		all.Go(func() {
			tok := exampleToken
			for j := range int64(500) {
				tok.First, tok.Last = i, j
				if got, err := tokens.Parse(string(tokens.Append(nil, &tok))); err != nil || got != tok {
					t.Errorf("got %+v, %v; want %+v", got, err, tok)
				}
				if a, b := exampleID(ids, i, j), exampleID(ids, i, j); a != b {
					t.Errorf("id: got %s and %s for the same delivery", a, b)
				}
			}
		})
	}
	all.Wait()
}

// FuzzToken holds that no text is a panic, and that a text accepted is the one
// that would be minted.
func FuzzToken(f *testing.F) {
	tokens := NewTokens(testKey, otherKey)
	f.Add(exampleTokenText)
	f.Add(string(NewTokens(otherKey).Append(nil, &Token{})))
	f.Add(exampleTokenText + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		checkParsed(t, tokens, text)
		// Past the MAC: the same bytes as fields of an authentic token.
		state := tokens.keys[0].get()
		defer tokens.keys[0].put(state)
		b := append([]byte{tokenVersion, tokens.keys[0].id}, text...)
		checkParsed(t, tokens, base64.RawURLEncoding.EncodeToString(append(b, state.mac(b)...)))
	})
}

func checkParsed(t *testing.T, tokens *Tokens, text string) {
	t.Helper()
	tok, err := tokens.Parse(text)
	if err != nil {
		if tok != (Token{}) || !errors.Is(err, ErrTokenInvalid) {
			t.Fatalf("refused with %+v, %v", tok, err)
		}
		return
	}
	again, err := tokens.Parse(string(tokens.Append(nil, &tok)))
	if err != nil || again != tok {
		t.Fatalf("minted again: got %+v, %v; want %+v", again, err, tok)
	}
}

func BenchmarkTokenAppend(b *testing.B) {
	b.ReportAllocs()
	tokens := NewTokens(testKey)
	dst := make([]byte, 0, maxTokenText)
	for b.Loop() {
		dst = tokens.Append(dst[:0], &exampleToken)
	}
}

func BenchmarkTokenParse(b *testing.B) {
	b.ReportAllocs()
	tokens := NewTokens(testKey)
	for b.Loop() {
		if _, err := tokens.Parse(exampleTokenText); err != nil {
			b.Fatal(err)
		}
	}
}
