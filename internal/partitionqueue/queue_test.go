package partitionqueue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/records"
)

func TestCheckPassesWithThisClient(t *testing.T) {
	if err := Check(); err != nil {
		t.Fatalf("Check() = %v, want nil", err)
	}
}

// content is what of a record Kafka does not look at, its headers as name and value.
type content struct {
	Key, Value string
	Headers    []string
}

// text keeps null apart from empty.
func text(b []byte) string {
	if b == nil {
		return " is null"
	}
	return "=" + string(b)
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
			want := content{text(tc.record.Key), text(tc.record.Value), nil}
			for _, h := range tc.record.Headers {
				want.Headers = append(want.Headers, h.Key+text(h.Value))
			}
			got := content{text(b.Key(i)), text(b.Value(i)), nil}
			for j := range b.Headers(i) {
				name, value := b.Header(i, j)
				got.Headers = append(got.Headers, string(name)+text(value))
			}
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

func TestReadIsBoundedByItsLimit(t *testing.T) {
	const topic, count = "orders", 2*maxHaul + 500
	c := cluster(t, topic, 1)
	all := make([]*kgo.Record, count)
	for i := range all {
		all[i] = &kgo.Record{Topic: topic, Value: name(i)}
	}
	produce(t, c.ListenAddrs(), all...)
	_, queues := open(t, consumer(t, c.ListenAddrs()), topic, 0)
	q := queues[0]
	b := new(records.Batch)
	for at := 0; at < count; {
		for _, limit := range []int{1, 7, 0, maxHaul - 1, maxHaul + 3} {
			b.Reset()
			got, err := q.Read(b, limit)
			if err != nil {
				t.Fatal(err)
			}
			if got > limit || got != b.Len() {
				t.Fatalf("Read(limit %d) = %d with %d records appended", limit, got, b.Len())
			}
			for i := range got {
				if want := string(name(at)); string(b.Value(i)) != want {
					t.Fatalf("record %d is %q, want %q", at, b.Value(i), want)
				}
				at++
			}
			if got < limit && at < count {
				waitForWake(t, q)
			}
		}
	}
}

func TestErrorsKeepTheirPlaceAmongRecords(t *testing.T) {
	const topic = "orders"
	c := cluster(t, topic, 1)
	three := func() {
		t.Helper()
		for i := range 3 {
			produce(t, c.ListenAddrs(), &kgo.Record{Topic: topic, Value: name(i)})
		}
	}
	// fetchFrom counts the fetches that ask for records from an offset on: all before it has arrived.
	fetchFrom := func(offset int64) *kfake.FaultHandle {
		return c.Fault(kfake.Fault{
			Keys: []kmsg.Key{kmsg.Fetch}, Topic: topic, Observe: true, Count: -1,
			When: func(r kmsg.Request) bool {
				for _, topic := range r.(*kmsg.FetchRequest).Topics {
					for _, p := range topic.Partitions {
						if p.FetchOffset == offset {
							return true
						}
					}
				}
				return false
			},
		})
	}
	wait := func(h *kfake.FaultHandle) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := h.Wait(ctx, 1); err != nil {
			t.Fatalf("waiting for the client's fetch: %v", err)
		}
	}

	three()
	_, queues := open(t, consumer(t, c.ListenAddrs()), topic, 0)
	q := queues[0]
	wait(fetchFrom(3))
	wait(c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: topic, Err: kerr.TopicAuthorizationFailed}))
	three()
	wait(fetchFrom(6))

	// Three records, an error and three records cross at once.
	b := new(records.Batch)
	n, err := q.Read(b, 100)
	var failed *Error
	if !errors.As(err, &failed) || failed.Code != kafka.ErrTopicAuthorizationFailed || failed.Message == "" {
		t.Fatalf("Read: %v, want an *Error of code %v with a text", err, kafka.ErrTopicAuthorizationFailed)
	}
	if n != 3 {
		t.Fatalf("the error came behind %d records, want 3", n)
	}
	for limit, want := range []int{0, 1, 2} { // what is left is cut as well
		if n, err := q.Read(b, limit); n != want || err != nil {
			t.Fatalf("Read(limit %d) behind the error = %d, %v; want %d", limit, n, err, want)
		}
	}
	if n, err := q.Read(b, 100); n != 0 || err != nil {
		t.Fatalf("Read at the end = %d, %v; want 0", n, err)
	}
	for i := range b.Len() {
		if got := b.Records[i].Offset; got != int64(i) {
			t.Errorf("record %d has offset %d", i, got)
		}
	}
	if got := q.Position(); got != 6 {
		t.Errorf("Position() = %d, want 6", got)
	}
}

