package groupmanager

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// unordered lets single records go to the receiver in any order.
func unordered(inFlight int) func(*webhooks.Webhook) {
	return func(w *webhooks.Webhook) {
		w.Ordering, w.MaxInFlight, w.Batch.MaxRecords = webhooks.OrderingNone, inFlight, 1
	}
}

// wantNote fails unless the last note belongs to that offset and says that.
func (r *rig) wantNote(t *testing.T, at int64, want acker.Metadata) {
	t.Helper()
	synctest.Wait()
	text, err := want.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := r.tenure.noted.Load(); n.at != at || n.text != string(text) {
		t.Errorf("note %q at %d, want %q at %d", n.text, n.at, text, at)
	}
}

// successor is a rig that begins where another owner would after a crash now: at
// the offset that is safe, with the note if it belongs to it.
func (r *rig) successor(t *testing.T, answer func(context.Context, request) delivery.Result, change ...func(*webhooks.Webhook)) *rig {
	t.Helper()
	synctest.Wait()
	next := newRig(t, answer, change...)
	next.partition.tenure = newTenure(r.tenure.topicPartition, r.tenure.topicID, 8, r.tenure.position())
	next.lane.tenure = next.partition.tenure
	return next
}

func TestAFirstAttemptUnderWayIsNotNoted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, hung)
		r.queue.put(0)
		r.start(t)
		time.Sleep(time.Second)
		r.wantNote(t, 0, acker.Metadata{})
	})
}

func TestAttemptsThatAreOverAreNoted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var hang atomic.Bool
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			if hang.Load() {
				return hung(ctx, q)
			}
			return refused(ctx, q)
		})
		r.queue.put(0)
		r.start(t)
		began := time.Now()
		r.wantNote(t, 0, acker.Metadata{Attempts: 1, FirstAttempt: began})
		hang.Store(true)
		time.Sleep(time.Minute)
		r.wantRequests(t, [2]int64{0, 0}, [2]int64{0, 0})
		r.revoke(context.Canceled)
		<-r.done
		r.wantNote(t, 0, acker.Metadata{Attempts: 1, FirstAttempt: began}) // the second was cut by us
	})
}

func TestALeasedAttemptIsNoted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, received)
		r.queue.put(0)
		r.start(t)
		r.wantNote(t, 0, acker.Metadata{Attempts: 1, FirstAttempt: time.Now()})
	})
}

func TestTheNextOwnerCountsAttemptsOn(t *testing.T) {
	limit := func(change func(*webhooks.Retry)) func(*webhooks.Webhook) {
		return func(w *webhooks.Webhook) {
			w.OnExhausted, w.Batch.MaxRecords = webhooks.OnExhaustedSkip, 1
			change(&w.Retry)
		}
	}
	for _, test := range []struct {
		claim string
		limit func(*webhooks.Retry)
	}{
		{"up to max_attempts", func(r *webhooks.Retry) { r.MaxAttempts = 2 }},
		{"up to max_age_ms", func(r *webhooks.Retry) {
			r.MaxAgeMs = 60_000
			r.MaxBackoffMs = 3_600_000
			r.InitialBackoffMs = 3_600_000
		}},
	} {
		t.Run(test.claim, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				first := newRig(t, refused, limit(test.limit))
				first.queue.put(0, 1)
				first.start(t)
				first.wantSafe(t, 0)
				first.revoke(errLost)
				<-first.done
				time.Sleep(time.Minute)

				next := first.successor(t, func(ctx context.Context, q request) delivery.Result {
					if q.first == 1 {
						return hung(ctx, q)
					}
					return refused(ctx, q)
				}, limit(test.limit))
				next.queue.put(0, 1)
				next.start(t)
				seen := next.wantRequests(t, [2]int64{0, 0}) // one attempt more, and it is exhausted
				if s, _ := next.inspect(t.Context()); s.LastError == nil || s.LastError.Code != codeExhaustionHeld || seen[0].Number != 2 {
					t.Errorf("attempt %d with %+v, want the 2nd, and that it is held: the first owner may have given up another", seen[0].Number, s.LastError)
				}
				time.Sleep(freeEvery)
				seen = next.wantRequests(t, [2]int64{0, 0}, [2]int64{0, 0}, [2]int64{1, 1})
				if seen[1].Number != 3 || seen[2].Number != 1 {
					t.Errorf("attempts %d and %d, want 3 of the delivery that was begun and 1 of the other", seen[1].Number, seen[2].Number)
				}
				next.wantSafe(t, 1)
			})
		})
	}
}

func TestAttemptsBelongToTheDeliveryAtTheCommittedOffsetOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked)
		r.tenure.start, r.tenure.resume = 10, acker.Metadata{Attempts: 7, FirstAttempt: time.Now()}
		r.queue.put(12)
		r.start(t)
		if seen := r.wantRequests(t, [2]int64{12, 12}); seen[0].Number != 1 {
			t.Errorf("attempt %d of another delivery than the one begun, want 1", seen[0].Number)
		}
	})
}

