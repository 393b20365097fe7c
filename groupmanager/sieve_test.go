package groupmanager

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

func filtered(expression string) func(*webhooks.Webhook) {
	return func(w *webhooks.Webhook) { w.Filter = &expression }
}

func inFlightOf(n int) func(*webhooks.Webhook) {
	return func(w *webhooks.Webhook) { w.Ordering, w.MaxInFlight = webhooks.OrderingNone, n }
}

// count returns the offsets from..to-1.
func count(from, to int64) []int64 {
	var offsets []int64
	for o := from; o < to; o++ {
		offsets = append(offsets, o)
	}
	return offsets
}

func (r *rig) wantFiltered(t *testing.T, want int64) {
	t.Helper()
	if s, ok := r.inspect(t.Context()); !ok || s.Filtered != want {
		t.Errorf("%d records were filtered, want %d", s.Filtered, want)
	}
}

func TestAFilteredPartitionDeliversWhatPassesAndCommitsOverTheRest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked, filtered(`offset % 2 == 1`))
		r.queue.put(count(0, 11)...)
		r.start(t)
		r.wantRequests(t, [2]int64{1, 9})
		r.wantSafe(t, 11)
		r.wantFiltered(t, 6)
	})
}

func TestWhatIsFilteredWhollyIsCommittedAndNobodyIsCalled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked, filtered(`false`))
		r.start(t)
		r.queue.put(count(0, 20_000)...)
		r.wantRequests(t)
		r.wantSafe(t, 20_000)
		r.queue.marker(20_002)
		r.wantSafe(t, 20_002)
		r.wantFiltered(t, 20_000)
	})
}

func TestARecordThatAFilterCannotJudgeIsDeliveredAndToldOfOnceAMinute(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var log bytes.Buffer
		r := newRig(t, acked, filtered(`offset < 100 && value.total > 1`))
		r.lane.logger = slog.New(slog.NewTextHandler(&log, nil))
		r.queue.put(count(0, 150)...)
		r.start(t)
		r.wantRequests(t, [2]int64{0, 99})
		r.wantSafe(t, 150)
		if n := strings.Count(log.String(), "could not be evaluated"); n != 1 {
			t.Errorf("%d complaints, want 1:\n%s", n, log.String())
		}
		time.Sleep(sieveComplaints)
		r.queue.put(1, 2) // the fake does not mind
		synctest.Wait()
	})
}

// A record between, before or behind those that pass must not carry the commit over
// one that was not acked.
func TestFilteredRecordsNeverCarryACommitOverAnOpenOne(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*webhooks.Webhook)
		want   [][2]int64
	}{
		{"in order", func(*webhooks.Webhook) {}, [][2]int64{{3, 3}}},
		{"without order", inFlightOf(2), [][2]int64{{3, 3}, {6, 6}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var free atomic.Bool
				r := newRig(t, func(ctx context.Context, q request) delivery.Result {
					if q.first == 3 && !free.Load() {
						return refused(ctx, q)
					}
					return acked(ctx, q)
				}, filtered(`offset == 3 || offset == 6`), batchOne, c.change)
				r.queue.put(count(0, 600)...)
				r.start(t)
				synctest.Wait()
				var got [][2]int64
				for _, q := range r.receiver.seen() {
					got = append(got, [2]int64{q.first, q.last})
				}
				slices.SortFunc(got, func(a, b [2]int64) int { return cmp.Compare(a[0], b[0]) }) // they are sent at once
				if !slices.Equal(got, c.want) {
					t.Errorf("requests %v, want %v", got, c.want)
				}
				r.wantSafe(t, 3)
				time.Sleep(100 * time.Millisecond)
				if safe := r.tenure.safe.Load(); safe > 3 {
					t.Errorf("safe offset is %d with 3 open", safe)
				}
				free.Store(true)
				time.Sleep(time.Minute)
				r.wantSafe(t, 600)
			})
		})
	}
}

func batchOne(w *webhooks.Webhook) { w.Batch.MaxRecords = 1 }

func TestADeliveryIsFullOfRecordsThatPass(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked, filtered(`offset % 100 == 0`), func(w *webhooks.Webhook) { w.Batch.MaxRecords = 50 })
		r.queue.put(count(0, 10_000)...)
		r.start(t)
		r.wantRequests(t, [2]int64{0, 4900}, [2]int64{5000, 9900})
		r.wantSafe(t, 10_000)
	})
}

func TestLingerIsForRecordsThatPass(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked, filtered(`offset >= 10`), func(w *webhooks.Webhook) { w.Batch.LingerMs = 100 })
		r.start(t)
		r.queue.put(count(0, 10)...)
		r.wantSafe(t, 10) // nothing waits for company
		r.queue.put(10)
		time.Sleep(99 * time.Millisecond)
		r.queue.put(11)
		r.wantRequests(t)
		time.Sleep(2 * time.Millisecond)
		r.wantRequests(t, [2]int64{10, 11})
	})
}

