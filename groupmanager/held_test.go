package groupmanager

import (
	"context"
	"errors"
	"sync"
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

// While one partition drains for a revoke nothing comes out of Poll, for longer than a
// lease lasts. The others are still ours, and what comes for them is delivered.
func TestADrainOfOnePartitionDoesNotHoldUpTheOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const slow = 4 * time.Second
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			if q.token.Partition == orders.partition {
				time.Sleep(slow)
			}
			return acked(ctx, q)
		})
		r.partition.end()
		s := newSchedule(t, r, 0)
		m := s.member
		m.session, m.maxPoll = time.Second, time.Hour
		m.poll(time.Now())
		m.lane.lease = &m.lease
		m.lease.renew(time.Now().Add(m.session))
		m.committer.commit = func(due map[topicPartition]position) (map[topicPartition]bool, error) {
			at := time.Now()
			confirmed, err := s.broker.commit(due)
			m.proven(at)
			return confirmed, err
		}
		ctx, stop := context.WithCancel(t.Context())
		var committing sync.WaitGroup
		committing.Go(func() { m.committer.run(ctx) })
		s.assign(7, 0)
		stays := topicPartition{"orders", orders.partition + 1}
		q, tn := newQueue(), newTenure(stays, [16]byte{}, 7, position{})
		p := newPartition(m.lane, tn, q, &r.paused, m.fault)
		m.committer.begin(tn)
		running, end := context.WithCancelCause(t.Context())
		go p.run(running, testDrain)
		synctest.Wait()
		time.AfterFunc(slow-time.Second, func() { q.put(0) })
		m.release([]topicPartition{orders}, false)
		sent := false
		for _, q := range r.receiver.seen() {
			sent = sent || q.token.Partition == stays.partition
		}
		if !sent {
			t.Errorf("nothing was delivered of the partition that stays in a drain of %v with a lease of %v", slow, m.session)
		}
		end(nil)
		<-p.done
		stop()
		committing.Wait()
		r.receiver.Close()
	})
}

// The lease that a commit gives ends when the client would leave the group because
// nobody polls it: after that the partitions may be another's at once.
func TestACommitIsNoLeaseForAMemberThatDoesNotPoll(t *testing.T) {
	now := time.Now()
	m := &member{session: 6 * time.Second, maxPoll: 10 * time.Second}
	m.draining.Store(true)
	m.proven(now)
	if m.lease.holds(now) {
		t.Error("a commit gave a lease to a member that has never polled")
	}
	m.draining.Store(false)
	m.poll(now)
	m.proven(now)
	if m.lease.holds(now) {
		t.Error("a commit gave a lease to a member whose poll loop does not wait for a drain")
	}
	m.draining.Store(true)
	for after, want := range map[time.Duration]time.Duration{0: 6 * time.Second, 9 * time.Second: 10 * time.Second} {
		m.lease = lease{}
		m.proven(now.Add(after))
		if got := m.lease.until.Load().Sub(now); got != want {
			t.Errorf("a commit %v after the last poll gives a lease until %v after it, want %v", after, got, want)
		}
	}
}
