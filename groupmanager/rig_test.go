package groupmanager

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/groupmanager/pacing"
	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// queue is a partition queue without Kafka.
type queue struct {
	mu       sync.Mutex
	pending  []int64 // offsets
	damaged  []int64 // those whose values are not JSON
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
		dst.Append(records.Record{Offset: o, Timestamp: 1_790_000_000_000 + o, TimestampType: records.TimestampCreate}, nil, q.value(o))
		q.position = o + 1
	}
	q.pending = q.pending[n:]
	if n == 0 {
		return 0, q.err
	}
	return n, nil
}

func (q *queue) value(offset int64) []byte {
	if slices.Contains(q.damaged, offset) {
		return []byte("value")
	}
	return []byte(`"value"`)
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
	revision atomic.Int64 // of the webhook
	lease    lease
}

func newRig(t testing.TB, answer func(context.Context, request) delivery.Result, change ...func(*webhooks.Webhook)) *rig {
	t.Helper()
	w := webhooks.Default()
	w.ID, w.GroupID, w.URL, w.Topics = "orders-to-billing", "g", "https://receiver.test/", []string{"orders"}
	for _, c := range change {
		c(&w)
	}
	client, err := delivery.NewClient(delivery.Config{Webhook: w})
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := newInstruments(noop.NewMeterProvider().Meter(""), w.ID)
	if err != nil {
		t.Fatal(err)
	}
	accepts, err := filterOf(w)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{queue: newQueue(), letters: &letters{}}
	r.receiver = &receiver{Client: client, tokens: acker.NewTokens(make([]byte, 32)), answer: answer}
	cfg := &laneConfig{
		webhook: w, client: r.receiver, dead: r.letters, filter: accepts, tokens: r.receiver.tokens, ids: acker.NewDeliveryIDs(make([]byte, 32)),
		generation: func() int32 { return 7 },
		publish:    func(t *tenure, n int64) { t.safe.Store(max(n, t.safe.Load())) },
		note:       func(t *tenure, n *note) { t.noted.Store(n) },
		lease:      &r.lease,
		pacer:      pacing.New(pacing.Config{LineInFlight: w.MaxInFlight, LongestPause: time.Duration(w.Retry.MaxBackoffMs) * time.Millisecond}),
		owner:      "replica-1",
		revision:   r.revision.Load,
		gone:       r.departed,
		metrics:    metrics, tracer: &tracer{}, logger: slog.New(slog.DiscardHandler),
	}
	r.lease.renew(time.Now().Add(1000 * time.Hour))
	tn := newTenure(topicPartition{"orders", 3}, [16]byte{}, 7, position{})
	r.partition = newPartition(cfg, tn, r.queue, &r.paused, func(_ *tenure, err error) { r.faults = append(r.faults, err) })
	return r
}

// departed takes a 410, or a loop, as a group does.
func (r *rig) departed(_ delivery.Verdict, revision int64) {
	if revision == r.revision.Load() {
		r.paused.Store(true)
		r.gone.Add(1)
	}
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
