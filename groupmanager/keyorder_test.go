package groupmanager

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// byKey orders by key.
func byKey(inFlight, batch int) func(*webhooks.Webhook) {
	return func(w *webhooks.Webhook) {
		w.Ordering, w.MaxInFlight, w.Batch.MaxRecords = webhooks.OrderingKey, inFlight, batch
	}
}

// keyLog is a partition whose records have keys; "" is none.
type keyLog struct {
	keys []string // by offset; "-" is no record
	read int
	wake chan struct{}
}

// keysAtRandom is a log of n records with that many keys.
func keysAtRandom(n, keys int, seed uint64) []string {
	random := rand.New(rand.NewPCG(seed, 1))
	log := make([]string, n)
	for i := range log {
		log[i] = fmt.Sprint("key ", random.IntN(keys))
	}
	return log
}

func (k *keyLog) Read(dst *records.Batch, most int) (int, error) {
	n := 0
	for ; n < most && k.read < len(k.keys); k.read++ {
		var key []byte
		switch k.keys[k.read] {
		case "-":
			continue
		case "":
		default:
			key = []byte(k.keys[k.read])
		}
		dst.Append(records.Record{Offset: int64(k.read), Timestamp: 1}, key, []byte("value"))
		n++
	}
	return n, nil
}

func (k *keyLog) Wake() <-chan struct{} { return k.wake }
func (k *keyLog) Position() int64       { return int64(k.read) }

// keyCall is one attempt as a receiver sees it that looks at keys.
type keyCall struct {
	request
	id      string
	offsets []int64
}

// keyWatch is a receiver that holds what it is sent against the order of the keys: a
// record is sent when all those before it with its key are acked, or together with
// them, and while no other request has one.
type keyWatch struct {
	*receiver
	log    []string
	answer func(context.Context, keyCall) delivery.Result

	encoding sync.Mutex // apart from mu: the partition encodes while somebody who holds mu asks it
	encoded  map[*delivery.Message]keyCall

	mu         sync.Mutex
	calls      []keyCall
	acked      []time.Time
	nacked     []bool         // once: it stands against the answer of an attempt under way
	busy       map[string]int // requests by key
	most       int            // requests at once
	underWay   int
	again      int // records sent after they were acked
	violations []string
}

func (w *keyWatch) Encode(id, topic string, partition int32, b *records.Batch, from, to int) *delivery.Message {
	m := w.receiver.Encode(id, topic, partition, b, from, to)
	c := keyCall{id: id}
	for i := from; i < to; i++ {
		c.offsets = append(c.offsets, b.Records[i].Offset)
	}
	w.encoding.Lock()
	defer w.encoding.Unlock()
	w.encoded[m] = c
	return m
}

func (w *keyWatch) Send(ctx context.Context, m *delivery.Message, a delivery.Attempt) delivery.Result {
	w.encoding.Lock()
	c := w.encoded[m]
	w.encoding.Unlock()
	w.mu.Lock()
	token, err := w.tokens.Parse(a.Token)
	if err != nil {
		w.violations = append(w.violations, err.Error())
	}
	c.request = request{Attempt: a, first: token.First, last: token.Last, token: token}
	w.calls = append(w.calls, c)
	w.underWay++
	w.most = max(w.most, w.underWay)
	keys := w.begin(c)
	w.mu.Unlock()

	r := w.answer(ctx, c)
	r.At = time.Now()

	w.mu.Lock()
	defer w.mu.Unlock()
	w.underWay--
	for _, k := range keys {
		w.busy[k]--
	}
	if r.Verdict == delivery.Acked {
		w.ack(c.offsets...)
	}
	return r
}

