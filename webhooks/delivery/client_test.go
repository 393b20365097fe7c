package delivery

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kpush/kpush/webhooks"
)

// recording is a receiver that acks and hands over each request.
func recording(t testing.TB) (url string, requests <-chan received) {
	seen := make(chan received, 100)
	return listen(t, func(conn net.Conn, _ int) {
		for in := bufio.NewReader(conn); ; io.WriteString(conn, okHead+"Content-Length: 0\r\n\r\n") {
			r, err := readRequest(in)
			if err != nil {
				return
			}
			seen <- r
		}
	}), seen
}

func TestRequestHeaders(t *testing.T) {
	url, requests := recording(t)
	c := testClient(t, url, func(w *webhooks.Webhook) {
		w.Ack.TimeoutMs = 12_345
		w.Request.Headers = map[string]string{"X-Env": "prod", "authorization": "Bearer xyz"}
	})
	b := batchOf(50, 10, false)
	m := c.Encode("dl_3kq9x7w2m5", "orders", 3, b, 10, 50)
	defer m.Free()
	now := time.Now()
	for n, token := range []string{"kat_first", "kat_second"} {
		a := Attempt{Number: n + 1, Generation: int32(42 + n), Token: token, Now: now.Add(time.Duration(n) * time.Minute)}
		expect(t, c.Send(t.Context(), m, a), Acked, 200, "")
		r := <-requests
		want := map[string]string{
			"Content-Type":         "application/json; charset=utf-8",
			"Content-Length":       fmt.Sprint(len(r.body)),
			"Accept-Encoding":      "identity",
			"User-Agent":           "kpush/test",
			"Webhook-Id":           "dl_3kq9x7w2m5",
			"Webhook-Timestamp":    fmt.Sprint(a.Now.Unix()),
			"Kpush-Webhook":        "orders-to-billing",
			"Kpush-Group":          "kpush.default.orders-to-billing",
			"Kpush-Topic":          "orders",
			"Kpush-Partition":      "3",
			"Kpush-Generation":     fmt.Sprint(42 + n),
			"Kpush-First-Offset":   "1000010",
			"Kpush-Last-Offset":    "1000049",
			"Kpush-Record-Count":   "40",
			"Kpush-Attempt":        fmt.Sprint(n + 1),
			"Kpush-Ack-Token":      token,
			"Kpush-Ack-Timeout-Ms": "12345",
			"Kpush-Loop":           "marker",
			"X-Env":                "prod",
			"Authorization":        "Bearer xyz",
		}
		got := map[string]string{}
		for name, values := range r.header {
			got[name] = strings.Join(values, " AND ")
		}
		if s := got["Webhook-Signature"]; !strings.HasPrefix(s, "v1,") {
			t.Errorf("the signature is %q", s)
		}
		if s := got["Traceparent"]; !regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-00$`).MatchString(s) {
			t.Errorf("traceparent is %q", s)
		}
		delete(got, "Webhook-Signature")
		delete(got, "Traceparent")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("attempt %d has other headers (-want +got):\n%s", n+1, diff)
		}
		e := decodeEnvelope(t, r.body)
		if e.Attempt != n+1 || e.Ack.Token != token || e.DeliveryID != "dl_3kq9x7w2m5" {
			t.Errorf("attempt %d says in its body: attempt %d, token %q, delivery %q", n+1, e.Attempt, e.Ack.Token, e.DeliveryID)
		}
		checkRecords(t, c.format(), e.Records, b, 10)
	}
}

func TestTheUserAgentCanBeTheUsers(t *testing.T) {
	url, requests := recording(t)
	c := testClient(t, url, func(w *webhooks.Webhook) { w.Request.Headers = map[string]string{"user-agent": "mine"} })
	expect(t, deliver(t, c), Acked, 200, "")
	if got := (<-requests).header["User-Agent"]; len(got) != 1 || got[0] != "mine" {
		t.Errorf("user-agent is %q, want the user's", got)
	}
}

func TestUnsignedDeliveriesKeepIDAndTimestamp(t *testing.T) {
	url, requests := recording(t)
	c := testClient(t, url, func(w *webhooks.Webhook) { w.Signing.Enabled = false })
	expect(t, deliver(t, c), Acked, 200, "")
	h := (<-requests).header
	if _, ok := h["Webhook-Signature"]; ok || h.Get("Webhook-Id") == "" || h.Get("Webhook-Timestamp") == "" {
		t.Errorf("the headers are %v, want id and timestamp and no signature", h)
	}
}

func TestNewClientRefusesWhatCannotBeSent(t *testing.T) {
	for claim, edit := range map[string]func(*webhooks.Webhook){
		"no url":                      func(w *webhooks.Webhook) { w.URL = "" },
		"a url that does not parse":   func(w *webhooks.Webhook) { w.URL = "http://s3cret:\x00@x/" },
		"another scheme":              func(w *webhooks.Webhook) { w.URL = "ftp://example.com/s3cret" },
		"no host":                     func(w *webhooks.Webhook) { w.URL = "https:///s3cret" },
		"a port and no host":          func(w *webhooks.Webhook) { w.URL = "https://:443/s3cret" },
		"a line break in a header":    func(w *webhooks.Webhook) { w.Request.Headers = map[string]string{"x-a": "s3cret\r\nx-b: c"} },
		"a header name with a space":  func(w *webhooks.Webhook) { w.Request.Headers = map[string]string{"x a": "s3cret"} },
		"an empty header name":        func(w *webhooks.Webhook) { w.Request.Headers = map[string]string{"": "s3cret"} },
		"a line break in the group's": func(w *webhooks.Webhook) { w.GroupID = "a\nb" },
	} {
		_, err := NewClient(testConfig(testWebhook("http://localhost", edit)))
		if err == nil {
			t.Errorf("%s is accepted", claim)
		} else if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error repeats what may be secret: %v", claim, err)
		}
	}
}

func TestDeliveriesShareConnections(t *testing.T) {
	for _, test := range []struct{ rounds, senders int }{{1000, 1}, {100, 8}} {
		t.Run(fmt.Sprintf("%d at a time", test.senders), func(t *testing.T) {
			var conns atomic.Int32
			arrive := barrier(test.senders)
			url := listen(t, func(conn net.Conn, _ int) {
				conns.Add(1)
				for in := bufio.NewReader(conn); ; io.WriteString(conn, okHead+"Content-Type: application/json\r\nContent-Length: 11\r\n\r\n{\"ok\":true}") {
					if _, err := readRequest(in); err != nil {
						return
					}
					arrive()
				}
			})
			c := testClient(t, url)
			for range test.rounds {
				var round sync.WaitGroup
				for range test.senders {
					round.Go(func() {
						m := c.Encode("dl_1", "orders", 3, recordsOf([]byte("1")), 0, 1)
						expect(t, c.Send(t.Context(), m, testAttempt(1)), Acked, 200, "")
						m.Free()
					})
				}
				round.Wait()
			}
			// net/http gives a connection up when its own writer was not scheduled for
			// 50 ms after the answer, which a crowded machine brings about now and then.
			total := test.senders * test.rounds
			if n, most := int(conns.Load()), test.senders+total/50; n > most {
				t.Errorf("%d deliveries opened %d connections, want at most %d", total, n, most)
			}
		})
	}
}

// barrier returns a function that returns when n goroutines have called it, again and again.
func barrier(n int) func() {
	var mu sync.Mutex
	waiting, open := 0, make(chan struct{})
	return func() {
		mu.Lock()
		mine := open
		if waiting++; waiting == n {
			waiting, open = 0, make(chan struct{})
			close(mine)
		}
		mu.Unlock()
		<-mine
	}
}
