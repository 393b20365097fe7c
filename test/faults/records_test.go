package faults

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/internal/kafkanode"
)

// spread are n small records over all partitions of the field.
func (f *field) spread(n int) []*kgo.Record {
	var out []*kgo.Record
	for i := range n {
		out = append(out, &kgo.Record{Topic: f.topic, Partition: int32(i) % f.count, Value: fmt.Appendf(nil, `{"number":%d}`, i)})
	}
	return out
}

// transact produces records in a transaction of their own and ends it in one way or
// the other; what was committed goes into the ledger.
func (f *field) transact(t *testing.T, producer *kgo.Client, records []*kgo.Record, end kgo.TransactionEndTry) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if err := producer.BeginTransaction(); err != nil {
		t.Fatalf("beginning a transaction: %v", err)
	}
	if err := producer.ProduceSync(ctx, records...).FirstErr(); err != nil {
		t.Fatalf("producing in a transaction: %v", err)
	}
	if err := producer.EndTransaction(ctx, end); err != nil {
		t.Fatalf("ending a transaction: %v", err)
	}
	if end == kgo.TryCommit {
		for _, r := range records {
			f.produced.Add(r)
		}
	}
}

// together is a field with three gateways and a webhook, and nothing produced yet.
func together(t *testing.T, node *kafkanode.Node, count int32, settings ...string) *field {
	t.Helper()
	f := newField(t, node.Brokers(), 0, lively)
	f.count = count
	f.kafka.CreateTopic(t, f.topic, count, settings...)
	f.start(t, names...)
	f.register(t, nil)
	f.known.Clean = true
	return f
}

func TestP1_Transactions(t *testing.T) {
	t.Run("committed and aborted in turns", func(t *testing.T) {
		node, _ := nodeOf(t)
		f := together(t, node, partitions)
		producer := gatewaytest.DialKafka(t, node.Brokers(), kgo.TransactionalID(f.topic)).Client()
		for n := range 30 {
			f.transact(t, producer, f.spread(20+n), kgo.TransactionEndTry(n%3 != 1))
		}
		f.transact(t, producer, f.spread(60), kgo.TryAbort) // the log ends with what nobody may see
		f.awaitMore(t, f.produced.Len())
		f.finish(t)
	})
	t.Run("one left open holds the others back", func(t *testing.T) {
		node, _ := nodeOf(t)
		f := together(t, node, partitions)
		open := gatewaytest.DialKafka(t, node.Brokers(), kgo.TransactionalID(f.topic+"-open")).Client()
		if err := open.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		undecided := f.spread(6)
		if err := open.ProduceSync(t.Context(), undecided...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		f.some(t, 60) // beyond the last stable offset
		pass(t, 2*time.Second)
		if got := f.receiver.Distinct(f.id); got != 0 {
			t.Errorf("%d records arrived while a transaction before them was open, want none", got)
		}
		if err := open.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
			t.Fatal(err)
		}
		f.awaitMore(t, 60)
		f.finish(t)
	})
	t.Run("nothing but aborted ones", func(t *testing.T) {
		node, _ := nodeOf(t)
		f := together(t, node, partitions)
		producer := gatewaytest.DialKafka(t, node.Brokers(), kgo.TransactionalID(f.topic)).Client()
		for range 5 {
			f.transact(t, producer, f.spread(60), kgo.TryAbort)
		}
		f.finish(t)
		if got := f.receiver.Distinct(f.id); got != 0 {
			t.Errorf("%d records arrived, want none", got)
		}
	})
}

func TestP2_CompactedTopic(t *testing.T) {
	const keys, rounds, size = 20, 200, 1024
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), 0, lively)
	f.count = 1
	f.kafka.CreateTopic(t, f.topic, 1, "cleanup.policy", "compact", "segment.bytes", fmt.Sprint(1<<20),
		"min.cleanable.dirty.ratio", "0.01", "max.compaction.lag.ms", "1000")
	value := bytes.Repeat([]byte("x"), size)
	var records []*kgo.Record
	for n := range keys * rounds {
		records = append(records, &kgo.Record{Topic: f.topic, Key: fmt.Append(nil, n%keys), Value: append(fmt.Append(nil, n), value...)})
	}
	f.kafka.Produce(t, new(gatewaytest.Produced), records...)

	// What the cleaner leaves is what is there, once it has come to rest.
	const rest = 3 * time.Second
	var left []*kgo.Record
	quiet := time.Now()
	gatewaytest.Await(t, later, func() error {
		now := f.kafka.Read(t, f.topic)
		if len(now) != len(left) || len(now) == len(records) {
			left, quiet = now, time.Now()
		}
		if time.Since(quiet) < rest {
			return fmt.Errorf("of %d records %d are left, and the cleaner may still be at work", len(records), len(left))
		}
		return nil
	})
	for _, r := range left {
		f.produced.Add(r)
	}
	t.Logf("of %d records %d are left", len(records), len(left))
	f.start(t, names...)
	f.register(t, nil)
	f.known.Clean = true
	f.awaitMore(t, len(left))
	f.finish(t)
}

func TestP5_AllCompressions(t *testing.T) {
	node, _ := nodeOf(t)
	f := together(t, node, partitions)
	random := rand.NewChaCha8([32]byte{5})
	for _, codec := range []kgo.CompressionCodec{
		kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(),
	} {
		kafka := gatewaytest.DialKafka(t, node.Brokers(), kgo.ProducerBatchCompression(codec))
		records := f.spread(300)
		for i, r := range records {
			if i%3 == 0 { // some that do not compress
				r.Value = make([]byte, 500)
				random.Read(r.Value)
			}
			r.Headers = []kgo.RecordHeader{{Key: "n", Value: fmt.Append(nil, i)}, {Key: "null"}}
		}
		kafka.Produce(t, f.produced, records...)
	}
	f.awaitMore(t, f.produced.Len())
	f.finish(t)
}

func TestP6_LargeRecords(t *testing.T) {
	const most = 16 << 20
	node, _ := nodeOf(t)
	f := together(t, node, 2, "max.message.bytes", fmt.Sprint(most))
	kafka := gatewaytest.DialKafka(t, node.Brokers(), kgo.ProducerBatchMaxBytes(most), kgo.BrokerMaxWriteBytes(2*most))
	random := rand.NewChaCha8([32]byte{6})
	var records []*kgo.Record
	for n, size := range []int{100, 1 << 20, 100, 10 << 20, 100, 1<<20 + 1, 3 << 20, 100} {
		for p := range int32(2) {
			value := make([]byte, size)
			random.Read(value)
			value[0] = 0xff
			records = append(records, &kgo.Record{Topic: f.topic, Partition: p, Key: fmt.Append(nil, n), Value: value})
		}
	}
	kafka.Produce(t, f.produced, records...)
	f.awaitMore(t, len(records))
	for _, d := range f.receiver.Deliveries(f.id) {
		for _, r := range d.Records {
			if r.Size > 1<<20 && len(d.Records) > 1 {
				t.Errorf("offset %d of %d bytes came with %d others, want it alone", r.Offset, r.Size, len(d.Records)-1)
			}
		}
	}
	f.finish(t)
}
