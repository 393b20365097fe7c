package groupmanager

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpush/kpush/webhooks"
)

// TestT15_ReceivedAndNeverAcked is a line of the checklist for outbound requests: a
// receiver that takes everything and acks nothing, as "explicit" makes of every 2xx.
// What is not acked in time comes again as the next attempt, and what is open stays
// within the window, however long that goes on.
func TestT15_ReceivedAndNeverAcked(t *testing.T) {
	const (
		inFlight = 4
		timeout  = 30 * time.Second
		records  = 10_000
	)
	for name, test := range map[string]struct {
		change func(*webhooks.Webhook)
		open   int // deliveries at most
	}{
		"ordered": {func(w *webhooks.Webhook) { w.Batch.MaxRecords = 1 }, 1},
		"without order": {func(w *webhooks.Webhook) {
			w.Ordering, w.MaxInFlight, w.Batch.MaxRecords = webhooks.OrderingNone, inFlight, 1
		}, windowFactor * inFlight},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, received, test.change, func(w *webhooks.Webhook) {
					w.Ack.TimeoutMs, w.Retry.InitialBackoffMs, w.Retry.MaxBackoffMs = int(timeout.Milliseconds()), 1, 1
				})
				for o := range int64(records) {
					r.queue.put(o)
				}
				r.start(t)
				time.Sleep(time.Hour)
				synctest.Wait()
				attempts := map[int64]int{}
				last := map[int64]time.Time{}
				for _, q := range r.receiver.seen() {
					if q.Number != attempts[q.first]+1 {
						t.Fatalf("%d came as attempt %d after %d", q.first, q.Number, attempts[q.first])
					}
					if gap := q.Now.Sub(last[q.first]); q.Number > 1 && gap < timeout {
						t.Fatalf("%d came again after %v, want its lease of %v over", q.first, gap, timeout)
					}
					attempts[q.first], last[q.first] = q.Number, q.Now
				}
				if len(attempts) > test.open || attempts[0] < 100 {
					t.Errorf("%d deliveries are open, the first after %d attempts; want %d at most, and attempts for an hour", len(attempts), attempts[0], test.open)
				}
				r.queue.mu.Lock()
				left := len(r.queue.pending)
				r.queue.mu.Unlock()
				if most := 2 * webhooks.Default().Fetch.PrefetchRecords; records-left > most {
					t.Errorf("%d records were taken from the client, want %d at most", records-left, most)
				}
				r.wantSafe(t, 0)
			})
		})
	}
}
