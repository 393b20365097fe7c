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

// live begins a tenure of three deliveries of one record each, all waiting for acks.
func live(t *testing.T) (*schedule, []target) {
	t.Helper()
	r := newRig(t, received, func(w *webhooks.Webhook) {
		w.Ordering, w.MaxInFlight, w.Batch.MaxRecords = webhooks.OrderingNone, logEnd, 1
	})
	r.partition.end()
	s := newSchedule(t, r, 0)
	r.lane.webhook.Batch.MaxRecords = 1
	s.assign(7, 0)
	synctest.Wait()
	t.Cleanup(func() {
		s.member.release([]topicPartition{orders}, true)
		r.receiver.Close()
	})
	return s, s.targets()
}

// A4 where it is decided: an ack is of the current tenure if its generation lies
// between that of the assignment and that of now, and its token is of this tenure.
func TestA4_AnAckOfAnotherGenerationOrTenureIsStale(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, targets := live(t)
		s.member.current.Store(9) // two rebalances in which the partition stayed
		token := targets[0]
		fields := token
		fields.tenure, fields.statement.First = 0, acker.Everything
		for _, test := range []struct {
			claim      string
			by         target
			generation int32
			tenure     uint64
			stale      bool
		}{
			{"a token of an older generation", token, 6, token.tenure, true},
			{"a token of a future generation", token, 10, token.tenure, true},
			{"a token of another replica at the right generation", token, 9, token.tenure + 1, true},
			{"fields of an older generation", fields, 6, 0, true},
			{"fields of a future generation", fields, 10, 0, true},
			{"fields of generation 0", fields, 0, 0, true},
			{"a token of the assignment's generation", token, 7, token.tenure, false},
			{"a token of a generation in between", token, 8, token.tenure, false},
			{"fields of the current generation", fields, 9, 0, false},
		} {
			ask := test.by
			ask.generation, ask.tenure = test.generation, test.tenure
			before := s.member.held[orders].tenure.safe.Load()
			_, err := s.group.ack(t.Context(), ask, AckRequest{WaitAccept: true})
			stale, ok := errors.AsType[*StaleError](err)
			if ok != test.stale || !ok && err != nil || ok && stale.Current != 9 {
				t.Errorf("%s: got %v, want stale %v with the current generation 9", test.claim, err, test.stale)
			}
			if after := s.member.held[orders].tenure.safe.Load(); ok && after != before {
				t.Errorf("%s: the safe offset went from %d to %d", test.claim, before, after)
			}
		}
	})
}

// A hole that stays open holds up new deliveries at the window, however many acks
// come for those above it, and lets them go on when it is closed.
func TestA6_AHoleThatStaysOpenBoundsWhatIsAhead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const inFlight = 2
		r := newRig(t, received, func(w *webhooks.Webhook) {
			w.Ordering, w.MaxInFlight, w.Batch.MaxRecords = webhooks.OrderingNone, inFlight, 1
			w.Ack.TimeoutMs = 3_600_000
			w.Ack.MaxTimeoutMs = 3_600_000
		})
		for o := range int64(100) {
			r.queue.put(o)
		}
		r.start(t)
		acked := map[int64]bool{0: true} // not acked, and not to be
		for {
			synctest.Wait()
			more := false
			for _, q := range r.receiver.seen() {
				if !acked[q.first] {
					acked[q.first], more = true, true
					if back := r.tell(t, ask{statement: acker.Statement{First: q.first, Last: q.last, UpTo: q.last}}); back.err != nil || back.answer.BlockedBy != 0 {
						t.Fatalf("ack of %d: %+v, want it blocked by 0", q.first, back)
					}
				}
			}
			if !more {
				break
			}
		}
		if got, want := len(r.receiver.seen()), windowFactor*inFlight; got != want {
			t.Errorf("%d deliveries with a hole at the head, want the window %d", got, want)
		}
		r.wantSafe(t, 0)
		r.tell(t, ask{statement: acker.Statement{First: 0, Last: 0, UpTo: 0}})
		r.wantSafe(t, windowFactor*inFlight)
		if got, want := len(r.receiver.seen()), windowFactor*inFlight+inFlight; got != want {
			t.Errorf("%d deliveries after the hole was closed, want %d", got, want)
		}
	})
}

