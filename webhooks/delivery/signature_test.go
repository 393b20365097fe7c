package delivery

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/kpush/kpush/webhooks"
)

// keyedBy is an entry with signing keys of one letter.
func keyedBy(letter string, schemes ...string) webhooks.Entry {
	e := webhooks.Entry{
		Webhook: webhooks.Default(), Secret: []byte(strings.Repeat(letter, 32)),
		Private: ed25519.NewKeyFromSeed([]byte(strings.Repeat(letter, 32))),
	}
	e.Webhook.Signing.Schemes = schemes
	return e
}

// rotated is what becomes of e when the keys of next replace its.
func rotated(e, next webhooks.Entry, until time.Time) webhooks.Entry {
	next.Former = append([]webhooks.FormerKey{{Secret: e.Secret, Private: e.Private, Until: until}}, e.Former...)
	return next
}

// signingClient delivers to a URL, signing as e says.
func signingClient(t *testing.T, url string, s *Signer) *Client {
	t.Helper()
	cfg := testConfig(testWebhook(url))
	cfg.Signer = s
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// relay passes requests on to another receiver, with something changed in each.
func relay(t *testing.T, target string, change func(h http.Header, body []byte) []byte) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		h := r.Header.Clone()
		out, err := http.NewRequestWithContext(r.Context(), http.MethodPost, target, bytes.NewReader(change(h, body)))
		if err != nil {
			t.Error(err)
			return
		}
		out.Header = h
		resp, err := http.DefaultTransport.RoundTrip(out)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
	}))
	t.Cleanup(func() {
		s.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return s.URL
}

// oddMessage is a delivery of values that a receiver may read wrongly and so sign otherwise.
func oddMessage(t *testing.T, c *Client) *Message {
	t.Helper()
	b := recordsOf([]byte(`{"größe": "Ω \ud83d\ude00 \u0000"}`), []byte("\xff\xfe\x00"), nil, []byte("null"), []byte("a\r\nb"), bytes.Repeat([]byte("x"), 200_000))
	m := c.Encode("dl_3kq9x7w2m5", "a.b.c", 3, b, 0, b.Len())
	t.Cleanup(m.Free)
	return m
}

// accepts delivers once, at a time, and fails the test unless the receiver finds that
// the delivery verifies, or that it does not.
func accepts(t *testing.T, claim string, c *Client, at time.Time, want bool) {
	t.Helper()
	res := c.Send(t.Context(), oddMessage(t, c), Attempt{Number: 1, Generation: 42, Token: "kat_token", Now: at})
	if want {
		expect(t, res, Acked, 200, "")
	} else {
		expect(t, res, Failed, 401, "http_401")
	}
	if t.Failed() {
		t.Fatalf("that was: %s", claim)
	}
}

// TestG1: every official library verifies what is delivered, as a receiver of its
// language.
func TestG1_TheOfficialLibrariesVerify(t *testing.T) {
	for _, l := range languages {
		t.Run(l.name, func(t *testing.T) {
			e, other := keyedBy("a", "v1"), keyedBy("b", "v1")
			url := l.start(t, map[string]any{"right": webhooks.FormatSecret(e.Secret), "wrong": webhooks.FormatSecret(other.Secret)})
			accepts(t, "the webhook's secret verifies", signingClient(t, url+"/right", NewSigner(e)), time.Now(), true)
			accepts(t, "another secret does not", signingClient(t, url+"/wrong", NewSigner(e)), time.Now(), false)
			e.Webhook.Signing.Schemes = []string{"v1", "v1a"}
			accepts(t, "a signature v1a beside it is no hindrance", signingClient(t, url+"/right", NewSigner(e)), time.Now(), true)
			e.Webhook.Signing.Schemes = []string{"v1a"}
			accepts(t, "v1a alone is not what it knows", signingClient(t, url+"/right", NewSigner(e)), time.Now(), false)
		})
	}
}

// TestG2: with one bit changed on the way nothing verifies any more.
func TestG2_WhatWasChangedDoesNotVerify(t *testing.T) {
	flip := func(h http.Header, name string) { // in the last character
		text := []byte(h.Get(name))
		text[len(text)-1] ^= 1
		h.Set(name, string(text))
	}
	changes := map[string]func(h http.Header, body []byte) []byte{
		"the body": func(_ http.Header, body []byte) []byte {
			body[len(body)-10] ^= 1 // within the value of x's
			return body
		},
		"the id":        func(h http.Header, body []byte) []byte { flip(h, "Webhook-Id"); return body },
		"the timestamp": func(h http.Header, body []byte) []byte { flip(h, "Webhook-Timestamp"); return body },
	}
	for _, l := range languages {
		t.Run(l.name, func(t *testing.T) {
			e := keyedBy("a", "v1", "v1a")
			keys := map[string]any{"v1": webhooks.FormatSecret(e.Secret)}
			if l.asymmetric {
				keys["v1a"] = e.PublicKeys(time.Now())[0].JWK()
			}
			url := l.start(t, keys)
			for path := range maps.Keys(keys) {
				same := relay(t, url+"/"+path, func(_ http.Header, body []byte) []byte { return body })
				accepts(t, "passed on as it is, "+path, signingClient(t, same, NewSigner(e)), time.Now(), true)
				for what, change := range changes {
					accepts(t, what+", "+path, signingClient(t, relay(t, url+"/"+path, change), NewSigner(e)), time.Now(), false)
				}
			}
		})
	}
}

// TestG3: each attempt of a delivery has the same id, and a timestamp and a signature
// of its own.
func TestG3_EachAttemptIsSignedAnew(t *testing.T) {
	url, requests := recording(t)
	c := testClient(t, url)
	reference, err := standardwebhooks.NewWebhook(webhooks.FormatSecret(testSecret))
	if err != nil {
		t.Fatal(err)
	}
	m := testMessage(t, c, 10, 1000)
	now := time.Now()
	ids, timestamps, signatures := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for n := range 3 {
		a := testAttempt(n + 1)
		a.Now = now.Add(time.Duration(n) * time.Second)
		expect(t, c.Send(t.Context(), m, a), Acked, 200, "")
		r := <-requests
		if err := reference.Verify(r.body, r.header); err != nil {
			t.Errorf("attempt %d: %v", n+1, err)
		}
		ids[r.header.Get("Webhook-Id")] = true
		timestamps[r.header.Get("Webhook-Timestamp")] = true
		signatures[r.header.Get("Webhook-Signature")] = true
	}
	if len(ids) != 1 || len(timestamps) != 3 || len(signatures) != 3 {
		t.Errorf("3 attempts have %d ids, %d timestamps, %d signatures; want 1, 3, 3", len(ids), len(timestamps), len(signatures))
	}
}

// TestG5: keys are exchanged while a client delivers. In the overlap either secret
// verifies, after it the new one alone; nobody has to be told that it is over.
func TestG5_RotationWithOverlap(t *testing.T) {
	for _, l := range languages {
		t.Run(l.name, func(t *testing.T) {
			before, after := keyedBy("a", "v1", "v1a"), keyedBy("b", "v1", "v1a")
			keys := map[string]any{"old": webhooks.FormatSecret(before.Secret), "new": webhooks.FormatSecret(after.Secret)}
			if l.asymmetric {
				keys["old-v1a"] = before.PublicKeys(time.Now())[0].JWK()
				keys["new-v1a"] = after.PublicKeys(time.Now())[0].JWK()
			}
			url := l.start(t, keys)
			now := time.Now()
			until := now.Add(time.Minute) // within what libraries tolerate of a timestamp
			s := NewSigner(before)
			clients := map[string]*Client{}
			for path := range maps.Keys(keys) {
				clients[path] = signingClient(t, url+"/"+path, s)
			}
			each := func(when string, at time.Time, old, new bool) {
				t.Helper()
				for path, c := range clients {
					want := new
					if strings.HasPrefix(path, "old") {
						want = old
					}
					accepts(t, path+", "+when, c, at, want)
				}
			}
			each("before", now, true, false)
			s.Set(rotated(before, after, until))
			each("right after the rotation", now, true, true)
			each("at the end of the overlap", until.Add(-time.Millisecond), true, true)
			each("after the overlap", until, false, true)
			s.Set(rotated(before, after, now))
			each("without an overlap", now, false, true)
		})
	}
}

// TestG5 in bytes: the newest signature is first, and one that is over is not there.
func TestG5_SignaturesArePartedBySpacesAndTheNewestIsFirst(t *testing.T) {
	at := time.Unix(1_790_000_000, 0)
	a, b, c := keyedBy("a", "v1", "v1a"), keyedBy("b", "v1", "v1a"), keyedBy("c", "v1", "v1a")
	e := rotated(rotated(a, b, at.Add(time.Hour)), c, at.Add(time.Minute))
	signed, body := []byte("dl_1.1790000000."), []byte("body")
	one := func(e webhooks.Entry, scheme string) string {
		e.Webhook.Signing.Schemes, e.Former = []string{scheme}, nil
		return string(NewSigner(e).keys.Load().append(nil, at, signed, body))
	}
	for name, test := range map[string]struct {
		schemes []string
		at      time.Time
		want    []string
	}{
		"all sign":           {[]string{"v1"}, at, []string{one(c, "v1"), one(b, "v1"), one(a, "v1")}},
		"one has ended":      {[]string{"v1"}, at.Add(time.Minute), []string{one(c, "v1"), one(a, "v1")}},
		"both have ended":    {[]string{"v1"}, at.Add(time.Hour), []string{one(c, "v1")}},
		"both schemes":       {[]string{"v1a", "v1"}, at.Add(time.Minute), []string{one(c, "v1"), one(c, "v1a"), one(a, "v1"), one(a, "v1a")}},
		"v1a, both have end": {[]string{"v1a"}, at.Add(time.Hour), []string{one(c, "v1a")}},
	} {
		e.Webhook.Signing.Schemes = test.schemes
		got := string(NewSigner(e).keys.Load().append([]byte("x"), test.at, signed, body))
		if want := "x" + strings.Join(test.want, " "); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	older := keyedBy("a", "v1a")
	older.Private = nil // from before v1a was asked for
	e = rotated(older, keyedBy("b", "v1a"), at.Add(time.Hour))
	if got, want := string(NewSigner(e).keys.Load().append(nil, at, signed, body)), one(b, "v1a"); got != want {
		t.Errorf("with a former key without a pair: got %q, want %q", got, want)
	}
}

// TestG9: what is signed by v1a verifies with the public key that the webhook shows.
func TestG9_V1aVerifiesByThePublicKey(t *testing.T) {
	url, requests := recording(t)
	e := keyedBy("a", "v1a")
	c := signingClient(t, url, NewSigner(e))
	m := testMessage(t, c, 10, 1000)
	expect(t, c.Send(t.Context(), m, testAttempt(1)), Acked, 200, "")
	r := <-requests
	text, ok := strings.CutPrefix(r.header.Get("Webhook-Signature"), "v1a,")
	signature, err := base64.StdEncoding.DecodeString(text)
	public, _ := strings.CutPrefix(e.Shown(time.Now()).Signing.PublicKeys[0], "whpk_")
	key, keyErr := base64.StdEncoding.DecodeString(public)
	if !ok || err != nil || keyErr != nil {
		t.Fatalf("signature %q, key %q: %v, %v", r.header.Get("Webhook-Signature"), public, err, keyErr)
	}
	signed := []byte(r.header.Get("Webhook-Id") + "." + r.header.Get("Webhook-Timestamp") + "." + string(r.body))
	if !ed25519.Verify(key, signed, signature) {
		t.Error("the signature does not verify")
	}
	signed[len(signed)/2] ^= 1
	if ed25519.Verify(key, signed, signature) {
		t.Error("the signature verifies something else")
	}
}

// Signing by v1, which is how deliveries are signed unless somebody asks for more,
// allocates nothing.
func TestSigningByV1AllocatesNothing(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector drops what is pooled")
	}
	s := NewSigner(keyedBy("a", "v1")).keys.Load()
	signed, body, now := []byte("dl_1."+strconv.Itoa(1_790_000_000)+"."), make([]byte, 10_000), time.Now()
	dst := s.append(nil, now, signed, body)
	if n := testing.AllocsPerRun(100, func() { dst = s.append(dst[:0], now, signed, body) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
