package delivery

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// startSpan begins the span of an attempt where ctx is part of a trace; else the
// span is nil. It names the receiver's host and nothing more of its URL, whose
// path and query often are secrets.
func (e *endpoint) startSpan(ctx context.Context, attempt, size int) (context.Context, trace.Span) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, nil
	}
	ctx, span := e.tracer.Start(ctx, "POST", trace.WithSpanKind(trace.SpanKindClient))
	if !span.IsRecording() {
		return ctx, span
	}
	span.SetAttributes(
		semconv.HTTPRequestMethodPost,
		semconv.ServerAddress(e.url.Hostname()),
		semconv.ServerPort(portOf(e.url.Scheme, e.url.Port())),
		semconv.URLScheme(e.url.Scheme),
		semconv.HTTPRequestBodySize(size),
	)
	if attempt > 1 {
		span.SetAttributes(semconv.HTTPRequestResendCount(attempt - 1))
	}
	return ctx, span
}

func portOf(scheme, port string) int {
	if n, err := strconv.Atoi(port); err == nil {
		return n
	}
	if scheme == "http" {
		return 80
	}
	return 443
}

// endSpan ends the span of an attempt with what it came to; span may be nil.
func endSpan(span trace.Span, res Result) {
	if span == nil {
		return
	}
	if span.IsRecording() {
		if res.Status != 0 {
			span.SetAttributes(semconv.HTTPResponseStatusCode(res.Status))
		}
		if res.Code != "" {
			span.SetStatus(codes.Error, res.Code)
			span.SetAttributes(attribute.String(string(semconv.ErrorTypeKey), errorType(res)))
		}
	}
	span.End()
}

// errorType follows the HTTP conventions: the status where it tells the failure, else a word.
func errorType(res Result) string {
	if res.Code == httpCode(res.Status) {
		return strconv.Itoa(res.Status)
	}
	return res.Code
}

// appendTraceParent appends the W3C traceparent of sc. Where there is no trace it
// makes one up, not sampled, so that a receiver has an id to log.
func appendTraceParent(dst []byte, sc trace.SpanContext) []byte {
	traceID, spanID := sc.TraceID(), sc.SpanID()
	for !traceID.IsValid() || !spanID.IsValid() {
		traceID, spanID = randomIDs()
	}
	dst = append(dst, "00-"...)
	dst = hex.AppendEncode(dst, traceID[:])
	dst = append(dst, '-')
	dst = hex.AppendEncode(dst, spanID[:])
	if sc.IsSampled() {
		return append(dst, "-01"...)
	}
	return append(dst, "-00"...)
}

func randomIDs() (t trace.TraceID, s trace.SpanID) {
	binary.NativeEndian.PutUint64(t[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(t[8:], rand.Uint64())
	binary.NativeEndian.PutUint64(s[:], rand.Uint64())
	return t, s
}
