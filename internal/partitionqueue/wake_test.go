package partitionqueue

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/records"
)

// listener is the wake-up side of Queues without a client: free slots are nil.
func listener(t *testing.T, slots ...*Queue) *Queues {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	q := &Queues{read: read, write: write, done: make(chan struct{}), slots: slots}
	if err := control(write, func(fd uintptr) { q.fd = fd }); err != nil {
		t.Fatal(err)
	}
	return q
}

func sleeper() *Queue { return &Queue{wake: make(chan struct{}, 1)} }

// woken are the queues that a listener over this pipe has woken by its end.
func woken(q *Queues) []bool {
	_ = q.write.Close()
	q.listen()
	_ = q.read.Close()
	var woken []bool
	for _, s := range q.slots {
		woken = append(woken, s != nil && len(s.wake) == 1)
	}
	return woken
}

// ring writes one wake-up the way the C library does.
func ring(q *Queues, slot uint32) error {
	_, err := syscall.Write(int(q.fd), binary.NativeEndian.AppendUint32(nil, slot))
	return err
}

func TestWakeUpReachesItsQueueAlone(t *testing.T) {
	q := listener(t, sleeper(), nil, sleeper(), sleeper())
	for _, slot := range []uint32{2, 2, 1, 99} { // twice; for a queue that is gone; for a slot that is
		if err := ring(q, slot); err != nil {
			t.Fatal(err)
		}
	}
	got := woken(q)
	for i, want := range []bool{false, false, true, false} {
		if got[i] != want {
			t.Errorf("slot %d woken = %v, want %v", i, got[i], want)
		}
	}
}

func TestWakeUpDroppedByAFullPipeIsNotLost(t *testing.T) {
	q := listener(t, sleeper(), sleeper())
	var err error
	for err == nil {
		err = ring(q, 0)
	}
	if !errors.Is(err, syscall.EAGAIN) {
		t.Fatalf("writing to a full pipe: %v, want %v: the client's thread must not block", err, syscall.EAGAIN)
	}
	if err := ring(q, 1); !errors.Is(err, syscall.EAGAIN) { // this one is dropped
		t.Fatalf("writing to a full pipe: %v, want %v", err, syscall.EAGAIN)
	}
	if got := woken(q); !got[1] {
		t.Error("the queue whose wake-up was dropped was not woken")
	}
}

func TestNoWakeUpIsLost(t *testing.T) {
	const topic, partitions, rounds = "orders", 8, 100
	c := cluster(t, topic, partitions)
	qs, queues := open(t, consumer(t, c.ListenAddrs()), topic, 0, 1, 2, 3, 4, 5, 6, 7)

	// Readers sleep on Wake alone; a record is produced once the one before it
	// was read, so each has to be woken for.
	read := make(chan int32)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for p, q := range queues {
		readers.Go(func() {
			b := new(records.Batch)
			for {
				b.Reset()
				n, err := q.Read(b, 10)
				if err != nil {
					t.Errorf("partition %d: %v", p, err)
					return
				}
				for range n {
					select {
					case read <- int32(p):
					case <-stop:
						return
					}
				}
				if n == 10 {
					continue
				}
				select {
				case <-q.Wake():
				case <-stop:
					return
				}
			}
		})
	}
	client, err := kgo.NewClient(append(producer(c.ListenAddrs()...), kgo.ProducerLinger(0))...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for range rounds {
		for p := range int32(partitions) {
			client.Produce(t.Context(), &kgo.Record{Topic: topic, Partition: p}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Errorf("producing: %v", err)
				}
			})
		}
		for range partitions {
			select {
			case <-read:
			case <-time.After(patience):
				t.Fatal("a record is there and its reader was not woken")
			}
		}
	}
	// Records may be read before the broker's answer has come to their producer.
	if err := client.Flush(t.Context()); err != nil {
		t.Errorf("waiting for the producer: %v", err)
	}
	close(stop)
	readers.Wait()
	qs.Close()
}

// TestQueuesComeAndGoUnderLoad takes partitions on and gives them back while
// records pour in, each time from where the last reader stood.
func TestQueuesComeAndGoUnderLoad(t *testing.T) {
	const rounds = 25
	topic := "orders"
	c := cluster(t, topic, 3)
	producing := make(chan struct{})
	var load sync.WaitGroup
	load.Go(func() {
		client, err := kgo.NewClient(producer(c.ListenAddrs()...)...)
		if err != nil {
			t.Error(err)
			return
		}
		defer client.Close()
		for {
			select {
			case <-producing:
				return
			default:
			}
			var burst []*kgo.Record
			for i := range 300 {
				burst = append(burst, &kgo.Record{Topic: topic, Partition: int32(i % 3), Value: make([]byte, 100)})
			}
			if err := client.ProduceSync(t.Context(), burst...).FirstErr(); err != nil {
				t.Errorf("producing: %v", err)
				return
			}
		}
	})
	defer load.Wait()
	defer close(producing)

	client := consumer(t, c.ListenAddrs())
	qs, err := Open(client)
	if err != nil {
		t.Fatal(err)
	}
	defer qs.Close()
	next := [3]int64{}
	for round := range rounds {
		var assignment []kafka.TopicPartition
		var queues [3]*Queue
		for p := range queues {
			if queues[p], err = qs.Split(topic, int32(p)); err != nil {
				t.Fatal(err)
			}
			assignment = append(assignment, kafka.TopicPartition{Topic: &topic, Partition: int32(p), Offset: kafka.Offset(next[p])})
		}
		if err := client.IncrementalAssign(assignment); err != nil {
			t.Fatal(err)
		}
		var readers sync.WaitGroup
		for p, q := range queues {
			readers.Go(func() {
				b := new(records.Batch)
				for want := next[p] + 200; next[p] < want; {
					b.Reset()
					n, err := q.Read(b, 64)
					if err != nil {
						t.Errorf("round %d, partition %d: %v", round, p, err)
						return
					}
					for i := range n {
						if got := b.Records[i].Offset; got != next[p] {
							t.Errorf("round %d, partition %d: record %d, want %d", round, p, got, next[p])
							return
						}
						next[p]++
					}
					if n == 64 {
						continue
					}
					select {
					case <-q.Wake():
					case <-time.After(patience):
						t.Errorf("round %d, partition %d: no wake-up", round, p)
						return
					}
				}
				// Closing from elsewhere while a reader reads must be safe too.
				closed := make(chan struct{})
				go func() {
					defer close(closed)
					q.Close()
				}()
				for err := error(nil); err == nil; {
					b.Reset()
					_, err = q.Read(b, 64)
				}
				<-closed
			})
		}
		readers.Wait()
		if t.Failed() {
			return
		}
		if err := client.IncrementalUnassign(assignment); err != nil {
			t.Fatal(err)
		}
	}
	if e := client.Poll(0); e != nil {
		t.Errorf("Poll gave %v, want nothing", e)
	}
}
