package gatewaytest

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Load describes many records.
type Load struct {
	Topic      string
	Partitions int32
	Records    int     // 0: until it is stopped
	Size       int     // of a value, in bytes; at least 8
	Rate       float64 // records per second; 0: as fast as the broker takes them
}

// ProduceLoad spreads the records evenly over the partitions and waits for the
// broker to confirm them. Values are bytes that are no JSON and no UTF-8, a new
// one each time; keys are text.
func (k *Kafka) ProduceLoad(t testing.TB, into *Produced, load Load) {
	t.Helper()
	if err := k.produceLoad(context.Background(), into, load); err != nil {
		t.Fatalf("producing to %s: %v", load.Topic, err)
	}
}

// Flow is a load that is being produced.
type Flow struct {
	stop context.CancelFunc
	done chan struct{}
	err  error // set when done is closed
}

// StartLoad produces as ProduceLoad does and does not wait. It is stopped when the
// test ends, at the latest.
func (k *Kafka) StartLoad(t testing.TB, into *Produced, load Load) *Flow {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	f := &Flow{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		f.err = k.produceLoad(ctx, into, load)
	}()
	t.Cleanup(func() {
		stop()
		k.client.PurgeTopicsFromProducing(load.Topic) // what no broker takes any more
		<-f.done
	})
	return f
}

// Stop ends the load and waits until the broker has confirmed all of it.
func (f *Flow) Stop(t testing.TB) {
	t.Helper()
	f.stop()
	select {
	case <-f.done:
	case <-time.After(2 * brokerPatience):
		t.Fatalf("the load was not confirmed within %v", 2*brokerPatience)
	}
	if f.err != nil {
		t.Fatalf("producing a load: %v", f.err)
	}
}

// produceLoad produces until the load is complete or ctx ends, and returns when all
// that was sent is confirmed.
func (k *Kafka) produceLoad(ctx context.Context, into *Produced, load Load) error {
	var (
		pending sync.WaitGroup
		mu      sync.Mutex
		failed  error
	)
	// Values are cut from one noisy page at different places: telling two
	// records apart needs no new noise for each.
	noise := make([]byte, 2*load.Size)
	source := rand.NewChaCha8([32]byte{1})
	source.Read(noise)
	start := time.Now()
	for n := 0; (load.Records == 0 || n < load.Records) && ctx.Err() == nil; n++ {
		if load.Rate > 0 {
			pace(start, n, load.Rate)
		}
		value := make([]byte, load.Size)
		copy(value, noise[n%load.Size:])
		binary.BigEndian.PutUint64(value, uint64(n)|0xff<<56)
		record := &kgo.Record{
			Topic: load.Topic, Partition: int32(n) % load.Partitions,
			Key: fmt.Appendf(nil, "key-%d", n), Value: value,
		}
		pending.Add(1)
		k.client.Produce(context.Background(), record, func(r *kgo.Record, err error) {
			defer pending.Done()
			if err == nil {
				into.Add(r)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			failed = err
		})
	}
	pending.Wait()
	return failed
}

// pace waits until record n of a load is due.
func pace(start time.Time, n int, rate float64) {
	due := start.Add(time.Duration(float64(n) / rate * float64(time.Second)))
	if wait := time.Until(due); wait > 0 {
		time.Sleep(wait)
	}
}
