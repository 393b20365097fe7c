package groupmanager

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/kpush/kpush/groupmanager/pacing"
	"github.com/kpush/kpush/internal/telemetry"
	"github.com/kpush/kpush/webhooks/delivery"
)

// instruments are the metrics of one webhook's group; the names and units are
// telemetry's. Attribute sets are made once, not per delivery. Safe for
// concurrent use.
type instruments struct {
	attempts   metric.Int64Counter
	duration   metric.Float64Histogram
	batchSize  metric.Int64Histogram
	delivered  metric.Int64Counter
	skippedN   metric.Int64Counter
	dead       metric.Int64Counter
	held       metric.Int64Counter
	filter     metric.Int64Counter
	rebalances metric.Int64Counter
	commits    metric.Float64Histogram
	paced      metric.Int64Counter

	webhook   attribute.KeyValue
	ofWebhook metric.MeasurementOption
	exhausted metric.MeasurementOption
	rejected  metric.MeasurementOption
	unfitOf   metric.MeasurementOption
	judgement [3]metric.MeasurementOption // passed, filtered, error
	ok        [2]metric.MeasurementOption // attempts and duration of an acked delivery
	commitOK  metric.MeasurementOption
}

func newInstruments(meter metric.Meter, webhook string) (*instruments, error) {
	b := builder{meter: meter}
	i := &instruments{
		attempts:   b.counter(telemetry.DeliveryAttempts, telemetry.UnitAttempts, "Requests made to receivers, by what came of them."),
		duration:   b.seconds(telemetry.DeliveryDuration, "Time from the start of a request to the end of its answer."),
		batchSize:  b.sizes(telemetry.DeliveryBatchSize, telemetry.UnitRecords, "Records per request."),
		delivered:  b.counter(telemetry.RecordsDelivered, telemetry.UnitRecords, "Records acked by receivers."),
		skippedN:   b.counter(telemetry.RecordsSkipped, telemetry.UnitRecords, "Records given up by a policy the user set."),
		dead:       b.counter(telemetry.DeadLetterRecords, telemetry.UnitRecords, "Records written to dead letter topics."),
		held:       b.counter(telemetry.ExhaustionHeld, telemetry.UnitRecords, "Records whose attempts are used up, held because more was given up than the budget allows."),
		filter:     b.counter(telemetry.FilterRecords, telemetry.UnitRecords, "Records that filters were asked about, by what they said."),
		rebalances: b.counter(telemetry.Rebalances, telemetry.UnitRebalances, "Assignments, revocations and losses of partitions."),
		commits:    b.seconds(telemetry.CommitDuration, "Time a commit took at the broker."),
		paced:      b.counter(telemetry.DeliveryHeld, telemetry.UnitAttempts, "Attempts held back, by why."),
		webhook:    attribute.String(telemetry.AttrWebhook, webhook),
	}
	i.ofWebhook = metric.WithAttributeSet(attribute.NewSet(i.webhook))
	i.exhausted = metric.WithAttributeSet(attribute.NewSet(i.webhook, attribute.String(telemetry.AttrReason, "exhausted")))
	i.rejected = metric.WithAttributeSet(attribute.NewSet(i.webhook, attribute.String(telemetry.AttrReason, "rejected")))
	i.unfitOf = metric.WithAttributeSet(attribute.NewSet(i.webhook, attribute.String(telemetry.AttrReason, delivery.CodeUndecodable)))
	for n, outcome := range []string{"passed", "filtered", "error"} {
		i.judgement[n] = metric.WithAttributeSet(attribute.NewSet(i.webhook, attribute.String(telemetry.AttrOutcome, outcome)))
	}
	acked := attribute.String(telemetry.AttrOutcome, "acked")
	i.ok = [2]metric.MeasurementOption{
		metric.WithAttributeSet(attribute.NewSet(i.webhook, acked)),
		metric.WithAttributeSet(attribute.NewSet(acked)),
	}
	i.commitOK = metric.WithAttributeSet(attribute.NewSet(attribute.String(telemetry.AttrOutcome, "ok")))
	return i, b.err
}

