package groupmanager_test

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/webhooks"
)

// TestFilters: what passes is delivered, once, the rest never, and the group comes
// to the end of the topic in any case. The records have "n" from 0 to 999 and are
// JSON but for every hundredth.
func TestFilters(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 2)
	produced := &gatewaytest.Produced{}
	var records []*kgo.Record
	for n := range 1000 {
		value := fmt.Appendf(nil, `{"n":%d}`, n)
		if n%100 == 0 {
			value = []byte("no JSON")
		}
		records = append(records, &kgo.Record{Topic: "orders", Key: fmt.Append(nil, n), Value: value})
	}
	h.kafka.Produce(t, produced, records...)
	for _, c := range []struct {
		id, filter string
		want       int
		filtered   int64
		change     func(*webhooks.Webhook)
	}{
		{"half", `value != null && value.n % 2 == 1`, 500, 500, batchOf(30)},
		{"nothing", `headers.size() > 0`, 0, 1000, batchOf(30)},
		{"errors-pass", `value.n % 2 == 1`, 510, 490, batchOf(30)},
		{"unordered", `value != null && value.n % 5 == 1`, 200, 800, func(w *webhooks.Webhook) {
			w.Ordering, w.MaxInFlight, w.Batch.MaxRecords = webhooks.OrderingNone, 8, 7
		}},
	} {
		t.Run(c.id, func(t *testing.T) {
			h.webhook(t, c.id, "orders", earliest, c.change, func(w *webhooks.Webhook) { w.Filter = &c.filter })
			h.caughtUp(t, c.id)
			if n := h.receiver.Distinct(c.id); n != c.want {
				t.Errorf("%d records were delivered, want %d", n, c.want)
			}
			rows, err := h.Partitions(t.Context(), "default", c.id)
			if err != nil {
				t.Fatal(err)
			}
			var filtered int64
			for _, r := range rows {
				filtered += r.Filtered
			}
			if filtered != c.filtered {
				t.Errorf("/partitions tells of %d filtered records, want %d", filtered, c.filtered)
			}
		})
	}
}

// A changed filter judges, from the member's new life on, what is not committed yet.
func TestAFilterIsChangedWhileTheWebhookRuns(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 1)
	produced := &gatewaytest.Produced{}
	produce := func() {
		for n := range 10 {
			h.kafka.Produce(t, produced, &kgo.Record{Topic: "orders", Key: fmt.Append(nil, n)})
		}
	}
	set := func(expression string) func(*webhooks.Webhook) {
		return func(w *webhooks.Webhook) { w.Filter = &expression }
	}
	h.webhook(t, "billing", "orders", earliest, set(`key == "1"`))
	produce()
	h.caughtUp(t, "billing")
	if _, err := h.Pause(t.Context(), "default", "billing"); err != nil {
		t.Fatal(err)
	}
	produce()
	generation := func() int32 {
		rows, err := h.Partitions(t.Context(), "default", "billing")
		if err != nil || len(rows) != 1 {
			t.Fatalf("%d partitions, %v", len(rows), err)
		}
		return rows[0].Generation
	}
	before := generation()
	if _, _, err := h.Put(t.Context(), h.spec(t, "billing", "orders", earliest, set(`key != "1"`)), nil); err != nil {
		t.Fatal(err)
	}
	gatewaytest.Await(t, patience, func() error {
		if g := generation(); g <= before {
			return fmt.Errorf("the generation is %d, and was %d before the change", g, before)
		}
		return nil
	})
	if _, err := h.Resume(t.Context(), "default", "billing"); err != nil {
		t.Fatal(err)
	}
	h.caughtUp(t, "billing")
	if n := h.receiver.Distinct("billing"); n != 1+9 {
		t.Errorf("%d records were delivered, want 10", n)
	}
}
