package groupmanager

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// strict wants JSON. What the rig's queue has for values, "value", is none; json makes
// those of some offsets JSON.
func strict(policy string) func(*webhooks.Webhook) {
	return func(w *webhooks.Webhook) {
		w.Batch.MaxRecords, w.Format.Value, w.OnUndecodable, w.DeadLetter.Topic = 8, "json", policy, new("dead")
	}
}

// broken is a writer of dead letters that never can.
type broken struct{ writes atomic.Int32 }

func (b *broken) Write(context.Context, deadLetter) error {
	b.writes.Add(1)
	return errors.New("no broker")
}

func TestValuesThatAreNotJSON(t *testing.T) {
	notJSON := func(offsets ...int64) func(*rig) {
		return func(r *rig) { r.queue.damaged = offsets }
	}
	run := func(t *testing.T, policy string, prepare func(*rig), after func(*testing.T, *rig)) {
		t.Helper()
		bubble(t, func(t *testing.T) {
			r := newRig(t, acked, strict(policy))
			prepare(r)
			r.queue.put(0, 1, 2, 3, 4, 5, 6, 7)
			r.start(t)
			after(t, r)
		})
	}
	t.Run("go as base64", func(t *testing.T) {
		run(t, webhooks.OnUndecodableBase64, notJSON(3), func(t *testing.T, r *rig) {
			r.wantSafe(t, 8)
			r.wantRequests(t, [2]int64{0, 7})
		})
	})
	t.Run("are skipped, and what is around them is delivered", func(t *testing.T) {
		run(t, webhooks.OnUndecodableSkip, notJSON(3, 4), func(t *testing.T, r *rig) {
			r.wantSafe(t, 8)
			r.wantRequests(t, [2]int64{0, 2}, [2]int64{5, 7})
		})
	})
	t.Run("are dead-lettered before what follows is delivered", func(t *testing.T) {
		dead := &keep{}
		run(t, webhooks.OnUndecodableDeadLetter, func(r *rig) {
			notJSON(0)(r)
			r.lane.senders.dead = dead
		}, func(t *testing.T, r *rig) {
			r.wantSafe(t, 8)
			r.wantRequests(t, [2]int64{1, 7})
			if len(dead.offsets) != 1 || dead.offsets[0] != 0 || dead.details[0] != "undecodable: the value is not JSON, so the record was not sent" {
				t.Errorf("dead letters %v with %q, want record 0 with its reason", dead.offsets, dead.details)
			}
		})
	})
	t.Run("hold the partition while they cannot be written", func(t *testing.T) {
		run(t, webhooks.OnUndecodableDeadLetter, func(r *rig) {
			notJSON(7)(r)
			r.letters.err = errors.New("no broker")
		}, func(t *testing.T, r *rig) {
			time.Sleep(time.Minute)
			r.wantSafe(t, 7)
		})
	})
	t.Run("are not written again and again where that fails", func(t *testing.T) {
		dead := &broken{}
		run(t, webhooks.OnUndecodableDeadLetter, func(r *rig) {
			notJSON(7)(r)
			r.lane.senders.dead = dead
		}, func(t *testing.T, r *rig) {
			time.Sleep(time.Hour)
			if n := dead.writes.Load(); n < 60 || n > 300 { // two minutes of growing backoff, then every 30 s in the mean
				t.Errorf("%d writes in an hour, want about 120", n)
			}
		})
	})
	t.Run("block, and nothing of them is sent", func(t *testing.T) {
		run(t, webhooks.OnUndecodableBlock, notJSON(3), func(t *testing.T, r *rig) {
			time.Sleep(time.Hour)
			r.wantSafe(t, 3)
			r.wantRequests(t, [2]int64{0, 2})
			if s, _ := r.inspect(t.Context()); s.State != PartitionBlocked || s.LastError == nil || s.LastError.Code != delivery.CodeUndecodable {
				t.Errorf("%s with %+v, want blocked because of the value", s.State, s.LastError)
			}
		})
	})
	t.Run("are held beyond the budget", func(t *testing.T) {
		run(t, webhooks.OnUndecodableSkip, notJSON(1, 3, 5), func(t *testing.T, r *rig) {
			r.wantSafe(t, 3)
			if s, _ := r.inspect(t.Context()); s.State != PartitionBlocked || s.LastError.Code != codeExhaustionHeld {
				t.Errorf("%s with %+v, want it held", s.State, s.LastError)
			}
			time.Sleep(61 * time.Second)
			r.wantSafe(t, 5)
			time.Sleep(time.Minute)
			r.wantSafe(t, 8)
		})
	})
	t.Run("all of them", func(t *testing.T) {
		run(t, webhooks.OnUndecodableSkip, notJSON(0, 1, 2, 3, 4, 5, 6, 7), func(t *testing.T, r *rig) {
			r.wantSafe(t, 8)
			r.wantRequests(t)
		})
	})
	t.Run("hold nobody without order", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, acked, strict(webhooks.OnUndecodableBlock), func(w *webhooks.Webhook) {
				w.Ordering, w.MaxInFlight = webhooks.OrderingNone, 3
			})
			r.queue.damaged = []int64{2}
			r.queue.put(0, 1, 2, 3, 4, 5, 6, 7, 8)
			r.start(t)
			time.Sleep(time.Second)
			r.wantSafe(t, 2)
			if seen := r.receiver.seen(); len(seen) != 3 {
				t.Errorf("%d requests, want those before, behind it, and of the next batch", len(seen))
			}
		})
	})
}
