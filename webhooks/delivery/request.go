package delivery

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// header is one header of a request.
type header struct{ name, value string }

// LoopHeader is the name under which Config.LoopMarker goes out.
const LoopHeader = "kpush-loop"

// fixedHeaders are the headers that all requests of a webhook share, in the order
// in which they are sent. The user may give another User-Agent, and nothing
// else of ours. An empty content type is left out.
func fixedHeaders(cfg Config, contentType string) []header {
	w := cfg.Webhook
	var own bool
	hs := staticAuth(w.Auth)
	for _, h := range hs {
		own = own || h.name == "user-agent"
	}
	for name, value := range w.Request.Headers {
		own = own || strings.EqualFold(name, "user-agent")
		hs = append(hs, header{strings.ToLower(name), value})
	}
	if !own {
		hs = append(hs, header{"user-agent", cfg.UserAgent})
	}
	if cfg.LoopMarker != "" {
		hs = append(hs, header{LoopHeader, cfg.LoopMarker})
	}
	if contentType != "" {
		hs = append(hs, header{"content-type", contentType})
	}
	return append(hs,
		header{"accept-encoding", "identity"}, // an ack in a packed answer would not be seen
		header{"kpush-webhook", w.ID},
		header{"kpush-group", w.GroupID},
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

// requestStart is what all requests to a URL begin with: the request line and the
// headers that never change.
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

	authorized int // length of the line that authorize has put in
}

// lay writes the head of one attempt of a delivery: body is what is sent and signed.
func (r *request) lay(e *endpoint, m *Message, a Attempt, parent trace.SpanContext, body []byte) {
	r.begin(e, m.id, a.Now)
	if a.Sample {
		r.text(SampleHeader, "true")
	}
	r.text("kpush-topic", m.topic)
	r.number("kpush-partition", int64(m.partition))
	r.number("kpush-generation", int64(a.Generation))
	r.number("kpush-first-offset", m.first)
	r.number("kpush-last-offset", m.last)
	r.number("kpush-record-count", int64(m.count))
	r.number("kpush-attempt", int64(a.Number))
	r.text("kpush-ack-token", a.Token)
	r.head = append(r.head, m.fields...)
	r.end(e, m.id, a.Now, parent, body)
}

// begin begins a head with what all requests have; the same id and time go to end.
func (r *request) begin(e *endpoint, id string, now time.Time) {
	r.head = append(r.head[:0], e.start...)
	r.text("webhook-id", id)
	r.number("webhook-timestamp", now.Unix())
}

func (r *request) text(name, value string) {
	r.head = append(append(appendField(r.head, name), value...), "\r\n"...)
}

func (r *request) number(name string, n int64) {
	r.head = append(strconv.AppendInt(appendField(r.head, name), n, 10), "\r\n"...)
}

// end ends a head, with the signatures of body, which is what is sent.
func (r *request) end(e *endpoint, id string, now time.Time, parent trace.SpanContext, body []byte) {
	b := append(appendTraceParent(appendField(r.head, "traceparent"), parent), "\r\n"...)
	if s := e.signer.keys.Load(); s != nil {
		r.signed = append(append(r.signed[:0], id...), '.')
		r.signed = append(strconv.AppendInt(r.signed, now.Unix(), 10), '.')
		b = append(s.append(appendField(b, "webhook-signature"), now, r.signed, body), "\r\n"...)
	}
	b = strconv.AppendInt(appendField(b, "content-length"), int64(len(body)), 10)
	r.head = append(b, "\r\n\r\n"...)
	if len(body) <= oneWrite {
		r.head = slices.Grow(r.head, len(body))
	}
}
