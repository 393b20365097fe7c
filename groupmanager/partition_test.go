package groupmanager

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

func TestRecordsReadBecomeOneDeliveryAndItsAckMovesTheSafeOffset(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked)
		r.queue.put(10, 11, 12, 15)
		r.start(t)
		r.wantRequests(t, [2]int64{10, 15})
		r.wantSafe(t, 16)
	})
}

func TestBatchesAreCutByCountAndStayInOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked, func(w *webhooks.Webhook) { w.Batch.MaxRecords = 2 })
		r.queue.put(0, 1, 2, 3, 4)
		r.start(t)
		r.wantRequests(t, [2]int64{0, 1}, [2]int64{2, 3}, [2]int64{4, 4})
		r.wantSafe(t, 5)
	})
}

func TestBatchesAreCutByBytesAndALargeRecordGoesAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked, func(w *webhooks.Webhook) { w.Batch.MaxBytes = 4 }) // a value has 5
		r.queue.put(0, 1)
		r.start(t)
		r.wantRequests(t, [2]int64{0, 0}, [2]int64{1, 1})
	})
}

func TestLingerWaitsForCompanyAndNoLonger(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked, func(w *webhooks.Webhook) { w.Batch.LingerMs = 100 })
		r.start(t)
		r.queue.put(0)
		time.Sleep(99 * time.Millisecond)
		r.wantRequests(t)
		r.queue.put(1)
		time.Sleep(2 * time.Millisecond)
		r.wantRequests(t, [2]int64{0, 1})
	})
}

func TestAFailureHoldsThePartitionAndIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var healed atomic.Bool
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			if !healed.Load() {
				return refused(ctx, q)
			}
			return acked(ctx, q)
		}, func(w *webhooks.Webhook) { w.Batch.MaxRecords = 1 })
		r.queue.put(0, 1)
		r.start(t)
		r.wantRequests(t, [2]int64{0, 0})
		r.wantSafe(t, 0)
		s, _ := r.inspect(t.Context())
		if s.State != PartitionBackingOff || s.LastError == nil || s.LastError.Status != 500 || s.NextAttemptAt == nil {
			t.Errorf("status %+v, want backing_off with its error and the next attempt", s)
		}
		healed.Store(true)
		time.Sleep(time.Second)
		seen := r.wantRequests(t, [2]int64{0, 0}, [2]int64{0, 0}, [2]int64{1, 1})
		if seen[1].Number != 2 {
			t.Errorf("second request has attempt %d, want 2", seen[1].Number)
		}
		r.wantSafe(t, 2)
	})
}

func TestALeaseEndsWithItsAck(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, received)
		r.queue.put(0, 1, 2)
		r.start(t)
		r.wantRequests(t, [2]int64{0, 2})
		r.wantSafe(t, 0)
		back := r.tell(t, ask{statement: acker.Statement{First: 0, Last: 2, UpTo: 2}})
		if back.err != nil || back.answer.Cover != 3 {
			t.Errorf("answer %+v, want cover 3", back)
		}
		r.wantSafe(t, 3)
	})
}

func TestALeaseThatRunsOutIsTheNextAttempt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, received)
		r.queue.put(0)
		r.start(t)
		time.Sleep(30*time.Second - time.Millisecond)
		r.wantRequests(t, [2]int64{0, 0})
		time.Sleep(2 * time.Second)
		seen := r.wantRequests(t, [2]int64{0, 0}, [2]int64{0, 0})
		if seen[1].Number != 2 {
			t.Errorf("attempt %d after the lease, want 2", seen[1].Number)
		}
		if back := r.tell(t, ask{statement: acker.Statement{First: 0, Last: 0, UpTo: 0}}); back.err != nil {
			t.Errorf("ack of a late attempt: %v, want it to count", back.err)
		}
		r.wantSafe(t, 1)
	})
}

func TestAnExtendMovesTheDeadlineUpToItsLimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, received, func(w *webhooks.Webhook) { w.Ack.MaxTimeoutMs = 60_000 })
		r.queue.put(0)
		r.start(t)
		synctest.Wait()
		start := time.Now()
		time.Sleep(20 * time.Second)
		back := r.tell(t, ask{statement: acker.Statement{Outcome: acker.Extend, First: 0, Last: 0, UpTo: 0}, extend: time.Hour})
		if want := start.Add(time.Minute); back.err != nil || !back.deadline.Equal(want) {
			t.Errorf("deadline %v (%v), want %v", back.deadline, back.err, want)
		}
		time.Sleep(39 * time.Second)
		r.wantRequests(t, [2]int64{0, 0})
		time.Sleep(2 * time.Second)
		r.wantRequests(t, [2]int64{0, 0}, [2]int64{0, 0})
	})
}