func TestWhatWasAckedAboveTheCommitIsNotSentAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		hangs := func(offsets ...int64) func(context.Context, request) delivery.Result {
			return func(ctx context.Context, q request) delivery.Result {
				for _, o := range offsets {
					if q.first == o {
						return hung(ctx, q)
					}
				}
				return acked(ctx, q)
			}
		}
		first := newRig(t, hangs(0, 3), unordered(4))
		first.queue.put(0, 1, 2, 3, 4, 5, 7) // 6 is a marker
		first.start(t)
		time.Sleep(noteInterval)
		ranges := acker.Metadata{Acked: []acker.Run{{First: 1, Last: 2}, {First: 4, Last: 7}}}
		first.wantSafe(t, 0)
		first.wantNote(t, 0, ranges)

		second := first.successor(t, hangs(0, 3), unordered(4))
		second.queue.put(0, 1, 2, 3, 4, 5, 7)
		second.start(t)
		second.wantRequests(t, [2]int64{0, 0}, [2]int64{3, 3})
		second.wantNote(t, 0, ranges) // still, for a second crash

		third := second.successor(t, acked, func(w *webhooks.Webhook) { w.Batch.MaxRecords, w.Batch.LingerMs = 100, 1000 })
		third.queue.put(0, 1, 2, 3, 4, 5, 7, 8)
		third.start(t)
		third.wantRequests(t, [2]int64{0, 0}, [2]int64{3, 3}) // not over what was acked, and nothing more can join them
		time.Sleep(time.Second)
		third.wantRequests(t, [2]int64{0, 0}, [2]int64{3, 3}, [2]int64{8, 8})
		third.wantSafe(t, 9)
	})
}

func TestAnOffsetWithSomethingAckedAboveWaitsForItsNote(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			switch q.first {
			case 0:
				<-release
			case 1:
				return hung(ctx, q)
			}
			return acked(ctx, q)
		}, unordered(3))
		r.queue.put(0, 1, 2)
		r.start(t)
		above := acker.Metadata{Acked: []acker.Run{{First: 2, Last: 2}}}
		r.wantNote(t, 0, above) // the first at once
		close(release)
		r.wantNote(t, 0, above)
		r.wantSafe(t, 0)
		time.Sleep(noteInterval)
		r.wantNote(t, 1, above)
		r.wantSafe(t, 1)
	})
}

func TestAnAckThatMayWaitForItsCommitIsToldAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			if q.first == 2 {
				return acked(ctx, q)
			}
			return received(ctx, q)
		}, unordered(3))
		r.queue.put(0, 1, 2)
		r.start(t)
		synctest.Wait()
		r.tell(t, ask{statement: acker.Statement{First: 0, Last: 0, UpTo: 0}})
		r.wantSafe(t, 1)
		if n := r.tenure.noted.Load(); n.at != 1 {
			t.Errorf("note at %d, want it with the offset 1", n.at)
		}
	})
}

func TestTheDrainEndsWithAnExactNote(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			switch q.first {
			case 0:
				time.Sleep(noteInterval / 5) // too soon for the next note
			case 1:
				return received(ctx, q)
			}
			return acked(ctx, q)
		}, unordered(3))
		r.queue.put(0, 1, 2)
		r.start(t)
		synctest.Wait()
		began := time.Now()
		r.revoke(context.Canceled)
		<-r.done
		r.wantSafe(t, 1)
		r.wantNote(t, 1, acker.Metadata{Attempts: 1, FirstAttempt: began, Acked: []acker.Run{{First: 2, Last: 2}}})
	})
}

// Every second delivery hangs, far from the next one, so that the metadata becomes
// long: the lane stops sending before it is too long for a commit.
func TestTheMetadataOfACommitIsNeverTooLong(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const apart = 1 << 40
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			if q.first/apart%2 == 0 {
				return hung(ctx, q)
			}
			return acked(ctx, q)
		}, unordered(1000))
		for n := range int64(1500) {
			r.queue.put(n * apart)
		}
		r.start(t)
		time.Sleep(noteInterval)
		synctest.Wait()
		sent := len(r.receiver.seen())
		if sent < 300 || sent > 1400 {
			t.Errorf("%d deliveries sent, want hundreds but not all", sent)
		}
		n := r.tenure.noted.Load()
		m, err := acker.ParseMetadata(n.text)
		if err != nil {
			t.Fatalf("note of %d bytes: %v", len(n.text), err)
		}
		if len(m.Acked) != sent/2 {
			t.Errorf("%d acked runs noted, want all of %d", len(m.Acked), sent/2)
		}
	})
}

