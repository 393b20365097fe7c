package receiver

import "time"

// Delivery is one batch of records of one partition.
type Delivery struct {
	ID          string    // the same for all attempts; not what names a record
	WebhookID   string    // as it was registered
	GroupID     string    // the consumer group in Kafka
	Attempt     int       // from 1
	Timestamp   time.Time // of this attempt
	Generation  int32     // of the group; lower than one seen before: from a former owner
	Topic       string
	Partition   int32
	FirstOffset int64 // of the first record
	LastOffset  int64 // of the last record
	RecordCount int   // as sent

	// Records are in ascending order of their offsets, which may have holes. A
	// Handler with a Dedupe leaves out those that were processed before.
	Records []Record

	// Ticket is what it takes to ack the delivery later.
	Ticket Ticket
}

// Record is one Kafka record. (Topic, partition, offset) names it.
type Record struct {
	Offset int64

	// Timestamp is in UTC, to the millisecond; zero where the record has none.
	Timestamp     time.Time
	TimestampType TimestampType

	// Key is nil for a record without one, and not nil for an empty one.
	Key []byte

	// Value is nil for a tombstone, and not nil for an empty value. It is what is in
	// Kafka, but for space around a value that is JSON.
	Value []byte

	// Headers are in Kafka's order; names may repeat. In the format "raw" they are
	// those of format.headers, their names in lower case, each name's in order. In
	// "cloudevents-batch" there are none: they are extensions of Event.
	Headers []Header

	// Event is the whole event in JSON, for a library of CloudEvents, where the format
	// is "cloudevents-batch". Value is its data then, Key its partitionkey, and Timestamp
	// its time, which its producer may have chosen.
	Event []byte
}

// TimestampType says who set a record's timestamp. Others than these may come.
type TimestampType string

// The timestamp types of Kafka.
const (
	TimestampCreate    TimestampType = "create"     // the producer
	TimestampLogAppend TimestampType = "log_append" // the broker
	TimestampNone      TimestampType = "none"       // nobody: there is none
)

// Header is one header of a record. Name is not always UTF-8; Value is nil for
// null, and not nil for an empty one.
type Header struct {
	Name  string
	Value []byte
}

// Tombstone reports whether the record has no value, which in a compacted topic
// deletes its key.
func (r *Record) Tombstone() bool { return r.Value == nil }

// Header returns the value of the last header of that name, which is the one that
// counts in Kafka's own clients too.
func (r *Record) Header(name string) (value []byte, ok bool) {
	for i := len(r.Headers) - 1; i >= 0; i-- {
		if r.Headers[i].Name == name {
			return r.Headers[i].Value, true
		}
	}
	return nil, false
}

// Ticket names one delivery to POST /ack. It is small, may be kept as JSON where
// work is queued, and is a credential: whoever has the token can ack the delivery.
type Ticket struct {
	Token string `json:"token"`

	// URL is where the sender says that POST /ack is. An Acker compares it with what
	// it was configured with and never goes there for its sake.
	URL string `json:"url,omitempty"`

	// TimeoutMs is how long after a 202 the ack may come; then the delivery is sent
	// again.
	TimeoutMs int64 `json:"timeout_ms"`
}

// Timeout is TimeoutMs as a duration.
func (t Ticket) Timeout() time.Duration { return time.Duration(t.TimeoutMs) * time.Millisecond }

// NoticeType says what a lifecycle call tells.
type NoticeType string

// Lifecycle calls.
const (
	// PartitionsAssigned: a gateway holds these partitions now. Nothing of them is
	// delivered until the call is answered 2xx.
	PartitionsAssigned NoticeType = "kafka.partitions.assigned"

	// PartitionsRevoked: the last delivery has ended, what it acked is committed.
	PartitionsRevoked NoticeType = "kafka.partitions.revoked"

	// PartitionsLost: they were taken away without that. What was not acked comes
	// again, maybe already.
	PartitionsLost NoticeType = "kafka.partitions.lost"
)

// Notice is one lifecycle call: which partitions come or go.
type Notice struct {
	ID         string // webhook-id of the call, the same on each attempt; empty from ParseNotice
	Type       NoticeType
	Timestamp  time.Time
	WebhookID  string
	GroupID    string
	Generation int32
	Partitions []Partition
}

// Partition names a partition of a topic.
type Partition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
}
