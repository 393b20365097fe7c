package groupmanager

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// badIs answers 400 to whatever has that offset in it.
func badIs(bad int64) func(context.Context, request) delivery.Result {
	return func(ctx context.Context, q request) delivery.Result {
		if q.first <= bad && bad <= q.last {
			return delivery.Result{Verdict: delivery.Failed, Status: 400, Code: "http_400"}
		}
		return acked(ctx, q)
	}
}

func TestWhatIsBeyondTheBudgetIsHeld(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, refused, func(w *webhooks.Webhook) {
			w.Batch.MaxRecords, w.OnExhausted, w.Retry.MaxAttempts = 1, webhooks.OnExhaustedSkip, 1
			w.Retry.MaxBackoffMs = 3_600_000
		})
		r.queue.put(0, 1, 2)
		r.start(t)
		r.wantSafe(t, 1) // the first is free
		time.Sleep(30 * time.Second)
		r.wantSafe(t, 1)
		s, _ := r.inspect(t.Context())
		if s.State != PartitionBlocked || s.LastError == nil || s.LastError.Code != codeExhaustionHeld || s.LastError.Status != 500 {
			t.Errorf("%s with %+v, want blocked with %s", s.State, s.LastError, codeExhaustionHeld)
		}
		time.Sleep(31 * time.Second)
		r.wantSafe(t, 2)
		time.Sleep(time.Minute)
		r.wantSafe(t, 3)
		if n := len(r.receiver.seen()); n != 5 {
			t.Errorf("%d requests, want one of the first and two of the others", n)
		}
	})
}

func TestWhatIsHeldIsDeliveredIfTheReceiverTakesItMeanwhile(t *testing.T) {
	bubble(t, func(t *testing.T) {
		began := time.Now()
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			if time.Since(began) < 10*time.Second {
				return refused(ctx, q)
			}
			return acked(ctx, q)
		}, func(w *webhooks.Webhook) {
			w.Batch.MaxRecords, w.OnExhausted, w.Retry.MaxAttempts = 1, webhooks.OnExhaustedSkip, 1
			w.Retry.MaxBackoffMs = 20_000
		})
		r.queue.put(0, 1)
		r.start(t)
		time.Sleep(time.Minute)
		r.wantSafe(t, 2)
		seen := r.wantRequests(t, [2]int64{0, 0}, [2]int64{1, 1}, [2]int64{1, 1})
		if got := seen[2].Now.Sub(began); got != 20*time.Second {
			t.Errorf("tried again after %v, want the longest backoff", got)
		}
	})
}

func TestABadRecordThatBlocksHasItsNeighboursBeforeItDelivered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, badIs(5), func(w *webhooks.Webhook) { w.Batch.MaxRecords = 8 })
		r.queue.put(0, 1, 2, 3, 4, 5, 6, 7)
		r.start(t)
		r.wantSafe(t, 5)
		r.wantRequests(t, [2]int64{0, 7}, [2]int64{0, 3}, [2]int64{4, 7}, [2]int64{4, 5}, [2]int64{4, 4}, [2]int64{5, 5})
	})
}

func TestWithoutOrderABadRecordHoldsNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, badIs(5), func(w *webhooks.Webhook) {
			w.Batch.MaxRecords, w.MaxInFlight, w.Ordering = 8, 4, webhooks.OrderingNone
		})
		r.queue.put(0, 1, 2, 3, 4, 5, 6, 7, 8)
		r.start(t)
		time.Sleep(time.Minute)
		r.wantSafe(t, 5)
		times := map[int64]int{}
		for _, q := range r.receiver.seen() {
			for o := q.first; o <= q.last && (q.first > 5 || q.last < 5); o++ {
				times[o]++
			}
		}
		for o := range int64(9) {
			if want := map[bool]int{true: 0, false: 1}[o == 5]; times[o] != want {
				t.Errorf("record %d was taken %d times, want %d", o, times[o], want)
			}
		}
	})
}

// All that is known while everything fails is that everything fails: a batch is cut on the
// way to its first record, at the pace of its backoff, and then waits.
func TestAnOutageDoesNotShatterABatch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		heal := make(chan struct{})
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			select {
			case <-heal:
				return acked(ctx, q)
			default:
				return refused(ctx, q)
			}
		}, func(w *webhooks.Webhook) { w.Batch.MaxRecords = 100 })
		for o := range int64(100) {
			r.queue.put(o)
		}
		r.start(t)
		time.Sleep(time.Hour)
		synctest.Wait()
		sent := len(r.receiver.seen())
		if sent > 200 {
			t.Errorf("%d requests in an hour of 500, want the pace of the backoff", sent)
		}
		close(heal)
		time.Sleep(2 * time.Minute)
		r.wantSafe(t, 100)
		if n := len(r.receiver.seen()) - sent; n > 8 {
			t.Errorf("%d requests after it had healed, want 8 at most", n)
		}
	})
}
