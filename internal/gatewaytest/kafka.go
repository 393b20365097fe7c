package gatewaytest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Kafka is a client of the brokers under test: it produces, and reads what the
// broker knows of groups. Another client library than the gateway's, on purpose.
type Kafka struct {
	brokers string
	client  *kgo.Client
	admin   *kadm.Client
}

// brokerPatience bounds each call to the broker.
const brokerPatience = 30 * time.Second

// DialKafka connects to brokers ("host:port,host:port"); it ends with the test.
func DialKafka(t testing.TB, brokers string, options ...kgo.Opt) *Kafka {
	t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(strings.Split(brokers, ",")...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerLinger(time.Millisecond),
	}, options...)...)
	if err != nil {
		t.Fatalf("connecting to Kafka: %v", err)
	}
	t.Cleanup(client.Close)
	return &Kafka{brokers: brokers, client: client, admin: kadm.NewClient(client)}
}

// Client is the client itself, for what this type has no method for.
func (k *Kafka) Client() *kgo.Client { return k.client }

// Admin is the administrative client.
func (k *Kafka) Admin() *kadm.Client { return k.admin }

// CreateTopic makes a topic with as many replicas as the brokers give by default;
// configs are pairs of name and value.
func (k *Kafka) CreateTopic(t testing.TB, topic string, partitions int32, configs ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), brokerPatience)
	defer cancel()
	settings := map[string]*string{}
	for i := 0; i+1 < len(configs); i += 2 {
		settings[configs[i]] = &configs[i+1]
	}
	if _, err := k.admin.CreateTopic(ctx, partitions, -1, settings, topic); err != nil {
		t.Fatalf("creating topic %s: %v", topic, err)
	}
}

// Produce sends records, each to the partition it names, waits for the broker
// to confirm them all and enters them in the ledger.
func (k *Kafka) Produce(t testing.TB, into *Produced, records ...*kgo.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), brokerPatience)
	defer cancel()
	for _, result := range k.client.ProduceSync(ctx, records...) {
		if result.Err != nil {
			t.Fatalf("producing to %s/%d: %v", result.Record.Topic, result.Record.Partition, result.Err)
		}
		into.Add(result.Record)
	}
}

// Committed is what a group has committed: the next offset to read of each partition.
func (k *Kafka) Committed(t testing.TB, group string) map[Partition]int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), brokerPatience)
	defer cancel()
	fetched, err := k.admin.FetchOffsets(ctx, group)
	if err != nil {
		t.Fatalf("fetching the offsets of %s: %v", group, err)
	}
	out := map[Partition]int64{}
	fetched.Each(func(o kadm.OffsetResponse) {
		if o.Err == nil && o.At >= 0 {
			out[Partition{o.Topic, o.Partition}] = o.At
		}
	})
	return out
}

// Ends is the end of the log of each partition: the offset that comes next.
func (k *Kafka) Ends(t testing.TB, topics ...string) map[Partition]int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), brokerPatience)
	defer cancel()
	listed, err := k.admin.ListEndOffsets(ctx, topics...)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		t.Fatalf("listing the ends of %v: %v", topics, err)
	}
	out := map[Partition]int64{}
	listed.Each(func(o kadm.ListedOffset) { out[Partition{o.Topic, o.Partition}] = o.Offset })
	return out
}

// Read is all records of a topic that a reader of committed records sees now.
func (k *Kafka) Read(t testing.TB, topic string) []*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), brokerPatience)
	defer cancel()
	ends := k.Ends(t, topic)
	from := map[string]map[int32]kgo.Offset{topic: {}}
	for p, end := range ends {
		if end > 0 {
			from[topic][p.ID] = kgo.NewOffset().AtStart()
		}
	}
	if len(from[topic]) == 0 {
		return nil
	}
	reader, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(k.brokers, ",")...), kgo.ConsumePartitions(from), kgo.KeepControlRecords(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		t.Fatalf("connecting to Kafka: %v", err)
	}
	defer reader.Close()
	var out []*kgo.Record
	for open := len(from[topic]); open > 0; {
		fetches := reader.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("reading %s: %v", topic, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				out = append(out, r)
			}
			if r.Offset == ends[Partition{topic, r.Partition}]-1 {
				open--
			}
		})
	}
	return out
}

// DeleteGroup removes an empty group with its offsets; a group that does not exist is no error.
func (k *Kafka) DeleteGroup(t testing.TB, group string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), brokerPatience)
	defer cancel()
	answer, err := k.admin.DeleteGroup(ctx, group)
	if err == nil {
		err = answer.Err
	}
	if err != nil && err != kerr.GroupIDNotFound {
		t.Fatalf("deleting group %s: %v", group, err)
	}
}
