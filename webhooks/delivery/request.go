package delivery

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"

	"github.com/kpush/kpush/webhooks"
)

// header is one header of a request.
type header struct{ name, value string }

// fixedHeaders are the headers that all deliveries of a webhook share. Of two
// with one name the later counts: the user may give another User-Agent, and
// nothing else of ours.
func fixedHeaders(w webhooks.Webhook, userAgent string) []header {
	hs := []header{{"User-Agent", userAgent}}
	for name, value := range w.Request.Headers {
		hs = append(hs, header{headerName(name), value})
	}
	return append(hs,
		header{"Content-Type", "application/json; charset=utf-8"},
		header{"Kpush-Webhook", w.ID},
		header{"Kpush-Group", w.GroupID},
		header{"Kpush-Ack-Timeout-Ms", strconv.Itoa(w.Ack.TimeoutMs)},
	)
}

// headerName is how a name of the user's goes to net/http: as it likes it, but for
// two that it takes for leave to send a POST a second time by itself.
func headerName(name string) string {
	switch name = http.CanonicalHeaderKey(name); name {
	case "Idempotency-Key", "X-Idempotency-Key":
		return strings.ToLower(name)
	}
	return name
}

// validHeader reports whether net/http will send h as it is.
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

// The headers that change from attempt to attempt, by their place in request.values.
const (
	webhookID = iota
	webhookTimestamp
	topicName
	partitionNumber
	generationNumber
	firstOffset
	lastOffset
	recordCount
	attemptNumber
	ackToken
	traceParent
	webhookSignature // last: it is left out where deliveries go unsigned
	changingHeaders
)

var changingNames = [changingHeaders]string{
	webhookID:        "Webhook-Id",
	webhookTimestamp: "Webhook-Timestamp",
	topicName:        "Kpush-Topic",
	partitionNumber:  "Kpush-Partition",
	generationNumber: "Kpush-Generation",
	firstOffset:      "Kpush-First-Offset",
	lastOffset:       "Kpush-Last-Offset",
	recordCount:      "Kpush-Record-Count",
	attemptNumber:    "Kpush-Attempt",
	ackToken:         "Kpush-Ack-Token",
	traceParent:      "Traceparent",
	webhookSignature: "Webhook-Signature",
}

// request is an http.Request to one webhook with all that can be used again for
// the next attempt: the header map, whose changing values lie in values, and the
// body's reader.
type request struct {
	http     http.Request
	changing int // how many of the changing headers there are
	values   [changingHeaders]string
	text     []byte // the values one after the other, as they are written
	ends     [changingHeaders]int
	signed   []byte // "id.timestamp."
	body     []byte // the message's, while it is sent
	reader   bytes.Reader
	answer   []byte // where the answer's body is read to

	// net/http may still be reading headers and body when it has returned an answer
	// or an error. It has finished when written, counted by its WroteRequest hook,
	// has caught up with sent, counted here.
	sent    int
	written atomic.Int32
	wrote   func(httptrace.WroteRequestInfo)
}

func newRequest(c *Client) *request {
	r := &request{changing: changingHeaders}
	if c.signers == nil {
		r.changing = webhookSignature
	}
	r.wrote = func(httptrace.WroteRequestInfo) { r.written.Add(1) }
	h := make(http.Header, len(c.headers)+changingHeaders)
	for _, f := range c.headers {
		h[f.name] = []string{f.value}
	}
	for i, name := range changingNames[:r.changing] {
		h[name] = r.values[i : i+1 : i+1]
	}
	r.http = http.Request{
		Method: http.MethodPost, URL: c.url, Host: c.url.Host, Header: h,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(&r.reader), // seen through by net/http, which then sends head and body together
	}
	r.http.GetBody = func() (io.ReadCloser, error) {
		r.sent++
		return io.NopCloser(bytes.NewReader(r.body)), nil
	}
	return r
}

// fill makes r the request of one attempt: body is what is sent and signed.
func (r *request) fill(c *Client, m *Message, a Attempt, parent trace.SpanContext, body []byte) {
	r.text = r.text[:0]
	r.put(webhookID, append(r.text, m.id...))
	r.put(webhookTimestamp, strconv.AppendInt(r.text, a.Now.Unix(), 10))
	r.put(topicName, append(r.text, m.topic...))
	r.put(partitionNumber, strconv.AppendInt(r.text, int64(m.partition), 10))
	r.put(generationNumber, strconv.AppendInt(r.text, int64(a.Generation), 10))
	r.put(firstOffset, strconv.AppendInt(r.text, m.first, 10))
	r.put(lastOffset, strconv.AppendInt(r.text, m.last, 10))
	r.put(recordCount, strconv.AppendInt(r.text, int64(m.count), 10))
	r.put(attemptNumber, strconv.AppendInt(r.text, int64(a.Number), 10))
	r.put(ackToken, append(r.text, a.Token...))
	r.put(traceParent, appendTraceParent(r.text, parent))
	if c.signers != nil {
		r.signed = append(append(r.signed[:0], m.id...), '.')
		r.signed = append(strconv.AppendInt(r.signed, a.Now.Unix(), 10), '.')
		r.put(webhookSignature, c.signers.append(r.text, r.signed, body))
	}
	text, from := string(r.text), 0 // one string for all the values
	for i, end := range r.ends[:r.changing] {
		r.values[i], from = text[from:end], end
	}
	r.body = body
}

// put ends the value of header i: text is what came before and the value.
func (r *request) put(i int, text []byte) { r.text, r.ends[i] = text, len(text) }

// send makes one exchange. The answer's body has to be closed by the caller. When
// a connection turns out to be closed before any byte of the request was written
// to it, net/http takes another by itself, and in no other case.
func (r *request) send(ctx context.Context, c *Client) (*http.Response, error) {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: r.wrote})
	r.reader.Reset(r.body)
	r.http.ContentLength = int64(len(r.body))
	r.sent++
	return c.transport.RoundTrip(r.http.WithContext(ctx))
}

// idle reports that net/http has done with headers and body: both may be changed.
func (r *request) idle() bool { return int(r.written.Load()) == r.sent }

// reset makes an idle request ready for the next attempt.
func (r *request) reset() {
	r.body, r.sent = nil, 0
	r.written.Store(0)
	r.reader.Reset(nil)
}
