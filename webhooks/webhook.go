// Package webhooks owns the webhook resource: its fields, their rules and
// defaults, and the Registry in which webhooks live.
//
// Package delivery beneath it sends records to a webhook's URL.
package webhooks

import (
	"strings"
	"time"
)

// State of a webhook. Active, Paused and Disabled are stored; Degraded and Failed are
// what a running group reports over a stored Active.
type State string

// The states of contract section 2.
const (
	Active   State = "active"
	Paused   State = "paused"   // by a person; keeps offsets
	Degraded State = "degraded" // attempts are held back: the receiver is sick
	Disabled State = "disabled" // 410 from the receiver, or an operator
	Failed   State = "failed"   // cannot run; retried with backoff
)

// Webhook is one subscription: a Kafka consumer group bound to one receiver URL.
// Its JSON form is the resource of the API. A value that came out of Decode or
// the Registry is complete: every default is filled in.
type Webhook struct {
	ID             string            `json:"id"`
	Tenant         string            `json:"tenant"`
	URL            string            `json:"url"`
	Topics         []string          `json:"topics"` // names, or one pattern: see TopicPattern
	GroupID        string            `json:"group_id"`
	Description    string            `json:"description"`
	Labels         map[string]string `json:"labels"`
	State          State             `json:"state"`
	StateReason    *string           `json:"state_reason"`
	Start          string            `json:"start"`           // latest, earliest or an RFC 3339 time
	OffsetReset    string            `json:"offset_reset"`    // error, earliest, latest
	IsolationLevel string            `json:"isolation_level"` // read_committed, read_uncommitted
	Ordering       string            `json:"ordering"`        // partition, none, key
	MaxInFlight    int               `json:"max_in_flight"`   // deliveries per partition
	Batch          Batch             `json:"batch"`
	Fetch          Fetch             `json:"fetch"`
	Format         Format            `json:"format"`
	Request        Request           `json:"request"`
	Ack            Ack               `json:"ack"`
	Retry          Retry             `json:"retry"`
	Limits         Limits            `json:"limits"`
	OnExhausted    string            `json:"on_exhausted"`   // block, dead_letter, skip
	OnUndecodable  string            `json:"on_undecodable"` // base64, block, dead_letter, skip: of values that are not JSON, with format.value json
	DeadLetter     DeadLetter        `json:"dead_letter"`
	Signing        Signing           `json:"signing"`
	Lifecycle      *Lifecycle        `json:"lifecycle"` // nil: nobody is told of assignments
	Filter         *string           `json:"filter"`    // says which records are delivered, see package filter; nil: all
	TLS            TLS               `json:"tls"`
	Auth           *Auth             `json:"auth"` // nil: the signature is all
	CreatedAt      time.Time         `json:"created_at"`
	UpdatedAt      time.Time         `json:"updated_at"`
}

// Values of the fields that are words.
const (
	OrderingPartition = "partition"
	OrderingNone      = "none"
	OrderingKey       = "key"

	AckAuto     = "auto"
	AckExplicit = "explicit"

	OnUndecodableBase64     = "base64"
	OnUndecodableBlock      = "block"
	OnUndecodableDeadLetter = "dead_letter"
	OnUndecodableSkip       = "skip"

	OnExhaustedBlock      = "block"
	OnExhaustedDeadLetter = "dead_letter"
	OnExhaustedSkip       = "skip"

	ResetError    = "error"
	ResetEarliest = "earliest"
	ResetLatest   = "latest"

	FormatEnvelope    = "envelope"
	FormatCloudEvents = "cloudevents-batch"
	FormatNDJSON      = "ndjson"
	FormatRaw         = "raw"

	EncodingIdentity = "identity"
	EncodingGzip     = "gzip"
	EncodingZstd     = "zstd"

	StartEarliest = "earliest"
	StartLatest   = "latest"

	ReadCommitted   = "read_committed"
	ReadUncommitted = "read_uncommitted"
)

// Batch says when a delivery is full.
type Batch struct {
	MaxRecords int `json:"max_records"`
	MaxBytes   int `json:"max_bytes"` // key + value + headers as stored in Kafka
	LingerMs   int `json:"linger_ms"` // 0: whatever is there goes at once
}

// Linger is LingerMs as a duration.
func (b Batch) Linger() time.Duration { return time.Duration(b.LingerMs) * time.Millisecond }

// Fetch bounds what is fetched ahead per partition.
type Fetch struct {
	MinBytes        int `json:"min_bytes"`
	MaxBytes        int `json:"max_bytes"`
	MaxWaitMs       int `json:"max_wait_ms"`
	PrefetchRecords int `json:"prefetch_records"`
	PrefetchBytes   int `json:"prefetch_bytes"`
}