func TestAnAckBeforeTheResponseCountsAndNothingNewIsSentMeanwhile(t *testing.T) {
	bubble(t, func(t *testing.T) {
		respond := make(chan struct{})
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			<-respond
			return refused(ctx, q)
		}, func(w *webhooks.Webhook) { w.Batch.MaxRecords = 1 })
		r.queue.put(0, 1)
		r.start(t)
		synctest.Wait()
		if back := r.tell(t, ask{statement: acker.Statement{First: 0, Last: 0, UpTo: 0}}); back.err != nil {
			t.Fatal(back.err)
		}
		r.wantSafe(t, 1)
		r.wantRequests(t, [2]int64{0, 0}) // one in flight at most
		respond <- struct{}{}
		r.wantRequests(t, [2]int64{0, 0}, [2]int64{1, 1}) // the failure is moot
		respond <- struct{}{}
	})
}

func TestAPartialAckLeavesTheRestAsADeliveryOfItsOwn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, received)
		r.queue.put(0, 1, 2, 3)
		r.start(t)
		synctest.Wait()
		r.tell(t, ask{statement: acker.Statement{First: 0, Last: 3, UpTo: 1}})
		r.wantSafe(t, 2)
		time.Sleep(31 * time.Second)
		seen := r.wantRequests(t, [2]int64{0, 3}, [2]int64{2, 3})
		if seen[1].Number != 2 {
			t.Errorf("attempt %d for the rest, want 2", seen[1].Number)
		}
	})
}

func TestANackStandsUntilTheNextAttempt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, received)
		r.queue.put(0)
		r.start(t)
		synctest.Wait()
		whole := acker.Statement{First: 0, Last: 0, UpTo: 0}
		nack := whole
		nack.Outcome = acker.Nack
		if back := r.tell(t, ask{statement: nack, delay: 5 * time.Second}); back.err != nil {
			t.Fatal(back.err)
		}
		if back := r.tell(t, ask{statement: whole}); !errors.Is(back.err, acker.ErrConflict) {
			t.Errorf("ack after a nack: %v, want a conflict", back.err)
		}
		time.Sleep(4999 * time.Millisecond)
		r.wantRequests(t, [2]int64{0, 0})
		time.Sleep(time.Millisecond)
		r.wantRequests(t, [2]int64{0, 0}, [2]int64{0, 0})
		if back := r.tell(t, ask{statement: whole}); back.err != nil {
			t.Errorf("ack after the next attempt was sent: %v, want it to count", back.err)
		}
		r.wantSafe(t, 1)
	})
}

func TestTooLargeIsCutInHalfUntilItFits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			if q.last-q.first >= 2 {
				return delivery.Result{Verdict: delivery.TooLarge, Status: 413, Code: "http_413"}
			}
			return acked(ctx, q)
		})
		r.queue.put(0, 1, 2, 3, 4)
		r.start(t)
		r.wantRequests(t, [2]int64{0, 4}, [2]int64{0, 1}, [2]int64{2, 4}, [2]int64{2, 2}, [2]int64{3, 4})
		r.wantSafe(t, 5)
	})
}

func TestAnExhaustedDelivery(t *testing.T) {
	limit := func(policy string) func(*webhooks.Webhook) {
		return func(w *webhooks.Webhook) {
			topic := "dead"
			w.OnExhausted, w.Retry.MaxAttempts, w.DeadLetter.Topic = policy, 2, &topic
		}
	}
	t.Run("blocks and goes on at the longest backoff", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, refused, limit(webhooks.OnExhaustedBlock))
			r.queue.put(0)
			r.start(t)
			time.Sleep(10 * time.Second)
			r.wantRequests(t, [2]int64{0, 0}, [2]int64{0, 0})
			if s, _ := r.inspect(t.Context()); s.State != PartitionBlocked {
				t.Errorf("state %s, want blocked", s.State)
			}
			time.Sleep(time.Minute)
			r.wantRequests(t, [2]int64{0, 0}, [2]int64{0, 0}, [2]int64{0, 0})
			r.wantSafe(t, 0)
		})
	})
	t.Run("is skipped when the user said so", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, refused, limit(webhooks.OnExhaustedSkip))
			r.queue.put(0)
			r.start(t)
			time.Sleep(10 * time.Second)
			r.wantSafe(t, 1)
		})
	})
	t.Run("is dead-lettered before it is settled", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, refused, limit(webhooks.OnExhaustedDeadLetter))
			r.letters.err = errors.New("no broker")
			r.queue.put(0)
			r.start(t)
			time.Sleep(10 * time.Second)
			r.wantSafe(t, 0) // a failing write blocks
			r.letters.mu.Lock()
			r.letters.err = nil
			r.letters.mu.Unlock()
			time.Sleep(time.Minute)
			r.wantSafe(t, 1)
			if n := len(r.letters.written); n != 1 || r.letters.written[0].attempts != 2 || r.letters.written[0].status != 500 {
				t.Errorf("dead letters %+v, want one with 2 attempts and status 500", r.letters.written)
			}
		})
	})
	t.Run("is not what an attempt is that we cut ourselves", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, hung, limit(webhooks.OnExhaustedSkip), func(w *webhooks.Webhook) { w.Retry.MaxAttempts = 1 })
			r.queue.put(0)
			r.start(t)
			synctest.Wait()
			r.revoke(context.Canceled)
			<-r.done
			if got := r.tenure.safe.Load(); got > 0 {
				t.Errorf("safe offset %d after the drain cut a request: a record was skipped", got)
			}
		})
	})
}

