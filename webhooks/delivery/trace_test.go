package delivery

import (
	"context"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/embedded"
	"go.opentelemetry.io/otel/trace/noop"
)

// tracer keeps the spans that were made by it.
type tracer struct {
	embedded.Tracer
	sampled bool

	mu    sync.Mutex
	spans []*span
}

type span struct {
	noop.Span
	name   string
	kind   trace.SpanKind
	parent trace.SpanContext
	self   trace.SpanContext
	attrs  map[string]string
	status string
	ended  bool
}

func (t *tracer) Start(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	t.mu.Lock()
	defer t.mu.Unlock()
	parent := trace.SpanContextFromContext(ctx)
	cfg := trace.SpanContextConfig{TraceID: parent.TraceID(), SpanID: trace.SpanID{9, byte(len(t.spans) + 1)}}
	if t.sampled {
		cfg.TraceFlags = trace.FlagsSampled
	}
	options := trace.NewSpanStartConfig(opts...)
	s := &span{name: name, kind: options.SpanKind(), parent: parent, self: trace.NewSpanContext(cfg), attrs: map[string]string{}}
	t.spans = append(t.spans, s)
	return trace.ContextWithSpan(ctx, s), s
}

func (s *span) SpanContext() trace.SpanContext { return s.self }
func (s *span) IsRecording() bool              { return s.self.IsSampled() }
func (s *span) End(...trace.SpanEndOption)     { s.ended = true }
func (s *span) SetStatus(c codes.Code, text string) {
	s.status = c.String() + " " + text
}
func (s *span) SetAttributes(kvs ...attribute.KeyValue) {
	for _, kv := range kvs {
		s.attrs[string(kv.Key)] = kv.Value.String()
	}
}

// inTrace is a context within a trace.
func inTrace(t *testing.T) context.Context {
	return trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1, 2, 3}, SpanID: trace.SpanID{4, 5, 6}, TraceFlags: trace.FlagsSampled,
	}))
}

func TestAttemptsAreSpans(t *testing.T) {
	url, requests := recording(t)
	c := testClient(t, url+"/hooks/s3cret?key=s3cret")
	traced := &tracer{sampled: true}
	c.tracer = traced
	expect(t, c.Send(inTrace(t), testMessage(t, c, 1, 10), testAttempt(3)), Acked, 200, "")
	r := <-requests
	if got, want := r.header.Get("Traceparent"), "00-01020300000000000000000000000000-0901000000000000-01"; got != want {
		t.Errorf("traceparent is %s, want %s", got, want)
	}
	s := traced.spans[0]
	if len(traced.spans) != 1 || s.name != "POST" || s.kind != trace.SpanKindClient || !s.ended || s.status != "" {
		t.Errorf("got %d spans, the first %+v; want one of a client that ended well", len(traced.spans), s)
	}
	want := map[string]string{
		"http.request.method":       "POST",
		"http.request.body.size":    r.header.Get("Content-Length"),
		"http.request.resend_count": "2",
		"http.response.status_code": "200",
		"server.address":            "127.0.0.1",
		"server.port":               c.url.Port(),
		"url.scheme":                "http",
	}
	if diff := cmp.Diff(want, s.attrs); diff != "" {
		t.Errorf("the span has other attributes (-want +got):\n%s", diff)
	}
}

func TestSpansOfFailures(t *testing.T) {
	for _, test := range []struct{ answer, errorType, status string }{
		{"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n", "503", "Error http_503"},
		{"HTTP/1.1 302 X\r\nContent-Length: 0\r\n\r\n", "redirect_not_followed", "Error redirect_not_followed"},
		{"nonsense\r\n\r\n", "response_malformed", "Error response_malformed"},
	} {
		c := testClient(t, answering(t, test.answer))
		traced := &tracer{sampled: true}
		c.tracer = traced
		c.Send(inTrace(t), testMessage(t, c, 1, 10), testAttempt(1))
		if s := traced.spans[0]; s.attrs["error.type"] != test.errorType || s.status != test.status || !s.ended {
			t.Errorf("%q gives error.type %q and status %q, ended %v; want %q and %q", test.answer, s.attrs["error.type"], s.status, s.ended, test.errorType, test.status)
		}
	}
}

func TestAnUnsampledTraceIsPassedOn(t *testing.T) {
	url, requests := recording(t)
	c := testClient(t, url)
	traced := &tracer{}
	c.tracer = traced
	expect(t, c.Send(inTrace(t), testMessage(t, c, 1, 10), testAttempt(1)), Acked, 200, "")
	if got, want := (<-requests).header.Get("Traceparent"), "00-01020300000000000000000000000000-0901000000000000-00"; got != want {
		t.Errorf("traceparent is %s, want %s", got, want)
	}
	if s := traced.spans[0]; !s.ended || len(s.attrs) != 0 {
		t.Errorf("the span ended: %v, attributes %v; want an ended one without", s.ended, s.attrs)
	}
}

func TestWithoutATraceThereIsNoSpan(t *testing.T) {
	url, requests := recording(t)
	c := testClient(t, url)
	traced := &tracer{sampled: true}
	c.tracer = traced
	seen := map[string]bool{}
	for range 2 {
		expect(t, deliver(t, c), Acked, 200, "")
		seen[(<-requests).header.Get("Traceparent")] = true
	}
	if len(traced.spans) != 0 || len(seen) != 2 {
		t.Errorf("got %d spans and %d trace parents, want none and 2", len(traced.spans), len(seen))
	}
}

func TestPortOfAURL(t *testing.T) {
	for url, want := range map[string]int{"http://a": 80, "https://a": 443, "http://a:8080": 8080, "https://[::1]:9": 9} {
		c := testClient(t, url)
		if got := portOf(c.url.Scheme, c.url.Port()); got != want {
			t.Errorf("the port of %s is %d, want %d", url, got, want)
		}
	}
}
