package delivery

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/trace"

	"github.com/kpush/kpush/webhooks"
)

// header is one header of a request.
type header struct{ name, value string }

// fixedHeaders are the headers that all deliveries of a webhook share, in the
// order in which they are sent. The user may give another User-Agent, and nothing
// else of ours.
func fixedHeaders(w webhooks.Webhook, userAgent string) []header {
	var own bool
	var hs []header
	for name, value := range w.Request.Headers {
		own = own || strings.EqualFold(name, "user-agent")
		hs = append(hs, header{strings.ToLower(name), value})
	}
	if !own {
		hs = append(hs, header{"user-agent", userAgent})
	}
	return append(hs,
		header{"content-type", "application/json; charset=utf-8"},
		header{"kpush-webhook", w.ID},
		header{"kpush-group", w.GroupID},
		header{"kpush-ack-timeout-ms", strconv.Itoa(w.Ack.TimeoutMs)},
	)
}

// validHeader reports whether h can be sent as it is (RFC 9110, 5.5 and 5.6.2).
func validHeader(h header) bool {
	for _, c := range []byte(h.value) {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	for _, c := range []byte(h.name) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return h.name != ""
}

// requestStart is what all requests to a webhook begin with: the request line and
// the headers that never change.
func requestStart(target *url.URL, headers []header) []byte {
	b := append([]byte("POST "), target.RequestURI()...)
	b = append(append(b, " HTTP/1.1\r\nhost: "...), target.Host...)
	b = append(b, "\r\n"...)
	for _, h := range headers {
		b = appendField(b, h.name)
		b = append(append(b, h.value...), "\r\n"...)
	}
	return b
}

func appendField(b []byte, name string) []byte { return append(append(b, name...), ": "...) }

// request is the memory of one attempt, used again for the next.
type request struct {
	head   []byte // request line and headers, and a small body
	signed []byte // "id.timestamp."
	answer []byte // where the answer's body is read to
}

// lay writes the head of the request of one attempt: body is what is sent and signed.
func (r *request) lay(c *Client, m *Message, a Attempt, parent trace.SpanContext, body []byte) {
	b := append(r.head[:0], c.start...)
	text := func(name, value string) {
		b = append(append(appendField(b, name), value...), "\r\n"...)
	}
	number := func(name string, n int64) {
		b = append(strconv.AppendInt(appendField(b, name), n, 10), "\r\n"...)
	}
	text("webhook-id", m.id)
	number("webhook-timestamp", a.Now.Unix())
	text("kpush-topic", m.topic)
	number("kpush-partition", int64(m.partition))
	number("kpush-generation", int64(a.Generation))
	number("kpush-first-offset", m.first)
	number("kpush-last-offset", m.last)
	number("kpush-record-count", int64(m.count))
	number("kpush-attempt", int64(a.Number))
	text("kpush-ack-token", a.Token)
	b = append(appendTraceParent(appendField(b, "traceparent"), parent), "\r\n"...)
	if c.signers != nil {
		r.signed = append(append(r.signed[:0], m.id...), '.')
		r.signed = append(strconv.AppendInt(r.signed, a.Now.Unix(), 10), '.')
		b = append(c.signers.append(appendField(b, "webhook-signature"), r.signed, body), "\r\n"...)
	}
	number("content-length", int64(len(body)))
	r.head = append(b, "\r\n"...)
	if len(body) <= oneWrite {
		r.head = slices.Grow(r.head, len(body))
	}
}
