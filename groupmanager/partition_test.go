package groupmanager

import (
	"context"
	"errors"
	"fmt"
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

// The next attempt was told as a pointer to the lane's own time, which the lane wrote
// while another goroutine made JSON of it.
func TestAStatusIsAPictureOfItsMoment(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, refused)
		r.queue.put(0)
		r.start(t)
		synctest.Wait()
		s, _ := r.inspect(t.Context())
		told := *s.NextAttemptAt
		time.Sleep(time.Minute)
		if synctest.Wait(); !s.NextAttemptAt.Equal(told) {
			t.Errorf("next attempt at %v in a status that said %v a minute ago", s.NextAttemptAt, told)
		}
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

// Halves are more deliveries than there was room for. Started all at once they were
// more than there are senders: with the results of the first still to be taken, the
// partition waited for a sender and the sender for the partition.
func TestHalvesWaitForTheirTurn(t *testing.T) {
	for _, inFlight := range []int{1, 2} {
		alone := func(under *atomic.Int32) func(context.Context, request) delivery.Result {
			return func(ctx context.Context, q request) delivery.Result {
				if n := under.Add(1); n > int32(inFlight) {
					t.Errorf("%d requests under way, want at most %d", n, inFlight)
				}
				defer under.Add(-1)
				time.Sleep(time.Second)
				if q.last > q.first {
					return delivery.Result{Verdict: delivery.TooLarge, Status: 413, Code: "http_413"}
				}
				return acked(ctx, q)
			}
		}
		eight := func(w *webhooks.Webhook) { w.Batch.MaxRecords = 8 }
		t.Run(fmt.Sprintf("max_in_flight %d", inFlight), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, alone(new(atomic.Int32)), unordered(inFlight), eight)
				r.queue.put(0, 1, 2, 3, 4, 5, 6, 7)
				r.start(t)
				time.Sleep(time.Minute)
				r.wantSafe(t, 8)
				if n := len(r.receiver.seen()); n != 15 { // 1 of eight, 2 of four, 4 of two, 8 alone
					t.Errorf("%d requests, want 15", n)
				}
			})
		})
		t.Run(fmt.Sprintf("max_in_flight %d, and a revoke among them", inFlight), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, alone(new(atomic.Int32)), unordered(inFlight), eight)
				r.queue.put(0, 1, 2, 3, 4, 5, 6, 7)
				r.start(t)
				time.Sleep(2500 * time.Millisecond) // some of the second halving are under way
				start := time.Now()
				r.revoke(context.Canceled)
				<-r.done
				if took := time.Since(start); took >= time.Second {
					t.Errorf("drained in %v, want as soon as those under way have ended", took)
				}
			})
		})
	}
}

// A delivery that is due and has no place is nothing to wake up for: the timer would
// fire again and again until a request ends.
func TestAFullLaneWakesForNothingThatIsDue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			switch {
			case q.last > q.first:
				return delivery.Result{Verdict: delivery.TooLarge, Status: 413, Code: "http_413"}
			case q.first == 0:
				return refused(ctx, q)
			}
			return hung(ctx, q)
		}, unordered(1), func(w *webhooks.Webhook) {
			w.Batch.MaxRecords, w.Retry.InitialBackoffMs, w.Retry.MaxBackoffMs = 2, 3_600_000, 3_600_000
		})
		r.queue.put(0, 1)
		r.start(t)
		time.Sleep(noteInterval) // and the failure is told
		r.wantRequests(t, [2]int64{0, 1}, [2]int64{0, 0}, [2]int64{1, 1})
		if at := r.lane.wakeAt(false); !at.IsZero() {
			t.Errorf("wakes at %v, want not before the request under way has ended", at)
		}
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

// The webhook was resumed, or changed otherwise, while the request was under way: its
// 410 is about what was before. The next attempt asks again.
func TestGoneOfAWebhookThatWasChangedSinceIsAFailedAttempt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		respond := make(chan struct{})
		r := newRig(t, func(context.Context, request) delivery.Result {
			<-respond
			return delivery.Result{Verdict: delivery.Gone, Status: 410, Code: "http_410"}
		})
		r.queue.put(0)
		r.start(t)
		synctest.Wait()
		r.revision.Add(1)
		respond <- struct{}{}
		time.Sleep(time.Second)
		r.wantRequests(t, [2]int64{0, 0}, [2]int64{0, 0})
		if n := r.gone.Load(); n != 0 {
			t.Errorf("told %d times of the webhook as it was, want not at all", n)
		}
		respond <- struct{}{}
		time.Sleep(time.Hour)
		r.wantRequests(t, [2]int64{0, 0}, [2]int64{0, 0})
		if n := r.gone.Load(); n != 1 {
			t.Errorf("told %d times of the webhook as it is, want once", n)
		}
	})
}

