package groupmanager

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// expire lets the lease end in a while from now.
func (r *rig) expire(in time.Duration) {
	end := time.Now().Add(in)
	r.lease.until.Store(&end)
}

func TestNothingIsSentWithoutALease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked)
		r.expire(0)
		r.queue.put(0)
		r.start(t)
		time.Sleep(time.Minute)
		r.wantRequests(t)
		r.expire(time.Hour)
		time.Sleep(leaseLook)
		r.wantRequests(t, [2]int64{0, 0}) // it looked by itself
	})
}

// The lease is renewed right after the partition has found it over. Looked at again
// for the timer it held: nothing was armed, and what had been read about waited for
// the next record of a quiet topic.
func TestALeaseThatComesBackAtOnceIsNoticed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked)
		defer r.receiver.Close()
		defer r.partition.end()
		timer := time.NewTimer(time.Hour)
		r.queue.put(0)
		r.expire(0)
		held := r.pump()
		r.expire(time.Hour)
		r.arm(timer, held)
		start := time.Now()
		<-timer.C
		if took := time.Since(start); took != leaseLook {
			t.Errorf("looked again after %v, want %v", took, leaseLook)
		}
		if r.pump() {
			t.Error("held though there is a lease")
		}
		r.wantRequests(t, [2]int64{0, 0})
	})
}

func TestNothingIsSentAgainAfterTheLease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, refused)
		r.expire(10 * time.Second)
		r.queue.put(0)
		r.start(t)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		sent := len(r.receiver.seen())
		time.Sleep(time.Hour)
		if now := len(r.receiver.seen()); sent < 2 || now != sent {
			t.Errorf("%d attempts in the lease and %d after it, want some and no more", sent, now-sent)
		}
	})
}

func TestAVerdictAfterTheLeaseStillCounts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			time.Sleep(2 * time.Second)
			return acked(ctx, q)
		}, func(w *webhooks.Webhook) { w.Batch.MaxRecords = 1 })
		r.expire(time.Second)
		r.queue.put(0, 1)
		r.start(t)
		time.Sleep(time.Minute)
		r.wantRequests(t, [2]int64{0, 0})
		r.wantSafe(t, 1)
	})
}

func TestAnAckAfterTheLeaseHasNoOwner(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, received)
		r.expire(time.Second)
		r.queue.put(0)
		r.start(t)
		time.Sleep(time.Second)
		whole := ask{statement: acker.Statement{First: 0, Last: 0, UpTo: 0}}
		if _, err := r.ask(t.Context(), whole); !errors.Is(err, ErrNoOwner) {
			t.Errorf("ack after the lease: %v, want no owner", err)
		}
		r.wantSafe(t, 0)
		r.expire(time.Second)
		if back := r.tell(t, whole); back.err != nil {
			t.Errorf("ack with a lease again: %v, want it to count", back.err)
		}
		r.wantSafe(t, 1)
	})
}

// The assignment is lost, and the partition has not heard of it yet. An ack that waits
// for its commit was refused by the committer; what waits for none was answered, with
// 2xx, by an owner that was none any more.
func TestAStatementAfterTheLossHasNoOwner(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, received)
		r.queue.put(0)
		r.start(t)
		synctest.Wait()
		c := newCommitter(nil, nil, nil, nil)
		c.begin(r.tenure)
		c.drop([]*tenure{r.tenure})
		for _, outcome := range []acker.Outcome{acker.Ack, acker.Nack, acker.Extend} {
			a := ask{statement: acker.Statement{Outcome: outcome, First: 0, Last: 0, UpTo: 0}, extend: time.Minute}
			if back, err := r.ask(t.Context(), a); !errors.Is(err, ErrNoOwner) {
				t.Errorf("%v: %+v, %v, want no owner", outcome, back, err)
			}
		}
		r.wantSafe(t, 0)
		if s, _ := r.inspect(t.Context()); s.State != PartitionWaitingAck {
			t.Errorf("state %s, want it left waiting_ack", s.State)
		}
	})
}

func TestNothingIsSentBeforeTheLifecycleCallIsAnswered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked)
		r.tenure.waiting.Store(true)
		r.queue.put(0)
		r.start(t)
		time.Sleep(time.Minute)
		r.wantRequests(t)
		if s, _ := r.inspect(t.Context()); s.State != PartitionWaitingLifecycle {
			t.Errorf("state %s, want waiting_lifecycle", s.State)
		}
		r.tenure.waiting.Store(false)
		r.nudge()
		r.wantRequests(t, [2]int64{0, 0})
	})
}
