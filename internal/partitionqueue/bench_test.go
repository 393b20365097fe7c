package partitionqueue

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/kafkanode"
	"github.com/kpush/kpush/internal/records"
)

// BenchmarkRead measures what reading costs of a processor, the client's own
// threads and their decoding included, against the binding's Poll. Compare only
// what ran in the same minute, with the broker on another processor:
//
//	KPUSH_KAFKA_CPU=1 taskset -c 0 go test -bench Read -benchtime 5x ./internal/partitionqueue
func BenchmarkRead(b *testing.B) {
	for _, size := range []int{200, 1000} {
		topic := fmt.Sprintf("bench-%d", size)
		count := 100_000_000 / size
		kafkanode.Require(b)
		fill(b, topic, count, size)
		b.Run(fmt.Sprintf("%d-bytes/queue", size), func(b *testing.B) { measure(b, topic, count, readQueue) })
		b.Run(fmt.Sprintf("%d-bytes/poll", size), func(b *testing.B) { measure(b, topic, count, readPoll) })
	}
}

func fill(b *testing.B, topic string, count, size int) {
	brokers := node.Node(b).Brokers()
	admin(b, brokers, topic, 1)
	client, err := kgo.NewClient(append(producer(brokers), kgo.ProducerBatchCompression(kgo.NoCompression()))...)
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	value := make([]byte, size)
	for range count {
		client.Produce(b.Context(), &kgo.Record{Topic: topic, Key: value[:8], Value: value[8:]}, func(_ *kgo.Record, err error) {
			if err != nil {
				b.Errorf("producing: %v", err)
			}
		})
	}
	if err := client.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// measure reads a whole topic, of which a benchmark's iteration is one reading.
func measure(b *testing.B, topic string, count int, read func(b *testing.B, topic string, count int)) {
	var before, after syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	for b.Loop() {
		read(b, topic, count)
	}
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	used := cpuTime(after) - cpuTime(before)
	b.ReportMetric(float64(used.Nanoseconds())/float64(b.N*count), "cpu-ns/record")
	b.ReportMetric(float64(b.N*count)/b.Elapsed().Seconds(), "records/s")
}

func cpuTime(r syscall.Rusage) time.Duration {
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// benchConsumer has the prefetch of a webhook.
func benchConsumer(b *testing.B) *kafka.Consumer {
	return consumer(b, []string{node.Node(b).Brokers()}, "fetch.wait.max.ms=500", "max.partition.fetch.bytes=1048576",
		"queued.min.messages=1000", "queued.max.messages.kbytes=4096")
}

func readQueue(b *testing.B, topic string, count int) {
	client := benchConsumer(b)
	qs, queues := open(b, client, topic, 0)
	batch := records.Get()
	defer batch.Free()
	for n := 0; n < count; {
		batch.Reset()
		got, err := queues[0].Read(batch, 100)
		if err != nil {
			b.Fatal(err)
		}
		if n += got; got < 100 && n < count {
			waitForWake(b, queues[0])
		}
	}
	qs.Close()
	_ = client.Close()
}

func readPoll(b *testing.B, topic string, count int) {
	client := benchConsumer(b)
	if err := client.Assign([]kafka.TopicPartition{{Topic: &topic, Offset: 0}}); err != nil {
		b.Fatal(err)
	}
	batch := records.Get()
	defer batch.Free()
	for n := 0; n < count; {
		m, ok := client.Poll(1000).(*kafka.Message)
		if !ok {
			continue
		}
		if n++; n%100 == 0 {
			batch.Reset()
		}
		batch.Append(records.Record{Offset: int64(m.TopicPartition.Offset)}, m.Key, m.Value)
	}
	_ = client.Close()
}
