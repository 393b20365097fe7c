package webhooks

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// checkHeadersRefused registers a webhook with one header and wants it refused.
func checkHeadersRefused(t *testing.T, headers map[string]string) {
	t.Helper()
	for name, value := range headers {
		w := valid()
		w.Request.Headers = map[string]string{name: value}
		want := []string{"/request/headers/" + pointerEscapes.Replace(name)}
		if diff := cmp.Diff(want, pointers(t, w.Validate())); diff != "" {
			t.Errorf("%q: complaints (-want +got):\n%s", name, diff)
		}
	}
}

func TestH1_HeadersThatCannotBeSent(t *testing.T) {
	for _, value := range []string{"a\rb", "a\nb", "a\r\nHost: b", "a\x00b", "\n", "a\r\n b"} {
		checkHeadersRefused(t, map[string]string{"x-a": value})
	}
	for _, name := range []string{"x a", "x:a", "x\ta", "x\r\na", "x\x00", "xä", "x(a)", "x,a", "x/a", "x\"", "", " x", "x "} {
		checkHeadersRefused(t, map[string]string{name: "v"})
	}
}

func TestH2_ReservedHeaders(t *testing.T) {
	for _, name := range []string{
		"Host", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "TE", "Trailer", "Connection", "Keep-Alive", "Upgrade", "Expect",
		"Proxy-Authorization", "Proxy-Connection", "proxy-anything", "webhook-id", "Webhook-Signature", "ce-id", "CE-Type", "traceparent", "Kpush-Ack-Token", "kpush-loop",
	} {
		checkHeadersRefused(t, map[string]string{name: "close"})
	}
}

func TestH4_TooManyHeaders(t *testing.T) {
	many := map[string]string{}
	for n := range 33 {
		many[fmt.Sprintf("x-%d", n)] = "v"
	}
	for claim, headers := range map[string]map[string]string{
		"33 of them": many, "8 KiB and a byte": {"x": strings.Repeat("v", 8<<10)},
	} {
		w := valid()
		w.Request.Headers = headers
		if diff := cmp.Diff([]string{"/request/headers"}, pointers(t, w.Validate())); diff != "" {
			t.Errorf("%s: complaints (-want +got):\n%s", claim, diff)
		}
	}
}

func TestH5_CredentialsAreNotReadBack(t *testing.T) {
	w := valid()
	w.Request.Headers = map[string]string{
		"Authorization": "Bearer s3cret", "cookie": "s3cret", "X-Api-Key": "s3cret", "x-apikey": "s3cret", "X-Auth-Token": "s3cret", "x-hub-signature": "s3cret",
		"x-client-secret": "s3cret", "x-env": "prod", "x-monkey": "seen",
	}
	before := w.Clone()
	for name, value := range w.Masked().Request.Headers {
		want := Mask
		if name == "x-env" || name == "x-monkey" {
			want = w.Request.Headers[name]
		}
		if value != want {
			t.Errorf("%s is shown as %q, want %q", name, value, want)
		}
	}
	if diff := cmp.Diff(before, w); diff != "" {
		t.Errorf("masking changed the webhook itself (-was +is):\n%s", diff)
	}
}

// TestMasksInReplacements: what was answered may be sent back, and gives nobody a
// credential that he does not know.
func TestMasksInReplacements(t *testing.T) {
	masked := func(edits ...func(*Webhook)) Webhook {
		w := hook("a")
		w.URL = "https://billing.example.com/hook"
		w.Request.Headers = map[string]string{"Authorization": Mask, "x-env": Mask}
		for _, edit := range edits {
			edit(&w)
		}
		return w
	}
	for _, test := range []struct {
		claim string
		put   Webhook
		want  []string // complaints
		value string   // of Authorization afterwards
	}{
		{"sent back as it was", masked(), nil, "Bearer s3cret"},
		{"sent back beside a change", masked(func(w *Webhook) { w.MaxInFlight = 7 }), nil, "Bearer s3cret"},
		{"to another path", masked(func(w *Webhook) { w.URL = "https://BILLING.example.com/other" }), nil, "Bearer s3cret"},
		{"given anew", masked(func(w *Webhook) { w.Request.Headers["Authorization"] = "Bearer new" }), nil, "Bearer new"},
		{"to another host", masked(func(w *Webhook) { w.URL = "https://evil.example/" }), []string{"/request/headers/Authorization"}, "Bearer s3cret"},
		{"to another port", masked(func(w *Webhook) { w.URL = "https://billing.example.com:8443/" }), []string{"/request/headers/Authorization"}, "Bearer s3cret"},
		{"without TLS", masked(func(w *Webhook) { w.URL = "http://billing.example.com/" }), []string{"/request/headers/Authorization"}, "Bearer s3cret"},
		{"by lifecycle calls", masked(func(w *Webhook) { w.Lifecycle = &Lifecycle{URL: "https://evil.example/"} }), []string{"/request/headers/Authorization"}, "Bearer s3cret"},
		{"for one that there is not", masked(func(w *Webhook) { w.Request.Headers["cookie"] = Mask }), []string{"/request/headers/cookie"}, "Bearer s3cret"},
		{"to another host, given anew", masked(func(w *Webhook) {
			w.URL, w.Request.Headers["Authorization"] = "https://new.example/", "Bearer new"
		}), nil, "Bearer new"},
	} {
		t.Run(test.claim, func(t *testing.T) {
			r := start(t, newMemory().open(), nil)
			w := masked(func(w *Webhook) {
				w.Request.Headers = map[string]string{"authorization": "Bearer s3cret", "x-env": Mask}
			})
			create(t, r, w)
			_, _, err := r.Replace(t.Context(), test.put, nil)
			if diff := cmp.Diff(test.want, pointers(t, err)); diff != "" {
				t.Errorf("complaints (-want +got):\n%s", diff)
			}
			headers := get(t, r, "a").Webhook.Request.Headers
			got := headers["authorization"]
			if got == "" {
				got = headers["Authorization"]
			}
			if got != test.value {
				t.Errorf("authorization is %q, want %q", got, test.value)
			}
		})
	}
	r := start(t, newMemory().open(), nil)
	if _, err := r.Create(t.Context(), masked(), nil); pointers(t, err) == nil {
		t.Error("a mask is taken for a value when a webhook is created")
	}
}