func TestATooLargeDeliveryWaitsForRoomToBeCut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const apart, pairs = 1 << 40, 1000
		calm := make(chan struct{})
		r := newRig(t, func(ctx context.Context, q request) delivery.Result {
			if q.last > q.first {
				return delivery.Result{Verdict: delivery.TooLarge, Status: 413, Code: "http_413"}
			}
			<-calm
			return acked(ctx, q)
		}, unordered(1000), func(w *webhooks.Webhook) {
			w.Batch.MaxRecords, w.OnExhausted, w.Retry.MaxAttempts = 2, webhooks.OnExhaustedSkip, 1
		})
		for n := range int64(pairs) {
			r.queue.put(n*apart, n*apart+1)
		}
		r.start(t)
		synctest.Wait()
		whole, halves := 0, 0
		for _, o := range r.lane.open {
			if o.batch.Len() == 2 {
				whole++
			} else {
				halves++
			}
		}
		if whole < 100 || halves > 4 {
			t.Errorf("%d deliveries whole and %d halves while there is no room, want hundreds and those of the head", whole, halves)
		}
		close(calm)
		time.Sleep(10 * time.Minute)
		r.wantSafe(t, (pairs-1)*apart+2)
		alone := make(map[int64]bool)
		for _, q := range r.receiver.seen() {
			if q.first == q.last {
				alone[q.first] = true
			}
		}
		if len(alone) != 2*pairs {
			t.Errorf("%d records were delivered, want all %d and none skipped", len(alone), 2*pairs)
		}
	})
}

// tooLarge answers 413 to all but single records, which go to next.
func tooLarge(next func(context.Context, request) delivery.Result) func(context.Context, request) delivery.Result {
	return func(ctx context.Context, q request) delivery.Result {
		if q.last > q.first {
			return delivery.Result{Verdict: delivery.TooLarge, Status: 413, Code: "http_413"}
		}
		return next(ctx, q)
	}
}

// A record that came out of three cuts had used up three of its attempts, and was
// skipped at its first failure.
func TestACutIsNoFailedAttempt(t *testing.T) {
	for _, test := range []struct {
		claim  string
		answer func(context.Context, request) delivery.Result
		tried  int // times that a record is sent alone
		held   int // times more, because the governor does not let it be given up at once
	}{
		{"a record is sent until it is acked", func(ctx context.Context, q request) delivery.Result {
			if q.Number < 5 { // the first alone is the fourth
				return refused(ctx, q)
			}
			return acked(ctx, q)
		}, 2, 0},
		{"or until max_attempts have failed", func(context.Context, request) delivery.Result { // not for the receiver's health
			return delivery.Result{Verdict: delivery.Failed, Status: 400, Code: "http_400"}
		}, 3, 1},
		{"of which one is a 413 of a single record", func(ctx context.Context, q request) delivery.Result {
			return delivery.Result{Verdict: delivery.TooLarge, Status: 413, Code: "http_413"}
		}, 3, 1},
	} {
		t.Run(test.claim, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, tooLarge(test.answer), func(w *webhooks.Webhook) {
					w.Batch.MaxRecords, w.OnExhausted, w.Retry.MaxAttempts = 8, webhooks.OnExhaustedSkip, 3
				})
				r.queue.put(0, 1, 2, 3, 4, 5, 6, 7)
				r.start(t)
				time.Sleep(time.Hour)
				r.wantSafe(t, 8)
				alone, number := make(map[int64]int), make(map[int64]int)
				for _, q := range r.receiver.seen() {
					if q.first == q.last {
						alone[q.first]++
					}
					for o := q.first; o <= q.last; o++ {
						if q.Number != number[o]+1 {
							t.Errorf("attempt %d of offset %d after %d, want them counted on", q.Number, o, number[o])
						}
						number[o] = q.Number
					}
				}
				for o := range int64(8) {
					want := test.tried
					if o > 0 {
						want += test.held
					}
					if alone[o] != want {
						t.Errorf("offset %d was sent alone %d times, want %d", o, alone[o], want)
					}
				}
			})
		})
	}
}

// Half of what was too large has no time at which it is due. It may be left waiting with
// nothing to tell of its turn: refused by the pacer, which then lets a new delivery go.
func TestWhatIsDueAtOnceIsNotForgotten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked, func(w *webhooks.Webhook) { w.Ordering, w.MaxInFlight = webhooks.OrderingNone, 4 })
		for n := range int64(2) {
			book, err := r.lane.ledger.Deliver([]acker.Run{{First: 10 * n, Last: 10 * n}})
			if err != nil {
				t.Fatal(err)
			}
			r.lane.open = append(r.lane.open, &outgoing{book: book})
		}
		leased := r.lane.open[0]
		leased.deadline = time.Now().Add(time.Minute)
		r.lane.ledger.Send(leased.book, time.Now())
		r.lane.ledger.Lease(leased.book)
		if at := r.lane.wakeAt(false); at.IsZero() || at.After(time.Now()) {
			t.Errorf("the lane wakes at %v, want at once", at)
		}
		if at := r.lane.wakeAt(true); !at.Equal(leased.deadline) {
			t.Errorf("while nothing may start the lane wakes at %v, want at the end of the lease, %v", at, leased.deadline)
		}
	})
}