// begin looks at what was sent. The caller holds mu.
func (w *keyWatch) begin(c keyCall) (keys []string) {
	if c.offsets[0] != c.first || c.offsets[len(c.offsets)-1] != c.last {
		w.violations = append(w.violations, fmt.Sprintf("%v has a token for %d-%d", c.offsets, c.first, c.last))
	}
	for i, o := range c.offsets {
		if at := w.acked[o]; !at.IsZero() && at.Before(c.Now) && !w.nacked[o] {
			w.again++
		}
		key := w.log[o]
		if key == "" {
			continue
		}
		if !slices.Contains(keys, key) {
			if w.busy[key] > 0 {
				w.violations = append(w.violations, fmt.Sprintf("%d is sent while another request has its key", o))
			}
			w.busy[key]++
			keys = append(keys, key)
		}
		for before := o - 1; before >= 0; before-- {
			if w.log[before] != key {
				continue
			}
			if w.acked[before].IsZero() && !slices.Contains(c.offsets[:i], before) {
				w.violations = append(w.violations, fmt.Sprintf("%d is sent while %d of its key is open", o, before))
			}
			break
		}
	}
	return keys
}

// ack notes what was acked. The caller holds mu.
func (w *keyWatch) ack(offsets ...int64) {
	for _, o := range offsets {
		w.acked[o] = time.Now()
	}
}

// check fails unless the order was kept.
func (w *keyWatch) check(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.violations); n > 0 {
		t.Fatalf("%d violations of the order, the first: %s", n, w.violations[0])
	}
}

// sent is the offsets of each call; those of one moment in their order.
func (w *keyWatch) sent() [][]int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all [][]int64
	slices.SortStableFunc(w.calls, func(a, b keyCall) int { return cmp.Or(a.Now.Compare(b.Now), cmp.Compare(a.first, b.first)) })
	for _, c := range w.calls {
		all = append(all, c.offsets)
	}
	return all
}

func (w *keyWatch) wantSent(t *testing.T, want ...[]int64) {
	t.Helper()
	synctest.Wait()
	if got := w.sent(); !slices.EqualFunc(got, want, slices.Equal) {
		t.Fatalf("sent %v, want %v", got, want)
	}
}

// watch puts a keyWatch and a log with keys in the places of the rig's own.
func (r *rig) watch(log []string, answer func(context.Context, keyCall) delivery.Result) *keyWatch {
	w := &keyWatch{
		receiver: r.receiver, log: log, answer: answer,
		encoded: map[*delivery.Message]keyCall{}, acked: make([]time.Time, len(log)), nacked: make([]bool, len(log)), busy: map[string]int{},
	}
	r.follow(w, 0)
	return w
}

// follow has the rig deliver to a watch that may have seen other tenures.
func (r *rig) follow(w *keyWatch, from int64) {
	w.receiver = r.receiver
	r.lane.client, r.lane.senders.client = w, w
	r.fetch.source = &keyLog{keys: w.log, read: int(max(from, 0)), wake: make(chan struct{}, 1)}
}

func ackedKeys(context.Context, keyCall) delivery.Result {
	return delivery.Result{Verdict: delivery.Acked, Status: 200}
}

// failing fails calls with any of the offsets while it is told to.
func failing(status int, fail func(keyCall) bool) func(context.Context, keyCall) delivery.Result {
	return func(_ context.Context, c keyCall) delivery.Result {
		time.Sleep(50 * time.Millisecond)
		if fail(c) {
			return delivery.Result{Verdict: delivery.Failed, Status: status, Code: fmt.Sprint("http_", status)}
		}
		return delivery.Result{Verdict: delivery.Acked, Status: 200}
	}
}

func TestAFailingKeyIsHeldAndOthersGoOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mended atomic.Bool
		r := newRig(t, nil, byKey(1, 1))
		w := r.watch([]string{"a", "b", "a", "c", "", "", "b", "-"}, failing(422, func(c keyCall) bool { return c.first == 0 && !mended.Load() }))
		r.start(t)
		time.Sleep(10 * time.Second)
		for s, ok := r.inspect(t.Context()); ok && s.InFlight > 0; s, ok = r.inspect(t.Context()) {
			time.Sleep(10 * time.Millisecond) // an attempt under way is not noted
		}
		first := 0
		var others [][]int64
		for _, o := range w.sent() {
			if o[0] == 0 {
				first++
				continue
			}
			others = append(others, o)
		}
		if want := [][]int64{{1}, {3}, {4}, {5}, {6}}; first < 2 || !slices.EqualFunc(others, want, slices.Equal) {
			t.Fatalf("%d attempts of the first, and %v; want more than one, and %v", first, others, want)
		}
		time.Sleep(noteInterval)
		r.wantSafe(t, 0)
		n := r.tenure.noted.Load()
		m, err := acker.ParseMetadata(n.text)
		if want := []acker.Run{{First: 1, Last: 1}, {First: 3, Last: 6}}; err != nil || n.at != 0 || m.Attempts == 0 || !slices.Equal(m.Acked, want) {
			t.Errorf("note %q at %d, %v; want attempts and %v acked, at 0", n.text, n.at, err, want)
		}
		if s, ok := r.inspect(t.Context()); !ok || s.HeldRecords != 1 || s.InFlight == 0 && s.State != PartitionBackingOff {
			t.Errorf("state %s with %d held, want %s with 1", s.State, s.HeldRecords, PartitionBackingOff)
		}
		mended.Store(true)
		time.Sleep(2 * time.Minute)
		r.wantSafe(t, 8)
		w.check(t)
	})
}