// The last attempt that the policy allows is answered 410, or comes back to us: that
// there is no receiver is no reason to give records up, and they are there when the
// webhook is resumed.
func TestGoneKeepsWhatItsPolicyWouldGiveUp(t *testing.T) {
	gone := delivery.Result{Verdict: delivery.Gone, Status: 410, Code: "http_410"}
	looped := delivery.Result{Verdict: delivery.Looped, Status: 508, Code: delivery.CodeLoop}
	for _, test := range []struct {
		policy string
		answer delivery.Result
	}{
		{webhooks.OnExhaustedSkip, gone}, {webhooks.OnExhaustedDeadLetter, gone}, {webhooks.OnExhaustedSkip, looped}, {webhooks.OnExhaustedDeadLetter, looped},
	} {
		t.Run(test.policy+" "+test.answer.Code, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var back atomic.Bool
				r := newRig(t, func(ctx context.Context, q request) delivery.Result {
					if back.Load() {
						return acked(ctx, q)
					}
					return test.answer
				}, func(w *webhooks.Webhook) {
					topic := "dead"
					w.OnExhausted, w.Retry.MaxAttempts, w.DeadLetter.Topic = test.policy, 1, &topic
				})
				r.queue.put(0)
				r.start(t)
				time.Sleep(time.Hour)
				r.wantSafe(t, 0)
				if s, _ := r.inspect(t.Context()); s.LastError == nil || s.LastError.Status != test.answer.Status || s.Attempt != 1 {
					t.Errorf("status %+v, want the answer and its attempt shown", s)
				}
				back.Store(true)
				r.paused.Store(false)
				r.nudge()
				r.wantRequests(t, [2]int64{0, 0}, [2]int64{0, 0})
				r.wantSafe(t, 1)
				if n := len(r.letters.written); n > 0 {
					t.Errorf("%d dead letters, want none", n)
				}
			})
		})
	}
}

// A policy of the deployment that refuses a receiver is no reason to give its records
// up: a topic would be drained without one packet sent.
func TestATargetThatIsDeniedGivesNoRecordsUp(t *testing.T) {
	for _, test := range []struct{ policy, code string }{
		{webhooks.OnExhaustedSkip, delivery.CodeAddressDenied},
		{webhooks.OnExhaustedDeadLetter, delivery.CodeAddressDenied},
		{webhooks.OnExhaustedSkip, delivery.CodeTokenDenied},
		{webhooks.OnExhaustedDeadLetter, delivery.CodeTokenDenied},
	} {
		t.Run(test.policy+" "+test.code, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var allowed atomic.Bool
				r := newRig(t, func(ctx context.Context, q request) delivery.Result {
					if allowed.Load() {
						return acked(ctx, q)
					}
					return delivery.Result{Verdict: delivery.Failed, Code: test.code, At: time.Now()}
				}, func(w *webhooks.Webhook) {
					topic := "dead"
					w.OnExhausted, w.Retry.MaxAttempts, w.DeadLetter.Topic = test.policy, 1, &topic
				})
				r.queue.put(0)
				r.start(t)
				time.Sleep(time.Hour)
				r.wantSafe(t, 0)
				allowed.Store(true)
				time.Sleep(time.Hour)
				r.wantSafe(t, 1)
				if n := len(r.letters.written); n > 0 {
					t.Errorf("%d dead letters, want none", n)
				}
			})
		})
	}
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