func TestDrainLetsARequestEndAndItsAckCounts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			time.Sleep(2 * time.Second)
			return acked(ctx, q)
		}, func(w *webhooks.Webhook) { w.Batch.MaxRecords = 1 })
		r.queue.put(0, 1)
		r.start(t)
		synctest.Wait()
		r.revoke(context.Canceled)
		<-r.done
		r.wantRequests(t, [2]int64{0, 0}) // nothing new after the revoke
		r.wantSafe(t, 1)
	})
}

func TestDrainEndsAtItsDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, hung)
		r.queue.put(0)
		r.start(t)
		synctest.Wait()
		start := time.Now()
		r.revoke(context.Canceled)
		<-r.done
		if took := time.Since(start); took != testDrain {
			t.Errorf("drained in %v, want exactly the deadline %v", took, testDrain)
		}
	})
}

func TestALostPartitionIsCutAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, hung)
		r.queue.put(0)
		r.start(t)
		synctest.Wait()
		start := time.Now()
		r.revoke(errLost)
		<-r.done
		if took := time.Since(start); took != 0 {
			t.Errorf("ended after %v, want at once", took)
		}
	})
}

func TestPausedSendsNothingAndResumedGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked)
		r.paused.Store(true)
		r.queue.put(0)
		r.start(t)
		time.Sleep(time.Minute)
		r.wantRequests(t)
		if s, _ := r.inspect(t.Context()); s.State != PartitionPaused {
			t.Errorf("state %s, want paused", s.State)
		}
		r.paused.Store(false)
		r.nudge()
		r.wantRequests(t, [2]int64{0, 0})
	})
}

func TestGoneIsToldAndNothingMoreIsSent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, func(context.Context, request) delivery.Result {
			return delivery.Result{Verdict: delivery.Gone, Status: 410, Code: "http_410"}
		})
		r.queue.put(0)
		r.start(t)
		time.Sleep(time.Hour)
		r.wantRequests(t, [2]int64{0, 0})
		if n := r.gone.Load(); n != 1 {
			t.Errorf("told %d times, want once", n)
		}
	})
}

func TestAQuietPartitionFollowsThePositionOverMarkers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked)
		r.start(t)
		r.queue.marker(4) // only aborted records and markers
		r.wantSafe(t, 4)
		r.queue.put(4, 5)
		r.wantSafe(t, 6)
		r.queue.marker(7)
		r.wantSafe(t, 7)
	})
}

func TestAnErrorOfTheQueueIsToldAndWhatWasReadIsStillDelivered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked)
		r.queue.put(0)
		r.queue.err = errors.New("out of range")
		r.start(t)
		r.wantSafe(t, 1)
		if len(r.faults) == 0 {
			t.Error("the error was not told")
		}
	})
}

func TestWithoutOrderingDeliveriesOvertakeAndTheCommitIsTheContiguousPrefix(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			if q.first == 0 {
				<-release
			}
			return acked(ctx, q)
		}, func(w *webhooks.Webhook) {
			w.Ordering, w.MaxInFlight, w.Batch.MaxRecords = webhooks.OrderingNone, 3, 1
		})
		r.queue.put(0, 1, 2, 3, 4)
		r.start(t)
		synctest.Wait()
		if n := len(r.receiver.seen()); n != 5 {
			t.Errorf("%d requests while the first hangs, want 5", n)
		}
		r.wantSafe(t, 0)
		close(release)
		r.wantSafe(t, 5)
	})
}

func TestAHungHeadStopsTheOthersAtTheWindow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			if q.first == 0 {
				return hung(ctx, q)
			}
			return acked(ctx, q)
		}, func(w *webhooks.Webhook) {
			w.Ordering, w.MaxInFlight, w.Batch.MaxRecords = webhooks.OrderingNone, 2, 1
		})
		for o := range int64(100) {
			r.queue.put(o)
		}
		r.start(t)
		synctest.Wait()
		if got, want := len(r.receiver.seen()), windowFactor*2; got != want {
			t.Errorf("%d deliveries ahead of a hung one, want the window %d", got, want)
		}
	})
}