// A delivery that failed holds all its keys, so its neighbours in the batch wait with it.
func TestAFailedDeliveryHoldsAllItsKeys(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, nil, byKey(4, 2))
		w := r.watch([]string{"a", "b", "b", "c", "d", "a"}, failing(500, func(c keyCall) bool { return c.first == 0 }))
		r.start(t)
		time.Sleep(99 * time.Millisecond) // two attempts at most: after the third it is cut
		for _, offsets := range w.sent() {
			if !slices.Equal(offsets, []int64{0, 1}) && !slices.Equal(offsets, []int64{3, 4}) {
				t.Errorf("%v is sent while a delivery holds its keys", offsets)
			}
		}
		w.check(t)
	})
}

func TestDeliveryIDsOfInterleavedDeliveries(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ids := map[string][]int64{}
		for _, log := range [][]string{{"a", "b", "a", "c"}, {"a", "a", "a", "c"}, {"-", "a", "a", "c"}, {"a", "-", "a", "c"}} {
			r := newRig(t, nil, byKey(2, 4))
			w := r.watch(log, ackedKeys)
			r.start(t)
			r.wantSafe(t, 4)
			for _, c := range w.calls {
				if before, ok := ids[c.id]; ok && !slices.Equal(before, c.offsets) {
					t.Errorf("id %s is of %v and of %v", c.id, before, c.offsets)
				}
				ids[c.id] = c.offsets
			}
			r.revoke(nil)
			<-r.done
		}
		if len(ids) != 3 {
			t.Errorf("%d ids of 3 sets of records", len(ids))
		}
	})
}

// Halves of a delivery that was too large may have records of one key, which then go
// one after the other.
func TestHalvesKeepTheOrderOfKeys(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, nil, byKey(8, 8))
		w := r.watch([]string{"a", "b", "a", "c", "d", "e", "b", "d"}, func(_ context.Context, c keyCall) delivery.Result {
			time.Sleep(time.Second)
			if len(c.offsets) > 2 {
				return delivery.Result{Verdict: delivery.TooLarge, Status: 413}
			}
			return delivery.Result{Verdict: delivery.Acked, Status: 200}
		})
		r.start(t)
		time.Sleep(time.Minute)
		r.wantSafe(t, 8)
		w.check(t)
		w.wantSent(t, []int64{0, 1, 2, 3, 4, 5, 6, 7}, []int64{0, 1, 2, 3}, []int64{0, 1}, []int64{2, 3}, []int64{4, 5, 6, 7}, []int64{4, 5}, []int64{6, 7})
	})
}