func TestAnOffsetThatComesAgainIsToldAndNotDelivered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked)
		r.queue.put(5)
		r.start(t)
		r.wantSafe(t, 6)
		r.queue.put(3)
		r.wantRequests(t, [2]int64{5, 5})
		r.wantSafe(t, 6)
		if len(r.faults) != 1 {
			t.Errorf("faults %v, want that an offset came again", r.faults)
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

func TestO2_ARedeliveryBeginsAtTheLowestUnackedOffset(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var healed atomic.Bool
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			switch {
			case healed.Load():
				return acked(ctx, q)
			case q.Number == 1:
				return received(ctx, q)
			}
			return delivery.Result{Verdict: delivery.Failed, Code: delivery.CodeConnectRefused} // not owed to a record: it is not cut
		}, func(w *webhooks.Webhook) { w.Batch.MaxRecords = 4 })
		r.queue.put(0, 1, 2, 3)
		r.start(t)
		synctest.Wait()
		r.queue.put(4, 5, 6, 7) // waits all the time
		r.tell(t, ask{statement: acker.Statement{First: 0, Last: 3, UpTo: 1}})
		time.Sleep(32 * time.Second) // the lease runs out, and the attempt after it fails
		healed.Store(true)
		time.Sleep(time.Minute)
		seen := r.receiver.seen()
		if first := seen[0]; first.first != 0 || first.last != 3 {
			t.Errorf("first delivery %d-%d, want 0-3", first.first, first.last)
		}
		last := len(seen) - 1
		for _, q := range seen[1:last] {
			if q.first != 2 || q.last != 3 {
				t.Errorf("redelivery %d-%d, want the open rest 2-3 and nothing above it", q.first, q.last)
			}
		}
		if next := seen[last]; last < 3 || next.first != 4 || next.last != 7 {
			t.Errorf("last of %d requests was %d-%d, want 4-7 after several of the rest", len(seen), next.first, next.last)
		}
		r.wantSafe(t, 8)
	})
}

func TestX7_APanicInADeliveryIsAFailedAttempt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			if q.Number == 1 {
				panic("poison")
			}
			return acked(ctx, q)
		})
		r.queue.put(0)
		r.start(t)
		synctest.Wait()
		s, _ := r.inspect(t.Context())
		if s.State != PartitionBackingOff || s.LastError == nil || s.LastError.Code != codeInternal {
			t.Errorf("status %+v, want backing_off with the code %s", s, codeInternal)
		}
		time.Sleep(time.Second)
		r.wantRequests(t, [2]int64{0, 0}, [2]int64{0, 0})
		r.wantSafe(t, 1)
		if len(r.faults) > 0 {
			t.Errorf("faults %v, want none: the partition goes on", r.faults)
		}
	})
}

func TestX7_APanicInAPartitionEndsItAlone(t *testing.T) {
	for _, test := range []struct {
		claim string
		boom  func(*testing.T, *rig)
	}{
		{"over a delivery", func(_ *testing.T, r *rig) { r.queue.put(2) }},
		{"over a look at it", func(t *testing.T, r *rig) {
			if s, ok := r.inspect(t.Context()); ok {
				t.Errorf("status %+v, want none", s)
			}
		}},
		{"over an ack", func(t *testing.T, r *rig) {
			if _, err := r.ask(t.Context(), ask{statement: acker.Statement{First: 0, Last: 0, UpTo: 0}}); !errors.Is(err, ErrNoOwner) {
				t.Errorf("ack: %v, want no owner", err)
			}
		}},
	} {
		t.Run(test.claim, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var armed atomic.Bool
				answer := func(ctx context.Context, q request) delivery.Result {
					if q.first == 0 {
						return acked(ctx, q)
					}
					return hung(ctx, q)
				}
				one := func(w *webhooks.Webhook) { w.Batch.MaxRecords = 1 }
				r, other := newRig(t, answer, unordered(3), one), newRig(t, answer, one)
				generation, publish := r.lane.generation, r.lane.publish
				r.lane.generation = func() int32 {
					if armed.Load() {
						panic("boom")
					}
					return generation()
				}
				r.lane.publish = func(t *tenure, n int64) { r.lane.generation(); publish(t, n) }
				r.queue.put(0, 1)
				other.queue.put(0)
				r.start(t)
				other.start(t)
				r.wantSafe(t, 1)
				armed.Store(true)
				test.boom(t, r)
				<-r.done
				if len(r.faults) != 1 || !errors.Is(r.faults[0], errPanicked) {
					t.Errorf("faults %v, want that it panicked", r.faults)
				}
				r.wantSafe(t, 1)
				if _, err := r.ask(t.Context(), ask{}); !errors.Is(err, ErrNoOwner) {
					t.Errorf("ack after the end: %v, want no owner", err)
				}
				other.wantSafe(t, 1)
				if _, ok := other.inspect(t.Context()); !ok {
					t.Error("the other partition ended, too")
				}
			})
		})
	}
}
