package server

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kpush/kpush/server/api"
	"github.com/kpush/kpush/webhooks"
)

const (
	rotatePath = "/v1/webhooks/a/secret/rotate"
	ownSecret  = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	signedBoth = `{"url": "https://billing.example.com/hooks/orders", "topics": ["orders"], "signing": {"schemes": ["v1", "v1a"]}}`
)

func TestRotateSecret(t *testing.T) {
	for name, test := range map[string]struct {
		body    string
		overlap time.Duration
		secret  string // empty: one that is made
	}{
		"without a body":      {"", 24 * time.Hour, ""},
		"with an empty one":   {"{}", 24 * time.Hour, ""},
		"with an overlap":     {`{"overlap_ms": 60000}`, time.Minute, ""},
		"without an overlap":  {`{"overlap_ms": 0}`, 0, ""},
		"with one's own":      {`{"secret": "` + ownSecret + `"}`, 24 * time.Hour, ownSecret},
		"the longest overlap": {`{"overlap_ms": 2592000000}`, webhooks.MaxOverlap, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, g := newServer(t)
			created := into[api.CreatedWebhook](t, exchange{method: "PUT", path: "/v1/webhooks/a", body: signedBoth}.do(t, s), 201)
			response := exchange{method: "POST", path: rotatePath, body: test.body}.do(t, s)
			etag := response.Header.Get("ETag")
			got := into[api.RotatedSecret](t, response, http.StatusOK)
			asked := g.rotations[0]
			if got.Secret != webhooks.FormatSecret(asked.Secret) || test.secret != "" && got.Secret != test.secret || got.Secret == created.Secret {
				t.Errorf("secret %q, the gateway was given %x", got.Secret, asked.Secret)
			}
			if asked.Overlap != test.overlap || (got.OverlapEndsAt == nil) != (test.overlap == 0) {
				t.Errorf("overlap of %v to %v, want %v", asked.Overlap, got.OverlapEndsAt, test.overlap)
			}
			want := created.Signing.PublicKeys
			if test.overlap == 0 {
				want = nil
			}
			if keys := got.PublicKeys; len(keys) != len(want)+1 || !cmp.Equal(keys[1:], append([]string{}, want...)) {
				t.Errorf("public keys %q, want a new one and %q", keys, want)
			}
			if etag != `"2"` {
				t.Errorf("ETag %s, want that of the new revision", etag)
			}
			read := into[api.Webhook](t, exchange{method: "GET", path: "/v1/webhooks/a"}.do(t, s), 200)
			if diff := cmp.Diff(got.PublicKeys, read.Signing.PublicKeys); diff != "" {
				t.Errorf("GET shows other keys (-rotated +got):\n%s", diff)
			}
		})
	}
}

func TestRotationsWithoutASecretMakeOthers(t *testing.T) {
	s, _ := newServer(t)
	exchange{method: "PUT", path: "/v1/webhooks/a", body: orders}.do(t, s)
	rotate := func() string {
		return into[api.RotatedSecret](t, exchange{method: "POST", path: rotatePath}.do(t, s), 200).Secret
	}
	if a, b := rotate(), rotate(); a == b {
		t.Errorf("twice %s", a)
	}
}

// TestG6: what is no secret is refused, by its pointer, and not repeated.
func TestG6_BadRotations(t *testing.T) {
	for name, test := range map[string]struct{ body, pointer string }{
		"23 bytes":               {`{"secret": "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmU="}`, "/secret"},
		"65 bytes":               {`{"secret": "` + webhooks.FormatSecret(make([]byte, 65)) + `"}`, "/secret"},
		"no prefix":              {`{"secret": "C2FVsBQIhrscChlQIMV+b5sSYspob7oD"}`, "/secret"},
		"no base64":              {`{"secret": "whsec_s3cret-s3cret-s3cret-s3cret-s3cret"}`, "/secret"},
		"a number for a secret":  {`{"secret": 1}`, "/secret"},
		"an empty secret":        {`{"secret": ""}`, "/secret"},
		"a negative overlap":     {`{"overlap_ms": -1}`, "/overlap_ms"},
		"more than 30 days":      {`{"overlap_ms": 2592000001}`, "/overlap_ms"},
		"a fraction":             {`{"overlap_ms": 1.5}`, "/overlap_ms"},
		"a field that is not":    {`{"overlap": 1}`, "/overlap"},
		"a secret given twice":   {`{"secret": "` + ownSecret + `", "secret": "` + ownSecret + `"}`, "/secret"},
		"text for a number":      {`{"overlap_ms": "1"}`, "/overlap_ms"},
		"a secret at a creation": {"", "/secret"},
	} {
		t.Run(name, func(t *testing.T) {
			s, g := newServer(t)
			exchange{method: "PUT", path: "/v1/webhooks/a", body: orders}.do(t, s)
			x := exchange{method: "POST", path: rotatePath, body: test.body}
			if x.body == "" {
				x = exchange{method: "PUT", path: "/v1/webhooks/b", body: strings.Replace(orders, "{", `{"secret": "`+ownSecret+`", `, 1)}
			}
			response := x.do(t, s)
			data, err := io.ReadAll(response.Body)
			if err != nil || strings.Contains(string(data), "s3cret") || strings.Contains(string(data), ownSecret) {
				t.Errorf("%v, the answer repeats the secret: %s", err, data)
			}
			response.Body = io.NopCloser(strings.NewReader(string(data)))
			p := wantProblem(t, response, 422, api.ErrorCodeValidationFailed)
			if p.Errors == nil || len(*p.Errors) != 1 || (*p.Errors)[0].Pointer != test.pointer {
				t.Errorf("the answer tells of %v, want %s", p.Errors, test.pointer)
			}
			if len(g.rotations) > 0 {
				t.Error("the gateway was asked to rotate")
			}
		})
	}
}