// A request under way keeps the keys of all it carries, also of what a partial ack has
// settled meanwhile: neither what waits nor another part of a delivery that was cut goes
// beside it.
func TestARequestKeepsTheKeysThatAPartialAckHasSettled(t *testing.T) {
	for _, test := range []struct {
		claim   string
		log     []string
		batch   int
		retried int64 // of 0 and 1, of which the request is
		change  func(*webhooks.Webhook)
		want    [][]int64
	}{
		{"acked, and the other half has the key", []string{"a", "b", "b", "c"}, 4, 0, func(*webhooks.Webhook) {},
			[][]int64{{0, 1, 2, 3}, {0, 1}, {0}, {2, 3}}},
		{"given up, and what waits has the key", []string{"a", "b", "b"}, 2, 1, func(w *webhooks.Webhook) {
			w.OnExhausted, w.Retry.MaxAttempts = webhooks.OnExhaustedSkip, 1
		}, [][]int64{{0, 1}, {2}}},
	} {
		t.Run(test.claim, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, nil, byKey(8, test.batch), test.change)
				w := r.watch(test.log, func(_ context.Context, c keyCall) delivery.Result {
					switch {
					case len(c.offsets) > 2:
						return delivery.Result{Verdict: delivery.TooLarge, Status: 413}
					case slices.Equal(c.offsets, []int64{0, 1}):
						time.Sleep(time.Second)
					}
					return delivery.Result{Verdict: delivery.Acked, Status: 200}
				})
				r.start(t)
				time.Sleep(time.Millisecond)
				back := r.tell(t, ask{statement: acker.Statement{
					Outcome: acker.Partial, First: 0, Last: 1, Failures: []acker.Failure{{Offset: test.retried}},
				}})
				if back.err != nil {
					t.Fatal(back.err)
				}
				time.Sleep(time.Minute)
				r.wantSafe(t, int64(len(test.log)))
				w.check(t)
				w.wantSent(t, test.want...)
			})
		})
	}
}

func TestWhatIsHeldIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mended atomic.Bool
		log := slices.Repeat([]string{"sick"}, 5_000)
		r := newRig(t, nil, byKey(4, 10), func(w *webhooks.Webhook) { w.Fetch.PrefetchRecords = 200 })
		w := r.watch(append(log, "well"), failing(500, func(keyCall) bool { return !mended.Load() }))
		r.start(t)
		time.Sleep(time.Minute)
		if s, ok := r.inspect(t.Context()); !ok || s.HeldRecords != 200 {
			t.Errorf("%d records are held, want 200", s.HeldRecords)
		}
		if read := r.fetch.source.(*keyLog).read; read != 210 {
			t.Errorf("%d records were read, want 210", read)
		}
		mended.Store(true)
		time.Sleep(10 * time.Minute)
		r.wantSafe(t, 5_001)
		w.check(t)
	})
}

func TestALongWindowBeforeAStuckKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		log := make([]string, keyWindow+5_000) // without keys, but for the first
		log[0] = "sick"
		r := newRig(t, nil, byKey(64, 1000))
		r.watch(log, failing(500, func(c keyCall) bool { return c.first == 0 && len(c.offsets) == 1 }))
		r.lane.limit = 1 // the first goes alone
		r.start(t)
		time.Sleep(10 * time.Minute)
		r.wantSafe(t, 0)
		synctest.Wait()
		if n := r.lane.keys.books.Len(); n != keyWindow {
			t.Errorf("%d records are in the books, want %d", n, keyWindow)
		}
	})
}

// TestKeyOrderUnderFailures lets a receiver do whatever one may, over several owners.
func TestKeyOrderUnderFailures(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { bubble(t, func(t *testing.T) { keyOrderUnderFailures(t, seed) }) })
	}
}