func TestPositionDoesNotSkipTheRecordBehindAnError(t *testing.T) {
	const topic = "orders"
	c := cluster(t, topic, 1)
	produce(t, c.ListenAddrs(), &kgo.Record{Topic: topic})
	_, queues := open(t, consumer(t, c.ListenAddrs()), topic, 0)
	q := queues[0]
	readN(t, q, 1)
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: topic, Err: kerr.TopicAuthorizationFailed})
	b := new(records.Batch)
	var err error
	for err == nil {
		waitForWake(t, q)
		_, err = q.Read(b, 1)
	}
	if got := q.Position(); got != 1 {
		t.Errorf("Position() = %d behind an error at offset 1, want 1: that record is still to come", got)
	}
	produce(t, c.ListenAddrs(), &kgo.Record{Topic: topic})
	readN(t, q, 1)
	if got := q.Position(); got != 2 {
		t.Errorf("Position() = %d once that record was read, want 2", got)
	}
}

func TestRecordsTheClientFetchesAgainArePassedOver(t *testing.T) {
	const again, fresh = 5, 5
	topic := "orders"
	c := cluster(t, topic, 1)
	write := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			produce(t, c.ListenAddrs(), &kgo.Record{Topic: topic, Headers: []kgo.RecordHeader{{Key: "h", Value: name(i)}}})
		}
	}
	write(0, again)
	client := consumer(t, c.ListenAddrs())
	_, queues := open(t, client, topic, 0)
	q := queues[0]
	readN(t, q, again)
	write(again, again+fresh)
	// The client goes back by itself after a rebalance; here it is made to.
	if err := client.Seek(kafka.TopicPartition{Topic: &topic, Offset: 0}, int(patience.Milliseconds())); err != nil {
		t.Fatal(err)
	}
	b := new(records.Batch)
	for b.Len() < fresh {
		waitForWake(t, q)
		if _, err := q.Read(b, 100); err != nil { // old and new cross together
			t.Fatal(err)
		}
	}
	for i := range b.Len() {
		if got, want := b.Records[i].Offset, int64(again+i); got != want {
			t.Fatalf("record %d has offset %d, want %d", i, got, want)
		}
		if _, value := b.Header(i, 0); string(value) != string(name(again+i)) {
			t.Errorf("record %d has the header of record %s", again+i, value)
		}
	}
}

// TestAPartitionGoesOnFromWhereItIsMoved: Close, the client's seek, Split, without
// unassigning anything. Records fetched before do not come any more, wherever they lie,
// and a rebalance, which pauses the partitions that stay and resumes them, does not
// take the partition back.
func TestAPartitionGoesOnFromWhereItIsMoved(t *testing.T) {
	const before, read, more, fresh = 200, 10, 10, 10
	topic := "orders"
	write := func(c *kfake.Cluster, n int) {
		t.Helper()
		var batch []*kgo.Record
		for range n {
			batch = append(batch, &kgo.Record{Topic: topic, Value: make([]byte, 100)})
		}
		produce(t, c.ListenAddrs(), batch...)
	}
	for name, to := range map[string]int64{"back": 3, "to the beginning": 0, "nowhere else": read, "forth": 190, "to the end": before} {
		for when, rebalance := range map[string][2]bool{"": {}, ", amid a rebalance": {true, false}, ", before a rebalance": {false, true}} {
			t.Run(name+when, func(t *testing.T) {
				c := cluster(t, topic, 1)
				write(c, before)
				client := consumer(t, c.ListenAddrs(), "statistics.interval.ms=50")
				qs, queues := open(t, client, topic, 0)
				readN(t, queues[0], read)
				queues[0].Close()
				write(c, more) // which the client fetches all the same
				await(t, "the client to have fetched on", func() bool { return prefetched(t, client, topic) > 0 })
				at := []kafka.TopicPartition{{Topic: &topic, Offset: kafka.Offset(to)}}
				check := func(err error) {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
				}
				if rebalance[0] {
					check(client.Pause(at))
				}
				moved, err := client.SeekPartitions(at)
				if err != nil || moved[0].Error != nil {
					t.Fatalf("seeking: %v, %v", moved, err)
				}
				q, err := qs.Split(topic, 0)
				check(err)
				if rebalance[1] {
					check(client.Pause(at))
				}
				if rebalance != [2]bool{} {
					check(client.Resume(at))
				}
				write(c, fresh)
				b := readN(t, q, int(before+more+fresh-to))
				for i := range b.Len() {
					if got, want := b.Records[i].Offset, to+int64(i); got != want {
						t.Fatalf("record %d after the move has offset %d, want %d", i, got, want)
					}
				}
				if got := q.Position(); got != before+more+fresh {
					t.Errorf("Position() = %d, want the end %d", got, before+more+fresh)
				}
			})
		}
	}
}