func TestA7_AnAckBeforeTheResponseCountsOnceWhateverTheResponse(t *testing.T) {
	for name, response := range map[string]func(context.Context, request) delivery.Result{
		"acked": acked, "received": received, "refused": refused,
		"too large": func(context.Context, request) delivery.Result {
			return delivery.Result{Verdict: delivery.TooLarge, Status: 413, Code: "http_413"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				respond := make(chan struct{})
				r := newRig(t, func(ctx context.Context, q request) delivery.Result {
					if q.first > 0 {
						return acked(ctx, q)
					}
					<-respond
					return response(ctx, q)
				}, func(w *webhooks.Webhook) { w.Batch.MaxRecords = 2 })
				r.queue.put(0, 1, 2, 3)
				r.start(t)
				synctest.Wait()
				whole := ask{statement: acker.Statement{First: 0, Last: 1, UpTo: 1}}
				if back := r.tell(t, whole); back.err != nil || back.answer.Repeat {
					t.Errorf("the ack: %+v, want it counted", back)
				}
				r.wantSafe(t, 2)
				close(respond)
				time.Sleep(time.Hour)
				r.wantRequests(t, [2]int64{0, 1}, [2]int64{2, 3})
				r.wantSafe(t, 4)
				if back := r.tell(t, whole); back.err != nil || !back.answer.Repeat {
					t.Errorf("the ack again: %+v, want a repeat", back)
				}
			})
		})
	}
}

func TestA8_AnAckOfTheFirstAttemptMakesTheSecondsFailureMoot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		respond := make(chan struct{})
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			if q.Number == 1 {
				return received(ctx, q)
			}
			<-respond
			return refused(ctx, q)
		}, func(w *webhooks.Webhook) { w.Ack.TimeoutMs = 1000 })
		r.queue.put(0)
		r.start(t)
		time.Sleep(10 * time.Second)
		seen := r.wantRequests(t, [2]int64{0, 0}, [2]int64{0, 0}) // the second hangs
		first := seen[0].token
		if back := r.tell(t, ask{statement: acker.Statement{First: first.First, Last: first.Last, UpTo: first.Last}}); back.err != nil || back.answer.Repeat {
			t.Errorf("ack of the first attempt: %+v, want it counted", back)
		}
		r.wantSafe(t, 1)
		close(respond)
		time.Sleep(time.Hour)
		r.wantRequests(t, [2]int64{0, 0}, [2]int64{0, 0})
	})
}

// Both sides of a lease's end, a nanosecond apart: before it everything counts;
// after it an ack still does, until the next attempt takes its place and beyond,
// but there is nothing left to be extended.
func TestA9_BothSidesOfTheAckDeadline(t *testing.T) {
	const timeout = 30 * time.Second
	whole := acker.Statement{First: 0, Last: 0, UpTo: 0}
	extend := whole
	extend.Outcome = acker.Extend
	for _, test := range []struct {
		claim    string
		at       time.Duration
		say      acker.Statement
		err      error
		requests int // an hour later, or when it is extended to then
	}{
		{"an ack just before", timeout - 1, whole, nil, 1},
		{"an ack just after", timeout + 1, whole, nil, 1},
		{"an extend just before", timeout - 1, extend, nil, 1},
		{"an extend just after", timeout + 1, extend, acker.ErrConflict, 2},
	} {
		t.Run(test.claim, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, func(ctx context.Context, q request) delivery.Result {
					if q.Number == 1 {
						return received(ctx, q)
					}
					return acked(ctx, q)
				}, func(w *webhooks.Webhook) {
					w.Ack.TimeoutMs, w.Ack.MaxTimeoutMs = int(timeout.Milliseconds()), 7_200_000
				})
				r.queue.put(0)
				r.start(t)
				time.Sleep(test.at)
				synctest.Wait()
				if got := len(r.receiver.seen()); got != 1 {
					t.Fatalf("%d requests at the deadline, want the next attempt after a backoff", got)
				}
				back := r.tell(t, ask{statement: test.say, extend: 2 * time.Hour})
				if !errors.Is(back.err, test.err) {
					t.Errorf("got %v, want %v", back.err, test.err)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if got := len(r.receiver.seen()); got != test.requests {
					t.Errorf("%d requests in all, want %d", got, test.requests)
				}
			})
		})
	}
}