// Deliveries grow again after a 413 however their acks come.
func TestDeliveriesGrowAgainAfterA413(t *testing.T) {
	for _, test := range []struct {
		claim  string
		answer func(context.Context, request) delivery.Result
		post   bool
	}{
		{"acked by their status", acked, false},
		{"acked inline", func(context.Context, request) delivery.Result {
			return delivery.Result{Verdict: delivery.Stated, Status: 200, Ack: &delivery.Ack{}}
		}, false},
		{"acked by POST /ack", received, true},
	} {
		t.Run(test.claim, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, func(ctx context.Context, q request) delivery.Result {
					if q.first == 0 && q.last == 1 {
						return delivery.Result{Verdict: delivery.TooLarge, Status: 413, Code: "http_413"}
					}
					return test.answer(ctx, q)
				}, func(w *webhooks.Webhook) { w.Batch.MaxRecords = 2 })
				r.start(t)
				for n := int64(0); n < growAfter+10; n += 2 {
					r.queue.put(n, n+1)
					synctest.Wait()
					for ; test.post && r.tenure.safe.Load() < n+2; synctest.Wait() {
						at := r.tenure.safe.Load()
						seen := r.receiver.seen()
						last := seen[len(seen)-1].last
						if back := r.tell(t, ask{statement: acker.Statement{First: at, Last: last, UpTo: last}}); back.err != nil {
							t.Fatal(back.err)
						}
					}
				}
				seen := r.receiver.seen()
				if q := seen[len(seen)-1]; q.first == q.last {
					t.Errorf("after %d deliveries the last had one record, want two", len(seen))
				}
			})
		})
	}
}

func TestTheNextOwnerCountsNoCuts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		limit := func(w *webhooks.Webhook) {
			w.Batch.MaxRecords, w.OnExhausted, w.Retry.MaxAttempts = 4, webhooks.OnExhaustedSkip, 2
			w.Retry.InitialBackoffMs, w.Retry.MaxBackoffMs = 3_600_000, 3_600_000
		}
		first := newRig(t, tooLarge(refused), limit)
		first.queue.put(0, 1, 2, 3)
		first.start(t)
		began := time.Now()
		time.Sleep(noteInterval)
		first.wantNote(t, 0, acker.Metadata{Attempts: 1, FirstAttempt: began})
		first.revoke(errLost)
		<-first.done

		next := first.successor(t, tooLarge(acked), limit)
		next.queue.put(0, 1, 2, 3)
		next.start(t)
		next.wantSafe(t, 4)
		seen := next.receiver.seen()
		if q := seen[2]; q.first != 0 || q.last != 0 || q.Number != 4 { // one failed, and two cuts of its own
			t.Errorf("attempt %d of %d-%d, want the 4th of the first record", q.Number, q.first, q.last)
		}
	})
}

func TestTellingOfPlainProgressAllocatesNothing(t *testing.T) {
	r := newRig(t, acked)
	r.lane.ledger.Advance(1)
	if got := testing.AllocsPerRun(1000, func() { r.lane.tell(false) }); got > 0 {
		t.Errorf("allocations: got %v, want none", got)
	}
}

func TestTokensNameTheirOwner(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked)
		r.queue.put(0)
		r.start(t)
		if seen := r.wantRequests(t, [2]int64{0, 0}); seen[0].token.Owner != r.lane.owner {
			t.Errorf("owner %q, want %q", seen[0].token.Owner, r.lane.owner)
		}
	})
}

func TestANoteThatWouldBeTooLongLeavesOutRuns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, refused)
		var runs []acker.Run
		for n := range int64(1000) {
			runs = append(runs, acker.Run{First: (n + 1) << 40, Last: (n + 1) << 40})
		}
		r.tenure.start, r.tenure.resume = 0, acker.Metadata{Acked: runs}
		r.queue.put(0)
		r.start(t)
		synctest.Wait()
		n := r.tenure.noted.Load()
		m, err := acker.ParseMetadata(n.text)
		if err != nil || len(m.Acked) == 0 || len(m.Acked) >= len(runs) || m.Acked[0] != runs[0] {
			t.Errorf("note of %d bytes with %d runs, %v; want the lowest of %d", len(n.text), len(m.Acked), err, len(runs))
		}
	})
}