// What an earlier tenure settled is neither sent again nor in the way of a filter.
func TestAFilterAndWhatAnEarlierTenureSettled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked, filtered(`offset % 2 == 0`), inFlightOf(4))
		r.tenure.resume.Acked = []acker.Run{{First: 10, Last: 19}, {First: 30, Last: 31}}
		r.queue.put(count(0, 40)...)
		r.start(t)
		r.wantSafe(t, 40)
		var got [][2]int64
		for _, q := range r.receiver.seen() {
			got = append(got, [2]int64{q.first, q.last})
		}
		slices.SortFunc(got, func(a, b [2]int64) int { return int(a[0] - b[0]) })
		if want := [][2]int64{{0, 8}, {20, 28}, {32, 38}}; !slices.Equal(got, want) {
			t.Errorf("requests %v, want %v", got, want)
		}
	})
}

// A turn that is over with a delivery under way, or with the webhook paused, waits
// for what comes and does not go round and round: then the bubble would not rest.
func TestATurnThatIsOverRestsWhenNothingMayStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, hung, filtered(`offset % 5000 == 0`), batchOne)
		r.queue.put(count(0, 20_000)...)
		r.start(t)
		r.wantRequests(t, [2]int64{0, 0})
		r.paused.Store(true)
		r.nudge()
		synctest.Wait()
	})
}

func TestAnErrorOfTheSourceComesAfterWhatWasReadBefore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, acked, filtered(`offset % 2 == 0`))
		r.queue.put(count(0, 5)...)
		r.queue.err = fmt.Errorf("broken")
		r.start(t)
		r.wantRequests(t, [2]int64{0, 4})
		if len(r.faults) != 1 {
			t.Errorf("faults %v, want the queue's", r.faults)
		}
	})
}

// Whatever passes and however the receiver fails: each record that passes is acked
// before the commit goes over it, no other is sent, and the end is reached.
func TestAFilterLosesNothing(t *testing.T) {
	for seed := range uint64(60) {
		bubble(t, func(t *testing.T) {
			random, moods := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2)) // moods is the receiver's, under mu
			step, n := 1+random.Int64N(12), 1+random.Int64N(3000)
			passes := func(o int64) bool { return o*7%step == 0 }
			var mu sync.Mutex
			settled := map[int64]bool{}
			var r *rig
			check := func() {
				mu.Lock()
				defer mu.Unlock()
				for o := range r.tenure.safe.Load() {
					if passes(o) && !settled[o] {
						t.Fatalf("seed %d: committed over %d, which was not acked", seed, o)
					}
				}
			}
			answer := func(ctx context.Context, q request) delivery.Result {
				mu.Lock()
				defer mu.Unlock()
				if moods.IntN(3) == 0 {
					return refused(ctx, q)
				}
				for o := q.first; o <= q.last; o++ {
					settled[o] = settled[o] || passes(o)
				}
				return acked(ctx, q)
			}
			r = newRig(t, answer, filtered(fmt.Sprintf(`offset * 7 %% %d == 0`, step)), func(w *webhooks.Webhook) {
				w.Batch.MaxRecords, w.Batch.LingerMs = 1+random.IntN(40), random.IntN(2)*20
				if random.IntN(2) == 0 {
					w.Ordering, w.MaxInFlight = webhooks.OrderingNone, 1+random.IntN(5)
				}
			})
			r.start(t)
			for o := int64(0); o < n; {
				end := min(n, o+1+random.Int64N(900))
				r.queue.put(count(o, end)...)
				o = end
				time.Sleep(time.Duration(random.Int64N(int64(time.Second))))
				check()
			}
			time.Sleep(time.Hour)
			check()
			r.wantSafe(t, n)
		})
	}
}

// The queue brings records, none of which passes, as fast as it is read.
func TestCommitsMoveAndOthersAreServedWhileNothingPasses(t *testing.T) {
	r := newRig(t, acked, filtered(`value_bytes == b"never"`))
	source := &spring{value: []byte("value"), wake: make(chan struct{})}
	r.sieve.source = source
	r.start(t)
	deadline := time.Now().Add(20 * time.Second)
	var slowest time.Duration
	for safe := int64(0); r.tenure.safe.Load() < 100_000; {
		if time.Now().After(deadline) {
			t.Fatalf("the safe offset is %d", r.tenure.safe.Load())
		}
		start := time.Now()
		if _, ok := r.inspect(t.Context()); !ok {
			t.Fatal("the partition has ended")
		}
		slowest = max(slowest, time.Since(start))
		if now := r.tenure.safe.Load(); now < safe {
			t.Fatalf("the safe offset went from %d to %d", safe, now)
		} else {
			safe = now
		}
	}
	if slowest > 2*time.Second {
		t.Errorf("a question took %v", slowest)
	}
	start := time.Now()
	r.revoke(nil)
	<-r.done
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("the revoke took %v", took)
	}
}

// What was read and is still to be judged holds the commit back, also when a turn
// ends with nothing to deliver.
func TestWhatIsStillToBeJudgedHoldsTheCommit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, hung, filtered(`offset == 1500`))
		r.queue.put(count(0, 5000)...)
		r.start(t)
		r.wantRequests(t, [2]int64{1500, 1500})
		if safe := r.tenure.safe.Load(); safe > 1500 || len(r.faults) > 0 {
			t.Errorf("the safe offset is %d with 1500 open, faults %v", safe, r.faults)
		}
	})
}
