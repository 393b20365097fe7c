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

// The deadline told before the response was cut to its limit only once the response
// was there; and an extend shorter than the usual time was over when the 202 was read,
// so that the attempt failed at once.
func TestAnExtendBeforeTheResponse(t *testing.T) {
	for _, test := range []struct {
		claim    string
		extend   time.Duration
		told     time.Duration // from the extend
		deadline time.Duration // from the extend; the response comes 3 s after it
	}{
		{"that is longer than the limit is told as long as it is kept", time.Hour, time.Minute, time.Minute},
		{"that is longer than usual stands", 50 * time.Second, 50 * time.Second, 50 * time.Second},
		{"that ends before the response leaves the usual time", time.Second, time.Second, 33 * time.Second},
		{"that is shorter than usual does not shorten it", 10 * time.Second, 10 * time.Second, 33 * time.Second},
	} {
		t.Run(test.claim, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, func(ctx context.Context, q request) delivery.Result {
					time.Sleep(3 * time.Second)
					return received(ctx, q)
				}, func(w *webhooks.Webhook) { w.Ack.MaxTimeoutMs = 60_000 })
				r.queue.put(0)
				r.start(t)
				synctest.Wait()
				start := time.Now()
				back := r.tell(t, ask{statement: acker.Statement{Outcome: acker.Extend, First: 0, Last: 0, UpTo: 0}, extend: test.extend})
				if got := back.deadline.Sub(start); back.err != nil || got != test.told {
					t.Errorf("told %v (%v), want %v", got, back.err, test.told)
				}
				time.Sleep(test.deadline - time.Millisecond)
				r.wantRequests(t, [2]int64{0, 0})
				time.Sleep(time.Second)
				r.wantRequests(t, [2]int64{0, 0}, [2]int64{0, 0})
			})
		})
	}
}

func TestAnInlineExtendIsFromTheResponse(t *testing.T) {
	for asked, want := range map[time.Duration]time.Duration{time.Second: time.Second, 50 * time.Second: 50 * time.Second, time.Hour: time.Minute} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, func(context.Context, request) delivery.Result {
				return delivery.Result{Verdict: delivery.Stated, Status: 200, Ack: &delivery.Ack{Outcome: "extend", Extend: asked}}
			}, func(w *webhooks.Webhook) { w.Ack.MaxTimeoutMs = 60_000 })
			r.queue.put(0)
			r.start(t)
			time.Sleep(want - time.Millisecond)
			r.wantRequests(t, [2]int64{0, 0})
			time.Sleep(time.Second)
			r.wantRequests(t, [2]int64{0, 0}, [2]int64{0, 0})
		})
	}
}

// The receiver acks the head by POST /ack and says the same, or less, in its answer:
// nothing is malformed about it, and the rest is leased.
func TestAnInlineAckMayRepeatOneBeforeTheResponse(t *testing.T) {
	for _, test := range []struct {
		claim  string
		posted int64
		inline *int64
		safe   int64
		rest   []int64 // first and last of what comes again; none if all is acked
	}{
		{"the same head", 1, new(int64(1)), 2, []int64{2, 3}},
		{"less of it", 1, new(int64(0)), 2, []int64{2, 3}},
		{"more of it", 1, new(int64(2)), 3, []int64{3, 3}},
		{"all of it", 1, nil, 4, nil},
		{"the head of what was acked whole", 3, new(int64(1)), 4, nil},
	} {
		t.Run(test.claim, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, func(ctx context.Context, q request) delivery.Result {
					if q.Number > 1 {
						return acked(ctx, q)
					}
					time.Sleep(time.Second)
					return delivery.Result{Verdict: delivery.Stated, Status: 200, Ack: &delivery.Ack{UpToOffset: test.inline}}
				})
				r.queue.put(0, 1, 2, 3)
				r.start(t)
				synctest.Wait()
				r.tell(t, ask{statement: acker.Statement{First: 0, Last: 3, UpTo: test.posted}})
				time.Sleep(time.Second)
				r.wantSafe(t, test.safe)
				if s, _ := r.inspect(t.Context()); s.LastError != nil || test.rest != nil && s.State != PartitionWaitingAck {
					t.Errorf("status %+v, want no error and the rest leased", s)
				}
				time.Sleep(time.Minute)
				want := [][2]int64{{0, 3}}
				if test.rest != nil {
					want = append(want, [2]int64(test.rest))
				}
				r.wantRequests(t, want...)
			})
		})
	}
}

func TestAnInlineNackRepeatsOneBeforeTheResponse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			if q.Number > 1 {
				return acked(ctx, q)
			}
			time.Sleep(time.Second)
			return delivery.Result{Verdict: delivery.Stated, Status: 200, Ack: &delivery.Ack{Outcome: "nack", Delay: time.Minute}}
		})
		r.queue.put(0)
		r.start(t)
		synctest.Wait()
		r.tell(t, ask{statement: acker.Statement{Outcome: acker.Nack, First: 0, Last: 0, UpTo: 0}, delay: 5 * time.Second})
		time.Sleep(5*time.Second - time.Millisecond)
		r.wantRequests(t, [2]int64{0, 0})
		time.Sleep(time.Millisecond)
		r.wantRequests(t, [2]int64{0, 0}, [2]int64{0, 0}) // when the first said
	})
}

func TestAnInlineAckOfAnotherDeliveryIsMalformed(t *testing.T) {
	for _, offset := range []int64{-1, 1, 4} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, func(context.Context, request) delivery.Result {
				return delivery.Result{Verdict: delivery.Stated, Status: 200, Ack: &delivery.Ack{UpToOffset: &offset}}
			})
			r.queue.put(2, 3)
			r.start(t)
			synctest.Wait()
			if s, _ := r.inspect(t.Context()); s.LastError == nil || s.LastError.Code != "ack_malformed" {
				t.Errorf("up to %d of 2-3: status %+v, want ack_malformed", offset, s)
			}
			r.wantSafe(t, 2)
		})
	}
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
