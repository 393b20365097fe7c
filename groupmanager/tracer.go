package groupmanager

import (
	"context"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks/delivery"
)

// maxLinks bounds the links of one process span; the SDK's own default is the same.
const maxLinks = 128

// tracer makes the spans of a group (OTel messaging conventions v1.43). With
// tracing off it costs a look at the headers of single-record deliveries, whose
// trace goes on in the receiver whether we record it or not.
type tracer struct {
	tracer trace.Tracer
	on     bool
	group  string
}

// processing is the span of one delivery; nil when there is nothing to trace.
type processing struct {
	ctx  context.Context
	span trace.Span
}

var traceContext propagation.TraceContext

// process begins the span of records [from,to) of b. The span links to the
// context of each record; only a single record is its parent.
func (t *tracer) process(topic string, partition int32, b *records.Batch, from, to int) *processing {
	single := to-from == 1
	if !t.on && (!single || b.Headers(from) == 0) {
		return nil
	}
	ctx := context.Background()
	if single {
		ctx = traceContext.Extract(ctx, carrier{b, from})
		if !t.on {
			if !trace.SpanContextFromContext(ctx).IsValid() {
				return nil
			}
			return &processing{ctx: ctx, span: trace.SpanFromContext(ctx)}
		}
	}
	ctx, span := t.tracer.Start(ctx, "process "+topic, trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithLinks(links(b, from, to)...),
		trace.WithAttributes(t.attributes(topic, "process",
			semconv.MessagingDestinationPartitionID(strconv.Itoa(int(partition))),
			semconv.MessagingBatchMessageCount(to-from),
			semconv.MessagingKafkaOffset(int(b.Records[from].Offset)))...))
	return &processing{ctx: ctx, span: span}
}

// links lists the trace contexts of the records, each once.
func links(b *records.Batch, from, to int) []trace.Link {
	var found []trace.Link
	seen := make(map[trace.SpanID]bool)
	for i := from; i < to && len(found) < maxLinks; i++ {
		if b.Headers(i) == 0 {
			continue
		}
		sc := trace.SpanContextFromContext(traceContext.Extract(context.Background(), carrier{b, i}))
		if sc.IsValid() && !seen[sc.SpanID()] {
			seen[sc.SpanID()] = true
			found = append(found, trace.Link{SpanContext: sc})
		}
	}
	return found
}

// span begins a span of an operation on the broker: poll or commit.
func (t *tracer) operation(name, topic string, kind attribute.KeyValue, more ...attribute.KeyValue) trace.Span {
	if !t.on {
		return trace.SpanFromContext(context.Background())
	}
	full := name
	if topic != "" {
		full += " " + topic
	}
	_, span := t.tracer.Start(context.Background(), full, trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(append(t.attributes(topic, name, more...), kind)...))
	return span
}

func (t *tracer) attributes(topic, operation string, more ...attribute.KeyValue) []attribute.KeyValue {
	as := append(more, semconv.MessagingSystemKafka, semconv.MessagingOperationName(operation),
		semconv.MessagingConsumerGroupName(t.group))
	if topic != "" {
		as = append(as, semconv.MessagingDestinationName(topic))
	}
	return as
}

// context puts the trace of a delivery on a request's context.
func (p *processing) context(ctx context.Context) context.Context {
	if p == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, p.span)
}

// end closes the span with what came of the attempt.
func (p *processing) end(r delivery.Result) {
	if p == nil {
		return
	}
	if r.Code != "" {
		p.span.SetAttributes(semconv.ErrorTypeKey.String(r.Code))
		p.span.SetStatus(codes.Error, r.Code)
	}
	p.span.End()
}

// carrier reads a record's headers as the propagator wants them; the last of a name counts.
type carrier struct {
	batch *records.Batch
	i     int
}

func (c carrier) Get(key string) string {
	for j := c.batch.Headers(c.i) - 1; j >= 0; j-- {
		if name, value := c.batch.Header(c.i, j); string(name) == key {
			return string(value)
		}
	}
	return ""
}

// Set does nothing: a record is never changed.
func (c carrier) Set(string, string) {}

func (c carrier) Keys() []string { return nil }
