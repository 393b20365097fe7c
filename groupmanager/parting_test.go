package groupmanager

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// withLetters gives batches of eight and a dead letter topic.
func withLetters(policy string) func(*webhooks.Webhook) {
	return func(w *webhooks.Webhook) {
		w.Batch.MaxRecords, w.OnExhausted, w.DeadLetter.Topic = 8, policy, new("dead")
	}
}

// states answers the first attempt with an inline ack, and acks all others.
func states(ack delivery.Ack) func(context.Context, request) delivery.Result {
	return func(ctx context.Context, q request) delivery.Result {
		if q.Number > 1 {
			return acked(ctx, q)
		}
		return delivery.Result{Verdict: delivery.Stated, Status: 200, Ack: &ack}
	}
}

// lettered lists what was dead-lettered: offsets, and what was told of each.
func (w *letters) lettered() (offsets []int64, details []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.written {
		for i := l.from; i < l.up; i++ {
			offset := l.batch.Records[i].Offset
			offsets, details = append(offsets, offset), append(details, l.code+": "+l.detail(offset))
		}
	}
	return offsets, details
}

// keep makes the writer look at a letter while its batch is whole: afterwards it is freed.
type keep struct {
	letters
	offsets []int64
	details []string
}

func (k *keep) Write(ctx context.Context, l deadLetter) error {
	if err := k.letters.Write(ctx, l); err != nil {
		return err
	}
	k.offsets, k.details = k.lettered()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.written = nil
	return nil
}

func TestAnInlinePartialAckActsOnEachRecord(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, states(delivery.Ack{Outcome: "partial", Failures: []delivery.AckFailure{
			{Offset: 6, Action: "skip"}, {Offset: 2, Action: "dead_letter", Reason: "no total"}, {Offset: 4, Action: "retry"}, {Offset: 5, Action: "retry"},
		}}), withLetters(webhooks.OnExhaustedSkip))
		dead := &keep{}
		r.lane.senders.dead = dead
		r.queue.put(0, 1, 2, 3, 4, 5, 6, 7)
		r.start(t)
		time.Sleep(time.Second)
		r.wantSafe(t, 8)
		seen := r.wantRequests(t, [2]int64{0, 7}, [2]int64{4, 5})
		if seen[1].Number != 2 {
			t.Errorf("attempt %d of what was to be sent again, want it counted on", seen[1].Number)
		}
		synctest.Wait()
		if !slices.Equal(dead.offsets, []int64{2}) || dead.details[0] != "rejected: given up by the receiver: no total" {
			t.Errorf("dead letters %v with %q, want record 2 with its reason", dead.offsets, dead.details)
		}
		if n := r.lane.governor.minutes[0].delivered; n != 6 {
			t.Errorf("%d records count as delivered, want 6", n)
		}
	})
}

func TestAPartialAckByPost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			if q.Number > 1 {
				return hung(ctx, q)
			}
			return received(ctx, q)
		}, withLetters(webhooks.OnExhaustedBlock))
		r.queue.put(0, 1, 2, 3, 4, 5, 6, 7, 8)
		r.start(t)
		synctest.Wait()
		said := acker.Statement{Outcome: acker.Partial, First: 0, Last: 7, Failures: []acker.Failure{{Offset: 3}}}
		back := r.tell(t, ask{statement: said})
		if back.err != nil || back.answer.BlockedBy != 3 {
			t.Errorf("%+v, want it counted and blocked by 3", back)
		}
		if back := r.tell(t, ask{statement: said}); back.err != nil || !back.answer.Repeat {
			t.Errorf("the same again: %+v, want a repeat", back)
		}
		time.Sleep(noteInterval) // what is acked above is told with it
		r.wantSafe(t, 3)
		if n := r.tenure.noted.Load(); n.at != 3 {
			t.Errorf("note at %d, want what is acked above 3", n.at)
		} else if m, err := acker.ParseMetadata(n.text); err != nil || !slices.Equal(m.Acked, []acker.Run{{First: 4, Last: 7}}) {
			t.Errorf("note %+v, %v, want 4-7 acked", m, err)
		}
		time.Sleep(time.Second)
		r.wantRequests(t, [2]int64{0, 7}, [2]int64{3, 3}) // order: 8 waits for it
		if back := r.tell(t, ask{statement: acker.Statement{First: 3, Last: 3, UpTo: 3}}); back.err != nil {
			t.Errorf("an ack of what was sent again: %v", back.err)
		}
		r.wantSafe(t, 8)
	})
}

// The statement comes before the response of its own request, whatever that then is.
func TestAPartialAckOvertakesTheResponse(t *testing.T) {
	for _, test := range []struct {
		claim    string
		response func(context.Context, request) delivery.Result
	}{{"which acks all", acked}, {"which promises an ack", received}, {"which fails", refused}} {
		t.Run(test.claim, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				respond := make(chan struct{})
				r := newRig(t, func(ctx context.Context, q request) delivery.Result {
					if q.Number > 1 {
						return acked(ctx, q)
					}
					<-respond
					return test.response(ctx, q)
				}, withLetters(webhooks.OnExhaustedBlock))
				r.queue.put(0, 1, 2, 3, 4, 5, 6, 7)
				r.start(t)
				synctest.Wait()
				for _, failures := range [][]acker.Failure{{{Offset: 0, Action: acker.Skip}, {Offset: 5}}} {
					if back := r.tell(t, ask{statement: acker.Statement{Outcome: acker.Partial, First: 0, Last: 7, Failures: failures}}); back.err != nil {
						t.Fatal(back.err)
					}
				}
				r.wantSafe(t, 5)
				close(respond)
				time.Sleep(time.Minute)
				r.wantRequests(t, [2]int64{0, 7}, [2]int64{5, 5})
				r.wantSafe(t, 8)
			})
		})
	}
}