func TestAClosedQueueIsLeftAlone(t *testing.T) {
	const topic = "orders"
	c := cluster(t, topic, 2)
	produce(t, c.ListenAddrs(), &kgo.Record{Topic: topic})
	client := consumer(t, c.ListenAddrs())
	qs, queues := open(t, client, topic, 0, 1)
	readN(t, queues[0], 1)

	closed := func(q *Queue) {
		t.Helper()
		if n, err := q.Read(new(records.Batch), 1); n != 0 || !errors.Is(err, ErrClosed) {
			t.Errorf("Read of a closed queue = %d, %v; want %v", n, err, ErrClosed)
		}
		if got := q.Position(); got != -1 {
			t.Errorf("Position() of a closed queue = %d, want -1", got)
		}
		q.Close()
	}
	queues[0].Close()
	closed(queues[0])
	qs.Close() // takes the other with it
	closed(queues[1])
	if _, err := qs.Split(topic, 0); !errors.Is(err, ErrClosed) {
		t.Errorf("Split after Close: %v, want %v", err, ErrClosed)
	}
	if got := qs.Generation(); got != -1 {
		t.Errorf("Generation() after Close = %d, want -1", got)
	}
	qs.Close()
	if err := client.Close(); err != nil {
		t.Errorf("closing the consumer: %v", err)
	}
	if _, err := Open(client); err == nil {
		t.Error("Open of a closed consumer gave no error")
	}
}

func TestNothingIsKeptOfARevokedPartition(t *testing.T) {
	topic := "orders"
	c := cluster(t, topic, 1)
	for range 50 {
		produce(t, c.ListenAddrs(), &kgo.Record{Topic: topic, Value: make([]byte, 1000)})
	}
	client := consumer(t, c.ListenAddrs(), "statistics.interval.ms=50", "partition.assignment.strategy=cooperative-sticky")
	qs, err := Open(client)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(qs.Close)
	var q *Queue
	err = client.Subscribe(topic, func(_ *kafka.Consumer, e kafka.Event) error {
		switch e := e.(type) {
		case kafka.AssignedPartitions:
			if q, err = qs.Split(topic, 0); err != nil {
				return err
			}
			return client.IncrementalAssign([]kafka.TopicPartition{{Topic: &topic, Offset: 0}})
		case kafka.RevokedPartitions:
			q.Close()
			return client.IncrementalUnassign(e.Partitions)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the client to have prefetched", func() bool { return prefetched(t, client, topic) >= 50_000 })
	if err := client.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	await(t, "the client to have let go of what it had prefetched", func() bool { return prefetched(t, client, topic) == 0 })
}

// prefetched polls until the client tells how many bytes of partition 0 wait in its queue.
func prefetched(t *testing.T, client *kafka.Consumer, topic string) int {
	t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		e, ok := client.Poll(50).(*kafka.Stats)
		if !ok {
			continue
		}
		var stats struct {
			Topics map[string]struct {
				Partitions map[string]struct {
					Queued int `json:"fetchq_size"`
				}
			}
		}
		if err := json.Unmarshal([]byte(e.String()), &stats); err != nil {
			t.Fatal(err)
		}
		return stats.Topics[topic].Partitions["0"].Queued
	}
	t.Fatalf("no statistics in %v", patience)
	return 0
}

func TestGenerationIsTheGroups(t *testing.T) {
	const topic = "orders"
	c := cluster(t, topic, 1)
	client := consumer(t, c.ListenAddrs())
	qs, err := Open(client)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(qs.Close)
	if got := qs.Generation(); got != -1 {
		t.Errorf("Generation() before joining = %d, want -1", got)
	}
	inCallback := make(chan int32, 1)
	err = client.Subscribe(topic, func(client *kafka.Consumer, e kafka.Event) error {
		if _, ok := e.(kafka.AssignedPartitions); ok {
			inCallback <- qs.Generation()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for len(inCallback) == 0 && time.Now().Before(deadline) {
		client.Poll(50)
	}
	select {
	case got := <-inCallback:
		if got != 1 {
			t.Errorf("Generation() in the assign callback = %d, want 1, the new one", got)
		}
	default:
		t.Fatal("no assignment")
	}
	if got := qs.Generation(); got != 1 {
		t.Errorf("Generation() = %d, want 1", got)
	}
}