func keyOrderUnderFailures(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 2))
	var mu sync.Mutex
	dice := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n)
	}
	log := keysAtRandom(2_000, 5+int(seed)*40, seed)
	for i := range log {
		switch dice(20) {
		case 0:
			log[i] = ""
		case 1:
			log[i] = "-"
		}
	}
	log[len(log)-1] = "last"

	var r *rig
	var w *keyWatch
	// stated says something by POST /ack some time from now, as receivers do after a 202,
	// and keeps to what was answered.
	stated := func(r *rig, c keyCall) {
		time.Sleep(time.Duration(dice(3_000)) * time.Millisecond)
		at := dice(len(c.offsets))
		s := acker.Statement{First: c.first, Last: c.last, UpTo: c.offsets[at]}
		switch dice(8) {
		case 0:
			s.Outcome = acker.Nack
		case 4, 5:
			s.Outcome, s.Failures = acker.Partial, []acker.Failure{{Offset: c.offsets[at], Action: acker.Retry}}
		case 1, 2, 3:
			s.UpTo, at = c.last, len(c.offsets)-1
		}
		w.mu.Lock() // what is acked counts before anything that follows is sent
		defer w.mu.Unlock()
		back, err := r.ask(context.Background(), ask{statement: s})
		switch {
		case err != nil || back.err != nil:
		case s.Outcome == acker.Ack:
			w.ack(c.offsets[:at+1]...)
		case s.Outcome == acker.Partial && !back.answer.Repeat:
			w.ack(c.offsets[:at]...)
			w.ack(c.offsets[at+1:]...)
			w.nacked[c.offsets[at]] = true
		default:
			for _, o := range c.offsets {
				w.nacked[o] = true
			}
		}
	}
	var talking sync.WaitGroup
	answer := func(ctx context.Context, c keyCall) delivery.Result {
		owner := r
		select {
		case <-time.After(time.Duration(dice(100)) * time.Millisecond):
		case <-ctx.Done():
			return delivery.Result{Verdict: delivery.Failed, Code: "canceled"}
		}
		if dice(6) == 0 {
			stated(owner, c) // before the response
		}
		switch dice(12) {
		case 0, 1:
			return delivery.Result{Verdict: delivery.Failed, Status: 500, Code: "http_500"}
		case 2:
			return delivery.Result{Verdict: delivery.TooLarge, Status: 413}
		case 3, 4:
			talking.Go(func() { stated(owner, c) })
			return delivery.Result{Verdict: delivery.Received, Status: 202}
		}
		return delivery.Result{Verdict: delivery.Acked, Status: 200}
	}
	change := []func(*webhooks.Webhook){byKey(8, 7), func(w *webhooks.Webhook) {
		w.Ack.TimeoutMs, w.Retry.MaxBackoffMs = 2_000, 5_000
	}}
	r = newRig(t, nil, change...)
	w = r.watch(log, answer)
	r.start(t)
	for range 6 {
		time.Sleep(time.Duration(500+dice(2_500)) * time.Millisecond)
		r.revoke(context.Canceled)
		<-r.done
		talking.Wait()
		next := r.successor(t, nil, change...)
		from := next.tenure.start
		next.follow(w, from)
		r = next
		r.start(t)
	}
	time.Sleep(20 * time.Minute)
	synctest.Wait()
	if got := r.tenure.safe.Load(); got != int64(len(log)) {
		t.Errorf("safe offset is %d, want %d", got, len(log))
	}
	talking.Wait()
	w.check(t)
	if w.most > 8 || w.most < 6 {
		t.Errorf("%d requests at once, want up to 8", w.most)
	}
	for o, key := range log {
		if key != "-" && w.acked[o].IsZero() {
			t.Fatalf("%d was never acked", o)
		}
	}
	if w.again > 0 {
		t.Errorf("%d records came again after their ack", w.again)
	}
	t.Logf("%d requests, at most %d at once", len(w.calls), w.most)
}

// TestKeyOrderThroughput holds ordering key against ordering partition: 1,000 keys, a
// receiver that takes 50 ms, one partition, batches of 10.
func TestKeyOrderThroughput(t *testing.T) {
	log := keysAtRandom(20_000, 1000, 9)
	took := map[string]time.Duration{}
	for _, ordering := range []string{webhooks.OrderingPartition, webhooks.OrderingKey} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, nil, byKey(64, 10), func(w *webhooks.Webhook) { w.Ordering = ordering })
			w := r.watch(log, failing(500, func(keyCall) bool { return false }))
			began := time.Now()
			r.start(t)
			for r.tenure.safe.Load() < int64(len(log)) {
				time.Sleep(50 * time.Millisecond)
			}
			took[ordering] = time.Since(began)
			w.check(t)
			t.Logf("%s: %d records in %v, %d requests, at most %d at once", ordering, len(log), took[ordering], len(w.calls), w.most)
		})
	}
	ratio := took[webhooks.OrderingPartition].Seconds() / took[webhooks.OrderingKey].Seconds()
	t.Logf("%.1f times the throughput", ratio)
	if ratio < 20 {
		t.Errorf("%.1f times the throughput, want 20", ratio)
	}
}
