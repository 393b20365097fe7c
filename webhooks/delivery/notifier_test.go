package delivery

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/kpush/kpush/webhooks"
)

// testNotifier is the notifier of a complete webhook whose lifecycle URL is url.
func testNotifier(t *testing.T, url string, edits ...func(*webhooks.Webhook)) *Notifier {
	t.Helper()
	edits = append(edits, func(w *webhooks.Webhook) { w.Lifecycle = &webhooks.Lifecycle{URL: url} })
	n, err := NewNotifier(testConfig(testWebhook("http://records.example.com", edits...)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

func testNotice() Notice {
	return Notice{Type: PartitionsAssigned, Generation: 42, Partitions: []Partition{{"orders", 3}, {`a"b`, 0}}, Now: time.Now()}
}

func TestALifecycleCallIsSignedAndSaysWhatIsComing(t *testing.T) {
	url, requests := recording(t)
	n := testNotifier(t, url+"/lifecycle?x=y", func(w *webhooks.Webhook) {
		w.Request.Headers = map[string]string{"X-Env": "prod"}
	})
	now := time.Date(2026, 9, 22, 12, 0, 0, 123_456_789, time.FixedZone("", 7200))
	c := testNotice()
	c.Now = now
	expect(t, n.Notify(t.Context(), "lc_1", c), Acked, 200, "")
	r := <-requests

	const body = `{"type":"kafka.partitions.assigned","timestamp":"2026-09-22T10:00:00.123Z",` +
		`"webhook_id":"orders-to-billing","group_id":"kpush.default.orders-to-billing","generation":42,` +
		`"partitions":[{"topic":"orders","partition":3},{"topic":"a\"b","partition":0}]}`
	if string(r.body) != body {
		t.Errorf("got body\n%s, want\n%s", r.body, body)
	}
	got := map[string]string{}
	for name, values := range r.header {
		got[name] = strings.Join(values, " AND ")
	}
	if s := got["Traceparent"]; !regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-00$`).MatchString(s) {
		t.Errorf("traceparent is %q", s)
	}
	if s := got["Webhook-Signature"]; !strings.HasPrefix(s, "v1,") {
		t.Errorf("the signature is %q", s)
	}
	delete(got, "Traceparent")
	delete(got, "Webhook-Signature")
	want := map[string]string{
		"Content-Type":      "application/json; charset=utf-8",
		"Accept-Encoding":   "identity",
		"Content-Length":    fmt.Sprint(len(body)),
		"User-Agent":        "kpush/test",
		"Webhook-Id":        "lc_1",
		"Webhook-Timestamp": fmt.Sprint(now.Unix()),
		"Kpush-Webhook":     "orders-to-billing",
		"Kpush-Group":       "kpush.default.orders-to-billing",
		"Kpush-Loop":        "marker",
		"Kpush-Generation":  "42",
		"X-Env":             "prod",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("other headers (-want +got):\n%s", diff)
	}
}

func TestALifecycleCallVerifiesByTheReferenceLibrary(t *testing.T) {
	url, requests := recording(t)
	reference, err := standardwebhooks.NewWebhook("whsec_" + base64.StdEncoding.EncodeToString(testSecret))
	if err != nil {
		t.Fatal(err)
	}
	n := testNotifier(t, url)
	for range 2 { // the second over the connection of the first
		expect(t, n.Notify(t.Context(), "lc_1", testNotice()), Acked, 200, "")
		r := <-requests
		if err := reference.Verify(r.body, r.header); err != nil {
			t.Error(err)
		}
		r.body[len(r.body)/2] ^= 1
		if reference.Verify(r.body, r.header) == nil {
			t.Error("a call verifies with one bit of its body changed")
		}
	}
	expect(t, testNotifier(t, url, func(w *webhooks.Webhook) { w.Signing.Enabled = false }).
		Notify(t.Context(), "lc_1", testNotice()), Acked, 200, "")
	if s, ok := (<-requests).header["Webhook-Signature"]; ok {
		t.Errorf("without signing there is the signature %q", s)
	}
}

// A lifecycle call has no ack to wait for, so a 2xx is a yes whatever it holds.
func TestWhatAnAnswerToALifecycleCallMeans(t *testing.T) {
	for _, test := range []struct {
		answer  string
		verdict Verdict
		status  int
		code    string
	}{
		{"200 OK\r\nContent-Length: 0\r\n\r\n", Acked, 200, ""},
		{"202 Accepted\r\nContent-Length: 0\r\n\r\n", Acked, 202, ""},
		{"204 No Content\r\n\r\n", Acked, 204, ""},
		{"200 OK\r\nContent-Type: application/json\r\nContent-Length: 25\r\n\r\n{\"ack\":{\"outcome\":\"nack\"}}", Acked, 200, ""},
		{"200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{\"ack\":1}", Acked, 200, ""},
		{"200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat(" ", 100_000), Acked, 200, ""},
		{"302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", Failed, 302, CodeRedirect},
		{"410 Gone\r\nContent-Length: 0\r\n\r\n", Gone, 410, "http_410"},
		{"413 Too Large\r\nContent-Length: 0\r\n\r\n", TooLarge, 413, "http_413"},
		{"503 Busy\r\nContent-Length: 0\r\n\r\n", Failed, 503, "http_503"},
	} {
		n := testNotifier(t, answering(t, "HTTP/1.1 "+test.answer), func(w *webhooks.Webhook) { w.Ack.Mode = webhooks.AckExplicit })
		expect(t, n.Notify(t.Context(), "lc_1", testNotice()), test.verdict, test.status, test.code)
	}
	short := afterRequest(t, once(okHead+"Content-Length: 10\r\n\r\nshort"))
	expect(t, testNotifier(t, short).Notify(t.Context(), "lc_1", testNotice()), Failed, 200, CodeTruncated)
}

func TestALifecycleCallHasTheRequestsDeadline(t *testing.T) {
	const limit = 200 * time.Millisecond
	n := testNotifier(t, afterRequest(t, hang), timeout(limit))
	res := n.Notify(t.Context(), "lc_1", testNotice())
	expect(t, res, Failed, 0, CodeTimeout)
	if res.Took < limit || res.Took > limit+5*time.Second {
		t.Errorf("the call took %v, want little more than %v", res.Took, limit)
	}
}

func TestALifecycleCallEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := testNotifier(t, afterRequest(t, func(conn net.Conn) { cancel(); hang(conn) }))
	expect(t, n.Notify(ctx, "lc_1", testNotice()), Failed, 0, CodeCanceled)
}

func TestNewNotifierRefusesWhatCannotBeSent(t *testing.T) {
	for claim, edit := range map[string]func(*webhooks.Webhook){
		"no lifecycle":              func(w *webhooks.Webhook) { w.Lifecycle = nil },
		"no url":                    func(w *webhooks.Webhook) { w.Lifecycle.URL = "" },
		"a url that does not parse": func(w *webhooks.Webhook) { w.Lifecycle.URL = "http://s3cret:\x00@x/" },
		"another scheme":            func(w *webhooks.Webhook) { w.Lifecycle.URL = "ftp://example.com/s3cret" },
		"a line break in a header":  func(w *webhooks.Webhook) { w.Request.Headers = map[string]string{"x-a": "s3cret\r\nx-b: c"} },
	} {
		w := testWebhook("http://localhost")
		w.Lifecycle = &webhooks.Lifecycle{URL: "http://localhost"}
		edit(&w)
		if _, err := NewNotifier(testConfig(w)); err == nil {
			t.Errorf("%s is accepted", claim)
		} else if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error repeats what may be secret: %v", claim, err)
		}
	}
}