// Format of the request body.
type Format struct {
	Type            string   `json:"type"`             // envelope, cloudevents-batch, ndjson, raw
	Key             string   `json:"key"`              // auto, base64
	Value           string   `json:"value"`            // auto, json, string, base64
	ContentEncoding string   `json:"content_encoding"` // identity, gzip, zstd
	Source          string   `json:"source"`           // of events, before # and the topic
	EventType       string   `json:"event_type"`       // of events
	Headers         []string `json:"headers"`          // record headers that raw and cloudevents-batch carry
}

// Request settings of a delivery.
type Request struct {
	TimeoutMs int               `json:"timeout_ms"` // one deadline over dial, TLS, write, headers and body
	Headers   map[string]string `json:"headers"`
}

// Timeout is TimeoutMs as a duration.
func (r Request) Timeout() time.Duration { return time.Duration(r.TimeoutMs) * time.Millisecond }

// Ack settings.
type Ack struct {
	Mode         string `json:"mode"` // auto, explicit
	TimeoutMs    int    `json:"timeout_ms"`
	MaxTimeoutMs int    `json:"max_timeout_ms"`
}

// Timeout is TimeoutMs as a duration.
func (a Ack) Timeout() time.Duration { return time.Duration(a.TimeoutMs) * time.Millisecond }

// MaxTimeout is MaxTimeoutMs as a duration.
func (a Ack) MaxTimeout() time.Duration { return time.Duration(a.MaxTimeoutMs) * time.Millisecond }

// Retry says when a failed delivery is tried again, and when it is given up.
type Retry struct {
	InitialBackoffMs int     `json:"initial_backoff_ms"`
	MaxBackoffMs     int     `json:"max_backoff_ms"`
	Multiplier       float64 `json:"multiplier"`
	MaxAttempts      int     `json:"max_attempts"` // 0: without end
	MaxAgeMs         int64   `json:"max_age_ms"`   // from the first attempt; 0: without end
}

// Limits of what is sent in a second, by each replica; 0 is no limit.
type Limits struct {
	RecordsPerSecond  int `json:"records_per_second"`
	RequestsPerSecond int `json:"requests_per_second"`
	BytesPerSecond    int `json:"bytes_per_second"` // as Batch.MaxBytes counts them
}

// DeadLetter is where exhausted deliveries go.
type DeadLetter struct {
	Topic *string `json:"topic"`
}

// Lifecycle is where the receiver is told which partitions are coming and going.
type Lifecycle struct {
	URL string `json:"url"`
}

// TopicPattern returns the pattern by which the webhook chooses its topics, if it
// does not name them. The pattern begins with ^, need not match to a name's end,
// and means the same to Go's regexp as to regcomp(3) with REG_EXTENDED, which is
// what the Kafka client understands. It is not for topics with InternalPrefix.
func (w Webhook) TopicPattern() (pattern string, ok bool) {
	if len(w.Topics) == 1 && isPattern(w.Topics[0]) {
		return w.Topics[0], true
	}
	return "", false
}

// isPattern tells a pattern among topics from a name, as the Kafka client does.
func isPattern(topic string) bool { return strings.HasPrefix(topic, "^") }

// Default returns a webhook with every default of the contract and no identity.
func Default() Webhook {
	return Webhook{
		Tenant:         DefaultTenant,
		Labels:         map[string]string{},
		State:          Active,
		Start:          StartLatest,
		OffsetReset:    ResetError,
		IsolationLevel: ReadCommitted,
		Ordering:       OrderingPartition,
		MaxInFlight:    1,
		Batch:          Batch{MaxRecords: 100, MaxBytes: 1 << 20},
		Fetch:          Fetch{MinBytes: 1, MaxBytes: 1 << 20, MaxWaitMs: 500, PrefetchRecords: 1000, PrefetchBytes: 4 << 20},
		Format: Format{
			Type: FormatEnvelope, Key: "auto", Value: "auto", ContentEncoding: EncodingIdentity,
			Source: "/kafka", EventType: "kafka.record", Headers: []string{},
		},
		Request:       Request{TimeoutMs: 30_000, Headers: map[string]string{}},
		Ack:           Ack{Mode: AckAuto, TimeoutMs: 30_000, MaxTimeoutMs: 600_000},
		Retry:         Retry{InitialBackoffMs: 500, MaxBackoffMs: 60_000, Multiplier: 2},
		OnExhausted:   OnExhaustedBlock,
		OnUndecodable: OnUndecodableBase64,
		Signing:       Signing{Enabled: true, Schemes: []string{SchemeV1}},
	}
}

// DefaultTenant is the only tenant of an installation without tenants.
const DefaultTenant = "default"
