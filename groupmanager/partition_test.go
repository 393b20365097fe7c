package groupmanager

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// queue is a partition queue without Kafka.
type queue struct {
	mu       sync.Mutex
	pending  []int64 // offsets
	position int64
	err      error
	wake     chan struct{}
}

func newQueue() *queue { return &queue{position: -1, wake: make(chan struct{}, 1)} }

func (q *queue) put(offsets ...int64) {
	q.mu.Lock()
	q.pending = append(q.pending, offsets...)
	q.mu.Unlock()
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// marker moves the position past something that is no record.
func (q *queue) marker(position int64) {
	q.mu.Lock()
	q.position = position
	q.mu.Unlock()
	q.signal()
}

func (q *queue) Read(dst *records.Batch, most int) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(most, len(q.pending))
	for _, o := range q.pending[:n] {
		dst.Append(records.Record{Offset: o, Timestamp: 1_790_000_000_000 + o, TimestampType: records.TimestampCreate}, nil, []byte("value"))
		q.position = o + 1
	}
	q.pending = q.pending[n:]
	if n == 0 {
		return 0, q.err
	}
	return n, nil
}

func (q *queue) Wake() <-chan struct{} { return q.wake }

func (q *queue) Position() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.position
}

// request is one attempt as the scripted receiver sees it.
type request struct {
	delivery.Attempt
	first, last int64
	token       acker.Token
}

// receiver is a deliverer without a network.
type receiver struct {
	*delivery.Client // lays out messages
	tokens           *acker.Tokens
	answer           func(context.Context, request) delivery.Result

	mu       sync.Mutex
	requests []request
}

func (r *receiver) Send(ctx context.Context, _ *delivery.Message, a delivery.Attempt) delivery.Result {
	token, err := r.tokens.Parse(a.Token)
	if err != nil {
		return delivery.Result{Code: "bad_token", At: time.Now()}
	}
	q := request{Attempt: a, first: token.First, last: token.Last, token: token}
	r.mu.Lock()
	r.requests = append(r.requests, q)
	r.mu.Unlock()
	res := r.answer(ctx, q)
	res.At = time.Now()
	return res
}

func (r *receiver) seen() []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]request(nil), r.requests...)
}

func acked(context.Context, request) delivery.Result {
	return delivery.Result{Verdict: delivery.Acked, Status: 200}
}

func received(context.Context, request) delivery.Result {
	return delivery.Result{Verdict: delivery.Received, Status: 202}
}

func refused(context.Context, request) delivery.Result {
	return delivery.Result{Verdict: delivery.Failed, Status: 500, Code: "http_500"}
}

// hung ends only with its context.
func hung(ctx context.Context, _ request) delivery.Result {
	<-ctx.Done()
	return delivery.Result{Verdict: delivery.Failed, Code: "canceled"}
}

// letters keeps dead letters in memory.
type letters struct {
	mu      sync.Mutex
	err     error
	written []deadLetter
}

func (w *letters) Write(_ context.Context, l deadLetter) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.written = append(w.written, l)
	}
	return w.err
}

// rig is a partition with everything around it faked; it runs in a bubble.
type rig struct {
	*partition
	queue    *queue
	receiver *receiver
	letters  *letters
	paused   atomic.Bool
	revoke   context.CancelCauseFunc
	faults   []error
	gone     atomic.Int32
}

func newRig(t testing.TB, answer func(context.Context, request) delivery.Result, change ...func(*webhooks.Webhook)) *rig {
	t.Helper()
	w := webhooks.Default()
	w.ID, w.GroupID, w.URL, w.Topics = "orders-to-billing", "g", "https://receiver.test/", []string{"orders"}
	for _, c := range change {
		c(&w)
	}
	client, err := delivery.NewClient(delivery.Config{Webhook: w, Secret: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := newInstruments(noop.NewMeterProvider().Meter(""), w.ID)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{queue: newQueue(), letters: &letters{}}
	r.receiver = &receiver{Client: client, tokens: acker.NewTokens(make([]byte, 32)), answer: answer}
	cfg := &laneConfig{
		webhook: w, client: r.receiver, dead: r.letters, tokens: r.receiver.tokens, ids: acker.NewDeliveryIDs(make([]byte, 32)),
		generation: func() int32 { return 7 },
		publish:    func(t *tenure, n int64) { t.safe.Store(max(n, t.safe.Load())) },
		gone:       func() { r.paused.Store(true); r.gone.Add(1) },
		metrics:    metrics, tracer: &tracer{}, logger: slog.New(slog.DiscardHandler),
	}
	tenure := newTenure(topicPartition{"orders", 3}, [16]byte{}, 7, 0)
	r.partition = newPartition(cfg, tenure, r.queue, &r.paused, func(_ topicPartition, err error) { r.faults = append(r.faults, err) })
	return r
}

const testDrain = 5 * time.Second

// start runs the partition until the test ends or revokes it.
func (r *rig) start(t testing.TB) {
	ctx, cancel := context.WithCancelCause(context.Background())
	r.revoke = cancel
	go r.run(ctx, testDrain)
	t.Cleanup(func() { cancel(nil); <-r.done; r.receiver.Close() })
}

func (r *rig) tell(t *testing.T, a ask) reply {
	t.Helper()
	back, err := r.ask(t.Context(), a)
	if err != nil {
		t.Fatalf("ask: %v", err)
	}
	return back
}

func (r *rig) wantSafe(t *testing.T, want int64) {
	t.Helper()
	synctest.Wait()
	if got := r.tenure.safe.Load(); got != want {
		t.Errorf("safe offset is %d, want %d", got, want)
	}
}

func (r *rig) wantRequests(t *testing.T, want ...[2]int64) []request {
	t.Helper()
	synctest.Wait()
	seen := r.receiver.seen()
	var got [][2]int64
	for _, q := range seen {
		got = append(got, [2]int64{q.first, q.last})
	}
	if len(got) != len(want) {
		t.Fatalf("requests %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("requests %v, want %v", got, want)
		}
	}
	return seen
}

// bubble runs f under a fake clock; a goroutine left behind fails the test.
func bubble(t *testing.T, f func(t *testing.T)) { t.Helper(); synctest.Test(t, f) }

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