func TestWhatAPartialAckMayNotSay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, received, func(w *webhooks.Webhook) { w.Batch.MaxRecords = 8 })
		r.queue.put(0, 1, 2, 3)
		r.start(t)
		synctest.Wait()
		for _, test := range []struct {
			failure acker.Failure
			want    error
		}{{acker.Failure{Offset: 1, Action: acker.DeadLetter}, errNoDeadLetters}, {acker.Failure{Offset: 4}, acker.ErrOutOfRange}} {
			back := r.tell(t, ask{statement: acker.Statement{Outcome: acker.Partial, First: 0, Last: 3, Failures: []acker.Failure{test.failure}}})
			if !errors.Is(back.err, test.want) {
				t.Errorf("%+v: %v, want %v", test.failure, back.err, test.want)
			}
		}
		r.wantSafe(t, 0)
	})
	bubble(t, func(t *testing.T) {
		r := newRig(t, states(delivery.Ack{Outcome: "partial", Failures: []delivery.AckFailure{{Offset: 1, Action: "dead_letter"}}}))
		r.queue.put(0, 1)
		r.start(t)
		synctest.Wait()
		if s, _ := r.inspect(t.Context()); s.LastError == nil || s.LastError.Code != delivery.CodeAckMalformed {
			t.Errorf("last error %+v, want %s", s.LastError, delivery.CodeAckMalformed)
		}
		r.wantSafe(t, 0)
	})
}

func TestARejectedDelivery(t *testing.T) {
	reject := delivery.Ack{Outcome: "reject", Reason: "bad schema"}
	t.Run("goes to the dead letters with its reason", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, states(reject), withLetters(webhooks.OnExhaustedDeadLetter))
			dead := &keep{}
			r.lane.senders.dead = dead
			r.queue.put(0, 1)
			r.start(t)
			r.wantSafe(t, 2)
			r.wantRequests(t, [2]int64{0, 1})
			if !slices.Equal(dead.offsets, []int64{0, 1}) || dead.details[1] != "rejected: given up by the receiver: bad schema" {
				t.Errorf("dead letters %v with %q, want both with their reason", dead.offsets, dead.details)
			}
		})
	})
	t.Run("is skipped", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, states(reject), withLetters(webhooks.OnExhaustedSkip))
			r.queue.put(0, 1)
			r.start(t)
			r.wantSafe(t, 2)
			r.wantRequests(t, [2]int64{0, 1})
		})
	})
	t.Run("blocks, and is sent again after the longest backoff", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, states(reject), withLetters(webhooks.OnExhaustedBlock))
			r.queue.put(0, 1)
			r.start(t)
			time.Sleep(59 * time.Second)
			r.wantRequests(t, [2]int64{0, 1})
			if s, _ := r.inspect(t.Context()); s.State != PartitionBlocked || s.LastError.Code != codeRejected {
				t.Errorf("%s with %+v, want blocked because it was rejected", s.State, s.LastError)
			}
			time.Sleep(2 * time.Second)
			r.wantSafe(t, 2)
		})
	})
	t.Run("has its reason forgotten when more is said of it", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, func(_ context.Context, q request) delivery.Result {
				ack := &reject
				if q.Number > 1 {
					ack = &delivery.Ack{Outcome: "partial", Failures: []delivery.AckFailure{{Offset: 0, Action: "dead_letter"}}}
				}
				return delivery.Result{Verdict: delivery.Stated, Status: 200, Ack: ack}
			}, withLetters(webhooks.OnExhaustedBlock))
			dead := &keep{}
			r.lane.senders.dead = dead
			r.queue.put(0, 1)
			r.start(t)
			time.Sleep(2 * time.Minute)
			r.wantSafe(t, 2)
			if !slices.Equal(dead.details, []string{"rejected: given up by the receiver"}) {
				t.Errorf("dead letters with %q, want no reason of before", dead.details)
			}
		})
	})
	t.Run("is held when more was given up than the budget allows", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			var calm atomic.Bool
			r := newRig(t, func(ctx context.Context, q request) delivery.Result {
				if calm.Load() {
					return acked(ctx, q)
				}
				return delivery.Result{Verdict: delivery.Stated, Status: 200, Ack: &reject}
			}, withLetters(webhooks.OnExhaustedSkip), batchOfOne)
			r.queue.put(0, 1)
			r.start(t)
			r.wantSafe(t, 1)
			if s, _ := r.inspect(t.Context()); s.State != PartitionBlocked || s.LastError.Code != codeExhaustionHeld {
				t.Errorf("%s with %+v, want it held", s.State, s.LastError)
			}
			calm.Store(true)
			time.Sleep(time.Minute)
			r.wantSafe(t, 2)
		})
	})
}

func batchOfOne(w *webhooks.Webhook) { w.Batch.MaxRecords = 1 }

// A failure for every other record of a large delivery leaves more pieces than a commit's
// metadata has room for: it is written as far as it goes, and all is settled in the end.
func TestAPartialAckOfManyPieces(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const n = 10_000
		var failures []delivery.AckFailure
		for offset := int64(1); offset < n; offset += 2 {
			failures = append(failures, delivery.AckFailure{Offset: offset, Action: "retry"})
		}
		r := newRig(t, states(delivery.Ack{Outcome: "partial", Failures: failures}), func(w *webhooks.Webhook) {
			w.Batch.MaxRecords, w.Batch.MaxBytes, w.Batch.LingerMs = n, 16<<20, 100
			w.Retry.InitialBackoffMs = 1
		})
		for offset := range int64(n) {
			r.queue.put(offset)
		}
		r.start(t)
		time.Sleep(time.Minute)
		r.wantSafe(t, n)
	})
}