// attempt counts one request that ended.
func (i *instruments) attempt(r delivery.Result) {
	ctx := context.Background()
	if r.Verdict == delivery.Acked {
		i.attempts.Add(ctx, 1, i.ok[0])
		i.duration.Record(ctx, r.Took.Seconds(), i.ok[1])
		return
	}
	outcome := attribute.String(telemetry.AttrOutcome, outcomeOf(r))
	i.attempts.Add(ctx, 1, metric.WithAttributes(i.webhook, outcome))
	i.duration.Record(ctx, r.Took.Seconds(), metric.WithAttributes(outcome))
}

// outcomeOf is from a closed list: the verdict, or the code of a failure.
func outcomeOf(r delivery.Result) string {
	switch r.Verdict {
	case delivery.Received:
		return "received"
	case delivery.Stated:
		return "stated"
	default:
		return r.Code
	}
}

// started counts a request that begins.
func (i *instruments) started(records int) {
	i.batchSize.Record(context.Background(), int64(records))
}

func (i *instruments) deliveredRecords(n int) {
	i.delivered.Add(context.Background(), int64(n), i.ofWebhook)
}

func (i *instruments) skipped(n int) {
	i.skippedN.Add(context.Background(), int64(n), i.exhausted)
}

// refused counts records that were skipped because the receiver said so.
func (i *instruments) refused(n int) {
	i.skippedN.Add(context.Background(), int64(n), i.rejected)
}

// unfit counts records that were skipped because they are not JSON.
func (i *instruments) unfit(n int) {
	i.skippedN.Add(context.Background(), int64(n), i.unfitOf)
}

func (i *instruments) passedOver(n int64) {
	i.skippedN.Add(context.Background(), n, metric.WithAttributes(i.webhook, attribute.String(telemetry.AttrReason, "offset_reset")))
}

func (i *instruments) deadLettered(n int) {
	i.dead.Add(context.Background(), int64(n), i.ofWebhook)
}

func (i *instruments) heldBack(n int) { i.held.Add(context.Background(), int64(n), i.ofWebhook) }

// judged counts records that a filter was asked about.
func (i *instruments) judged(passed, filtered, failed int) {
	for n, records := range []int{passed, filtered, failed} {
		if records > 0 {
			i.filter.Add(context.Background(), int64(records), i.judgement[n])
		}
	}
}

func (i *instruments) expired() {
	i.attempts.Add(context.Background(), 1, metric.WithAttributes(i.webhook, attribute.String(telemetry.AttrOutcome, codeAckTimeout)))
}

// waits counts an attempt that the pacer held back.
func (i *instruments) waits(why pacing.Reason) {
	i.paced.Add(context.Background(), 1, metric.WithAttributes(i.webhook, attribute.String(telemetry.AttrReason, string(why))))
}

func (i *instruments) rebalanced() { i.rebalances.Add(context.Background(), 1, i.ofWebhook) }

func (i *instruments) committed(took time.Duration, err error) {
	opt := i.commitOK
	if err != nil {
		opt = metric.WithAttributes(attribute.String(telemetry.AttrOutcome, "failed"))
	}
	i.commits.Record(context.Background(), took.Seconds(), opt)
}

// builder makes instruments and keeps the first error.
type builder struct {
	meter metric.Meter
	err   error
}

func (b *builder) keep(err error) {
	if b.err == nil {
		b.err = err
	}
}

func (b *builder) counter(name, unit, about string) metric.Int64Counter {
	i, err := b.meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(about))
	b.keep(err)
	return i
}

func (b *builder) sizes(name, unit, about string) metric.Int64Histogram {
	i, err := b.meter.Int64Histogram(name, metric.WithUnit(unit), metric.WithDescription(about))
	b.keep(err)
	return i
}

func (b *builder) seconds(name, about string) metric.Float64Histogram {
	i, err := b.meter.Float64Histogram(name, metric.WithUnit(telemetry.UnitSeconds), metric.WithDescription(about))
	b.keep(err)
	return i
}
