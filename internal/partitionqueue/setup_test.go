package partitionqueue

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/kafkanode"
	"github.com/kpush/kpush/internal/records"
)

// patience bounds every wait for something that has to come.
const patience = 20 * time.Second

// node is the real Apache Kafka of the tests that want one.
var node kafkanode.Shared

func TestMain(m *testing.M) {
	code := m.Run()
	node.Stop()
	os.Exit(code)
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

// producer is what the tests' producers have in common: they choose partitions
// themselves, and retry at once what another client would wait for.
func producer(brokers ...string) []kgo.Opt {
	return []kgo.Opt{
		kgo.SeedBrokers(brokers...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MetadataMinAge(50 * time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 10 * time.Millisecond }),
	}
}

// produce appends records in order.
func produce(t testing.TB, brokers []string, records ...*kgo.Record) {
	t.Helper()
	client, err := kgo.NewClient(producer(brokers...)...)
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
		"enable.auto.offset.store":           false,
		"auto.offset.reset":                  "error",
		"fetch.wait.max.ms":                  50,
		"fetch.queue.backoff.ms":             10,
		"fetch.error.backoff.ms":             20,
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

// name makes a record of a number.
func name(i int) []byte { return []byte(fmt.Sprint(i)) }

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

// waitForWake sleeps until the queue signals.
func waitForWake(t testing.TB, q *Queue) {
	t.Helper()
	select {
	case <-q.Wake():
	case <-time.After(patience):
		t.Fatalf("no wake-up in %v, at position %d", patience, q.Position())
	}
}
