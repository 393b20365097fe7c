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
