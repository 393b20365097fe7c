package groupmanager

import (
	"context"
	"testing"

	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// spring is a queue that never runs dry.
type spring struct {
	next  int64
	value []byte
	wake  chan struct{}
}

func (s *spring) Read(dst *records.Batch, most int) (int, error) {
	for range most {
		dst.Append(records.Record{Offset: s.next, Timestamp: 1}, nil, s.value)
		s.next++
	}
	return most, nil
}

func (s *spring) Wake() <-chan struct{} { return s.wake }
func (s *spring) Position() int64       { return s.next }

// nowhere takes deliveries and sends nothing; stop is closed after the n-th.
type nowhere struct {
	*delivery.Client
	left int
	stop chan struct{}
}

func (r *nowhere) Send(context.Context, *delivery.Message, delivery.Attempt) delivery.Result {
	r.left--
	if r.left == 0 {
		close(r.stop)
	}
	return delivery.Result{Verdict: delivery.Acked, Status: 200}
}

// BenchmarkLane is what a delivery costs on its way through a partition, encoding
// included and the network not.
func BenchmarkLane(b *testing.B) {
	for _, c := range []struct {
		name        string
		size, batch int
	}{{"1KBx1", 1024, 1}, {"1KBx100", 1024, 100}, {"200Bx100", 200, 100}} {
		b.Run(c.name, func(b *testing.B) {
			n := max(1, b.N/c.batch) // b.N counts records
			out := &nowhere{left: n, stop: make(chan struct{})}
			r := newRig(b, nil, func(w *webhooks.Webhook) { w.Batch.MaxRecords = c.batch })
			out.Client = r.receiver.Client
			r.lane.client, r.lane.senders.client = out, out
			value := make([]byte, c.size)
			for i := range value {
				value[i] = byte(i*7) | 0x80
			}
			r.fetch.source = &spring{value: value, wake: make(chan struct{})}
			b.ReportAllocs()
			b.ResetTimer()
			r.start(b)
			<-out.stop
			b.StopTimer()
		})
	}
}
