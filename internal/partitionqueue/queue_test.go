package partitionqueue

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/records"
)

// patience bounds every wait for something that has to come.
const patience = 20 * time.Second

func TestCheckPassesWithThisClient(t *testing.T) {
	if err := Check(); err != nil {
		t.Fatalf("Check() = %v, want nil", err)
	}
}

// cluster is an embedded broker with one topic.
func cluster(t testing.TB, topic string, partitions int32) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// produce appends records in order.
func produce(t testing.TB, brokers []string, records ...*kgo.Record) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		t.Fatalf("producing: %v", err)
	}
}

// consumer is a consumer that only reads partitions it was given by hand.
func consumer(t testing.TB, brokers []string, settings ...string) *kafka.Consumer {
	t.Helper()
	config := kafka.ConfigMap{
		"bootstrap.servers":                  strings.Join(brokers, ","),
		"group.id":                           "group",
		"enable.auto.commit":                 false,
		"auto.offset.reset":                  "error",
		"fetch.wait.max.ms":                  50,
		"fetch.queue.backoff.ms":             10,
		"fetch.error.backoff.ms":             20,
		"go.logs.channel.enable":             true,
		"go.logs.channel":                    make(chan kafka.LogEvent, 1000), // what does not fit is dropped
		"enable.metrics.push":                false,
		"topic.metadata.refresh.interval.ms": 1000,
	}
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		config[name] = value
	}
	c, err := kafka.NewConsumer(&config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// open splits partitions of a topic off and starts fetching them at offset 0.
func open(t testing.TB, c *kafka.Consumer, topic string, partitions ...int32) (*Queues, []*Queue) {
	t.Helper()
	qs, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(qs.Close) // runs before the consumer's
	var queues []*Queue
	var assignment []kafka.TopicPartition
	for _, p := range partitions {
		q, err := qs.Split(topic, p)
		if err != nil {
			t.Fatal(err)
		}
		queues = append(queues, q)
		assignment = append(assignment, kafka.TopicPartition{Topic: &topic, Partition: p, Offset: 0})
	}
	if err := c.Assign(assignment); err != nil {
		t.Fatal(err)
	}
	return qs, queues
}

// readN reads until it has n records, sleeping on Wake alone.
func readN(t testing.TB, q *Queue, n int) *records.Batch {
	t.Helper()
	b := new(records.Batch)
	timeout := time.After(patience)
	for b.Len() < n {
		got, err := q.Read(b, n-b.Len())
		if err != nil {
			t.Fatalf("Read after %d of %d records: %v", b.Len(), n, err)
		}
		if got > 0 {
			continue
		}
		select {
		case <-q.Wake():
		case <-timeout:
			t.Fatalf("got %d records and no wake-up, want %d", b.Len(), n)
		}
	}
	return b
}

func TestRecordsComeAsTheyAre(t *testing.T) {
	many := make([]kgo.RecordHeader, 1000)
	for i := range many {
		many[i] = kgo.RecordHeader{Key: fmt.Sprintf("h%d", i), Value: []byte(fmt.Sprint(i))}
	}
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	at := time.UnixMilli(1_700_000_000_123)
	tests := []struct {
		name   string
		record kgo.Record
	}{
		{"a plain record", kgo.Record{Key: []byte("k"), Value: []byte("v")}},
		{"a null key", kgo.Record{Value: []byte("v")}},
		{"an empty key", kgo.Record{Key: []byte{}, Value: []byte("v")}},
		{"a tombstone", kgo.Record{Key: []byte("k")}},
		{"an empty value", kgo.Record{Key: []byte("k"), Value: []byte{}}},
		{"neither key nor value", kgo.Record{}},
		{"any bytes", kgo.Record{Key: every, Value: every}},
		{"a header with a null value", kgo.Record{Headers: []kgo.RecordHeader{{Key: "h"}}}},
		{"a header with an empty value", kgo.Record{Headers: []kgo.RecordHeader{{Key: "h", Value: []byte{}}}}},
		{"a header with an empty name", kgo.Record{Headers: []kgo.RecordHeader{{Value: []byte("x")}}}},
		{"a header with any bytes", kgo.Record{Headers: []kgo.RecordHeader{{Key: "h", Value: every}}}},
		{"a header's name twice", kgo.Record{Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("1")}, {Key: "h", Value: []byte("2")}}}},
		{"a thousand headers", kgo.Record{Key: []byte("k"), Value: []byte("v"), Headers: many}},
		{"a megabyte", kgo.Record{Value: bytes.Repeat(every, 3900)}},
	}
	const topic = "orders"
	c := cluster(t, topic, 1)
	var all []*kgo.Record
	for _, tc := range tests {
		r := tc.record
		r.Topic, r.Timestamp = topic, at
		all = append(all, &r)
	}
	produce(t, c.ListenAddrs(), all...)
	_, queues := open(t, consumer(t, c.ListenAddrs()), topic, 0)
	b := readN(t, queues[0], len(tests))

	for i, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			type content struct {
				Key, Value []byte
				Headers    []kgo.RecordHeader
			}
			var headers []kgo.RecordHeader
			for j := range b.Headers(i) {
				name, value := b.Header(i, j)
				headers = append(headers, kgo.RecordHeader{Key: string(name), Value: value})
			}
			got := content{b.Key(i), b.Value(i), headers}
			want := content{tc.record.Key, tc.record.Value, tc.record.Headers}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("record differs (-want +got):\n%s", diff)
			}
			r := b.Records[i]
			if r.Offset != int64(i) {
				t.Errorf("offset = %d, want %d", r.Offset, i)
			}
			if r.Timestamp != at.UnixMilli() || r.TimestampType != records.TimestampCreate {
				t.Errorf("timestamp = %d of type %d, want %d of type %d", r.Timestamp, r.TimestampType, at.UnixMilli(), records.TimestampCreate)
			}
			if r.LeaderEpoch < 0 {
				t.Errorf("leader epoch = %d, want the leader's", r.LeaderEpoch)
			}
		})
	}
	if got := queues[0].Position(); got != int64(len(tests)) {
		t.Errorf("Position() = %d, want %d", got, len(tests))
	}
}
