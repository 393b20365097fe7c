package groupmanager_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/webhooks"
)

// keyReceiver is an HTTP server that takes 50 ms for each delivery, fails some, and
// holds what comes against the order of the keys.
type keyReceiver struct {
	*httptest.Server

	mu         sync.Mutex
	random     *rand.Rand
	fails      int              // percent
	acked      map[int64]bool   // offsets
	before     map[int64]int64  // the offset before with the same key; none for the first
	busy       map[string]int64 // first offset of the request that has the key
	answered   int
	duplicates int
	violations []string
	batches    int
	largest    int
}

func newKeyReceiver(t *testing.T, keys []string, fails int) *keyReceiver {
	r := &keyReceiver{
		random: rand.New(rand.NewPCG(1, 2)), fails: fails,
		acked: map[int64]bool{}, before: map[int64]int64{}, busy: map[string]int64{},
	}
	last := map[string]int64{}
	for i, k := range keys {
		if o, ok := last[k]; ok {
			r.before[int64(i)] = o
		}
		last[k] = int64(i)
	}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *keyReceiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	var body struct {
		Records []struct {
			Offset int64
			Key    string
		}
	}
	if err := json.NewDecoder(req.Body).Decode(&body); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	r.batches++
	r.largest = max(r.largest, len(body.Records))
	here := map[int64]bool{}
	keys := map[string]bool{}
	for _, rec := range body.Records {
		if other, ok := r.busy[rec.Key]; ok && !keys[rec.Key] {
			r.violations = append(r.violations, fmt.Sprintf("%d came while the request from %d on has its key", rec.Offset, other))
		}
		if before, ok := r.before[rec.Offset]; ok && !r.acked[before] && !here[before] {
			r.violations = append(r.violations, fmt.Sprintf("%d came and %d of its key was not acked", rec.Offset, before))
		}
		if r.acked[rec.Offset] {
			r.duplicates++
		}
		here[rec.Offset], keys[rec.Key] = true, true
		r.busy[rec.Key] = body.Records[0].Offset
	}
	failed := r.random.IntN(100) < r.fails
	r.mu.Unlock()

	time.Sleep(50 * time.Millisecond)

	r.mu.Lock()
	for k := range keys {
		delete(r.busy, k)
	}
	if !failed {
		for o := range here {
			if !r.acked[o] {
				r.acked[o] = true
				r.answered++
			}
		}
	}
	r.mu.Unlock()
	if failed {
		w.WriteHeader(http.StatusInternalServerError)
	}
}

func (r *keyReceiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answered
}

func (r *keyReceiver) check(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.violations); n > 0 {
		t.Errorf("%d violations of the order, the first: %s", n, r.violations[0])
	}
}

// produceKeys writes n records of random keys to one partition, and returns the keys.
func produceKeys(t *testing.T, h *house, topic string, n, keys int) []string {
	t.Helper()
	random := rand.New(rand.NewPCG(3, 4))
	h.kafka.CreateTopic(t, topic, 1)
	var all []string
	var records []*kgo.Record
	for i := range n {
		k := fmt.Sprint("key-", random.IntN(keys))
		all = append(all, k)
		records = append(records, &kgo.Record{Topic: topic, Key: []byte(k), Value: fmt.Appendf(nil, `{"n":%d}`, i)})
	}
	for chunk := range slices.Chunk(records, 1000) {
		h.kafka.Produce(t, new(gatewaytest.Produced), chunk...)
	}
	return all
}

// byKeyTo orders by key and delivers to r: so many deliveries at a time of up to 10 records.
func byKeyTo(r *keyReceiver, inFlight int) func(*webhooks.Webhook) {
	return func(w *webhooks.Webhook) {
		w.Ordering, w.MaxInFlight, w.Batch.MaxRecords = webhooks.OrderingKey, inFlight, 10
		w.URL, w.Start = r.Server.URL+"/", webhooks.StartEarliest
		w.Retry.InitialBackoffMs, w.Retry.MaxBackoffMs = 20, 500
	}
}

// TestKeyOrderOverAHandOver delivers by key while a tenth of the requests fail, and
// moves the partition to another replica and on, again and again.
func TestKeyOrderOverAHandOver(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	keys := produceKeys(t, h, "orders", 20_000, 1000)
	r := newKeyReceiver(t, keys, 10)
	if _, err := h.Create(t.Context(), h.spec(t, "a", "orders", byKeyTo(r, 8))); err != nil {
		t.Fatal(err)
	}
	reached := func(n int) {
		t.Helper()
		gatewaytest.Await(t, 4*patience, func() error {
			if got := r.count(); got < n {
				return fmt.Errorf("%d records acked, want %d", got, n)
			}
			return nil
		})
	}
	reached(2_000)
	other := h.another(t)
	reached(6_000)
	h.stop() // the partition goes to the other, if it was not there
	reached(10_000)
	h.start(t)
	reached(12_000)
	other.stop()
	reached(len(keys))
	h.caughtUp(t, "a")
	r.check(t)
	if r.duplicates > 0 {
		t.Errorf("%d records came again after their ack, though every hand-over was in order", r.duplicates)
	}
	t.Logf("%d requests of up to %d records for %d", r.batches, r.largest, len(keys))
}

// TestKeyOrderThroughputOverHTTP is TestKeyOrderThroughput on real sockets.
func TestKeyOrderThroughputOverHTTP(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	keys := produceKeys(t, h, "orders", 20_000, 1000)
	rate := func(id string, n int, change ...func(*webhooks.Webhook)) float64 {
		r := newKeyReceiver(t, keys, 0)
		change = append([]func(*webhooks.Webhook){byKeyTo(r, 64)}, change...)
		if _, err := h.Create(t.Context(), h.spec(t, id, "orders", change...)); err != nil {
			t.Fatal(err)
		}
		began, from := time.Time{}, 0
		gatewaytest.Await(t, 4*patience, func() error {
			if n := r.count(); began.IsZero() && n > 0 {
				began, from = time.Now(), n
			}
			if got := r.count(); got < n {
				return fmt.Errorf("%d records acked, want %d", got, n)
			}
			return nil
		})
		result := float64(r.count()-from) / time.Since(began).Seconds()
		if err := h.Delete(t.Context(), "default", id, false); err != nil {
			t.Fatal(err)
		}
		r.check(t)
		t.Logf("%s: %.0f records a second, %d requests of up to %d", id, result, r.batches, r.largest)
		return result
	}
	partition := rate("partition", 500, func(w *webhooks.Webhook) { w.Ordering = webhooks.OrderingPartition })
	key := rate("key", len(keys))
	ratio := key / partition
	t.Logf("%.1f times the throughput", ratio)
	if partition < 150 {
		t.Skipf("the machine is too busy to tell: one delivery of 10 in 50 ms at a time is 200 records a second")
	}
	if ratio < 20 && !groupmanager.RaceDetector {
		t.Errorf("%.1f times the throughput, want 20", ratio)
	}
}