func TestRotationsThatAreRefused(t *testing.T) {
	s, g := newServer(t)
	wantProblem(t, exchange{method: "POST", path: rotatePath}.do(t, s), 404, api.ErrorCodeNotFound)
	wantProblem(t, exchange{method: "POST", path: rotatePath, anonymous: true}.do(t, s), 401, api.ErrorCodeUnauthorized)
	wantProblem(t, exchange{method: "POST", path: rotatePath, body: "[]"}.do(t, s), 400, api.ErrorCodeMalformed)
	exchange{method: "PUT", path: "/v1/webhooks/a", body: orders}.do(t, s)
	wantProblem(t, exchange{method: "POST", path: rotatePath, body: "{}", header: map[string]string{"Content-Type": "text/plain"}}.do(t, s),
		415, api.ErrorCodeUnsupportedMediaType)
	g.err = webhooks.ErrUnavailable
	wantProblem(t, exchange{method: "POST", path: rotatePath}.do(t, s), 503, api.ErrorCodeUnavailable)
}

// TestG9: the public keys are at a known place, for anybody, and tell nothing else.
func TestG9_PublicKeysAreServed(t *testing.T) {
	s, g := newServer(t)
	get := func(header map[string]string) *http.Response {
		t.Helper()
		s.keySet.until = time.Time{}
		return exchange{method: "GET", path: "/.well-known/jwks.json", header: header, anonymous: true}.do(t, s)
	}
	if empty := into[api.JWKS](t, get(nil), 200); empty.Keys == nil || len(empty.Keys) != 0 {
		t.Errorf("without webhooks: %v, want []", empty.Keys)
	}
	exchange{method: "PUT", path: "/v1/webhooks/a", body: signedBoth}.do(t, s)
	exchange{method: "PUT", path: "/v1/webhooks/unasked", body: orders}.do(t, s)
	before := get(nil)
	first := into[api.JWKS](t, before, 200)
	if want := g.entries["a"].Private; len(first.Keys) != 1 || first.Keys[0] != webhooks.PublicKey(want[32:]).JWK() {
		t.Errorf("keys %v, want the one of a", first.Keys)
	}
	if got := before.Header.Get("Content-Type"); got != "application/jwk-set+json" {
		t.Errorf("content type %q", got)
	}
	if got := before.Header.Get("Cache-Control"); got != "public, max-age=300" {
		t.Errorf("cache-control %q", got)
	}
	tag := before.Header.Get("ETag")
	for _, match := range []string{tag, "W/" + tag, `"other", ` + tag, "*"} {
		same := get(map[string]string{"If-None-Match": match})
		if body, err := io.ReadAll(same.Body); err != nil || same.StatusCode != 304 || len(body) > 0 || same.Header.Get("ETag") != tag {
			t.Errorf("If-None-Match %s: %d %q, ETag %s, want 304 with the same", match, same.StatusCode, body, same.Header.Get("ETag"))
		}
	}
	exchange{method: "POST", path: rotatePath}.do(t, s)
	after := get(map[string]string{"If-None-Match": tag})
	if second := into[api.JWKS](t, after, 200); len(second.Keys) != 2 || after.Header.Get("ETag") == tag {
		t.Errorf("in an overlap: keys %v, ETag %s, want two under another", second.Keys, after.Header.Get("ETag"))
	}
	g.err = webhooks.ErrUnavailable
	wantProblem(t, get(nil), 503, api.ErrorCodeUnavailable)
}

// TestPublicKeysCostLittle: anybody may ask for them, as often as he likes.
func TestPublicKeysCostLittle(t *testing.T) {
	s, g := newServer(t)
	exchange{method: "PUT", path: "/v1/webhooks/a", body: signedBoth}.do(t, s)
	began := time.Now()
	for range 100 {
		answer := exchange{method: "GET", path: "/.well-known/jwks.json", anonymous: true}.do(t, s)
		if set := into[api.JWKS](t, answer, 200); len(set.Keys) != 1 {
			t.Fatalf("%v, want one key", set.Keys)
		}
	}
	if most := 1 + int(time.Since(began)/time.Second); g.keyReads > most {
		t.Errorf("the keys were read %d times for 100 requests, want %d at most", g.keyReads, most)
	}
	s.keySet.until = time.Now().Add(-time.Nanosecond)
	g.err = webhooks.ErrUnavailable
	for range 2 {
		wantProblem(t, exchange{method: "GET", path: "/.well-known/jwks.json", anonymous: true}.do(t, s), 503, api.ErrorCodeUnavailable)
	}
	g.err = nil
	into[api.JWKS](t, exchange{method: "GET", path: "/.well-known/jwks.json", anonymous: true}.do(t, s), 200)
}
