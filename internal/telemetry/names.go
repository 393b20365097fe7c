package telemetry

// Scope is the name of the gateway's own meters and tracers:
// otel.Meter(telemetry.Scope), otel.Tracer(telemetry.Scope).
const Scope = "github.com/kpush/kpush"

// The gateway's own metrics. /metrics shows them in Prometheus' spelling: dots
// become underscores, the unit s adds _seconds, counters add _total. README.md
// has the same table for people.
//
//	name                       kind             unit       attributes
//	kpush.delivery.attempts    counter          {attempt}  webhook, outcome
//	kpush.delivery.duration    histogram        s          outcome
//	kpush.delivery.batch.size  histogram        {record}
//	kpush.delivery.in_flight   up-down counter  {request}  webhook
//	kpush.delivery.held        counter          {attempt}  webhook, reason
//	kpush.delivery.circuit     gauge                       webhook
//	kpush.records.delivered    counter          {record}   webhook
//	kpush.records.skipped      counter          {record}   webhook, reason
//	kpush.dead_letter.records  counter          {record}   webhook
//	kpush.exhaustion.held      counter          {record}   webhook
//	kpush.filter.records       counter          {record}   webhook, outcome
//	kpush.acks                 counter          {ack}      result
//	kpush.offsets.moved        counter          {partition} webhook
//	kpush.consumer.lag         gauge            {record}   webhook, topic, partition
//	kpush.consumer.lag.time    gauge            s          webhook, topic, partition
//	kpush.rebalances           counter          {rebalance} webhook
//	kpush.commit.duration      histogram        s          outcome
//	kpush.webhooks             gauge            {webhook}  state
//	kpush.build.info           gauge, always 1             version, commit, go_version, librdkafka_version
//
// A partition whose lag is not known has no lag series: 0 always means caught up.
// Histograms carry no webhook, so that their number of series does not grow
// with the number of webhooks.
const (
	DeliveryAttempts  = "kpush.delivery.attempts"
	DeliveryDuration  = "kpush.delivery.duration"
	DeliveryBatchSize = "kpush.delivery.batch.size"
	DeliveryInFlight  = "kpush.delivery.in_flight"
	DeliveryHeld      = "kpush.delivery.held"
	DeliveryCircuit   = "kpush.delivery.circuit"
	RecordsDelivered  = "kpush.records.delivered"
	RecordsSkipped    = "kpush.records.skipped"
	DeadLetterRecords = "kpush.dead_letter.records"
	ExhaustionHeld    = "kpush.exhaustion.held"
	FilterRecords     = "kpush.filter.records"
	Acks              = "kpush.acks"
	OffsetsMoved      = "kpush.offsets.moved"
	ConsumerLag       = "kpush.consumer.lag"
	ConsumerLagTime   = "kpush.consumer.lag.time"
	Rebalances        = "kpush.rebalances"
	CommitDuration    = "kpush.commit.duration"
	Webhooks          = "kpush.webhooks"
	BuildInfo         = "kpush.build.info"
)

// Names lists the metrics above.
func Names() []string {
	return []string{
		DeliveryAttempts, DeliveryDuration, DeliveryBatchSize, DeliveryInFlight, DeliveryHeld, DeliveryCircuit,
		RecordsDelivered, RecordsSkipped,
		DeadLetterRecords, ExhaustionHeld, FilterRecords, Acks, OffsetsMoved, ConsumerLag, ConsumerLagTime, Rebalances, CommitDuration, Webhooks, BuildInfo,
	}
}

// Units of the metrics above. Those in braces are annotations and do not show in
// Prometheus' names.
const (
	UnitSeconds    = "s"
	UnitRecords    = "{record}"
	UnitAttempts   = "{attempt}"
	UnitRequests   = "{request}"
	UnitAcks       = "{ack}"
	UnitPartitions = "{partition}"
	UnitRebalances = "{rebalance}"
	UnitWebhooks   = "{webhook}"
)

// Attributes of the metrics above. Their values come from closed lists, or from
// what the installation itself has registered; never from a receiver's answer or
// a record.
const (
	AttrWebhook   = "webhook"   // webhook id
	AttrOutcome   = "outcome"   // of an attempt: acked, received, stated, or the code of last_error; of a commit: ok, failed; of a filter: passed, filtered, error
	AttrReason    = "reason"    // why records were skipped: exhausted, rejected, undecodable, offset_reset; or attempts held back: circuit, retry_after, concurrency, rate, in_flight_bytes
	AttrResult    = "result"    // of an ack: the result or the problem code it was answered with
	AttrState     = "state"     // of a webhook: active, paused, degraded, disabled, failed
	AttrTopic     = "topic"     // Kafka topic
	AttrPartition = "partition" // partition number
)
