package groupmanager_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/webhooks"
)

// A receiver that says no more than one status to a delivery with one bad record among a
// thousand: the record is found, tried as often as the webhook says and dead-lettered
// with its reason; the others are delivered once, and another partition notices nothing.
func TestP8_OneBadRecordOfAThousandIsIsolated(t *testing.T) {
	for _, test := range []struct {
		status int
		bad    int64
	}{{http.StatusBadRequest, 617}, {http.StatusInternalServerError, 617}, {http.StatusInternalServerError, 0}} {
		t.Run(fmt.Sprintf("%d at %d", test.status, test.bad), func(t *testing.T) {
			t.Parallel()
			isolates(t, test.status, test.bad, 22)
		})
	}
}

// A record that the receiver finds too large is found in the same way, whose cuts are
// no failed attempts.
func TestP7_OneRecordThatIsTooLargeIsIsolated(t *testing.T) {
	t.Parallel()
	isolates(t, http.StatusRequestEntityTooLarge, 617, 22)
}

// isolates runs a receiver that answers status to whatever has the bad record in it.
func isolates(t *testing.T, status int, bad int64, most int) {
	const records, attempts = 1000, 3
	h := newHouse(t, func(d *gatewaytest.Delivery) gatewaytest.Answer {
		if d.Partition.ID == 0 && d.First() <= bad && bad <= d.Last() {
			return gatewaytest.Answer{Status: status}
		}
		return gatewaytest.Answer{}
	})
	h.kafka.CreateTopic(t, "orders", 2)
	h.kafka.CreateTopic(t, "orders.dead", 1)
	produced := &gatewaytest.Produced{}
	var all []*kgo.Record
	for n := range records {
		all = append(all, &kgo.Record{Topic: "orders", Partition: 0, Value: fmt.Appendf(nil, `{"n":%d}`, n)})
	}
	for n := range records {
		all = append(all, &kgo.Record{Topic: "orders", Partition: 1, Value: fmt.Appendf(nil, `{"n":%d}`, n)})
	}
	h.kafka.Produce(t, produced, all...)
	h.webhook(t, "billing", "orders", earliest, batchOf(records), func(w *webhooks.Webhook) {
		w.Batch.LingerMs = 60_000 // they are full at once
		w.Retry.InitialBackoffMs, w.Retry.MaxBackoffMs, w.Retry.MaxAttempts = 5, 20, attempts
		w.OnExhausted, w.DeadLetter.Topic = webhooks.OnExhaustedDeadLetter, new("orders.dead")
	})
	h.caughtUp(t, "billing")

	requests, extra, alone := 0, -1, 0
	times := map[int64]int{}
	for _, d := range h.receiver.Deliveries("billing") {
		if d.Partition.ID != 0 {
			if d.Status != http.StatusOK || d.Attempt != 1 {
				t.Errorf("partition 1 was answered %d at attempt %d, want it undisturbed", d.Status, d.Attempt)
			}
			continue
		}
		if requests++; requests == 1 && len(d.Records) != records {
			t.Fatalf("the first delivery has %d records, want all %d in one", len(d.Records), records)
		}
		if d.First() == bad && d.Last() == bad {
			if alone++; extra < 0 {
				extra = requests - 1
			}
		}
		if d.Status == http.StatusOK {
			for _, r := range d.Records {
				times[r.Offset]++
			}
		}
	}
	if extra < 0 || extra > most {
		t.Errorf("%d extra requests until the record was alone, want from 0 to %d", extra, most)
	}
	for n := range int64(records) {
		if want := map[bool]int{true: 0, false: 1}[n == bad]; times[n] != want {
			t.Errorf("record %d was taken %d times, want %d", n, times[n], want)
		}
	}
	letters := h.kafka.Read(t, "orders.dead")
	if len(letters) != 1 || string(letters[0].Value) != fmt.Sprintf(`{"n":%d}`, bad) {
		t.Fatalf("%d dead letters, want the bad record alone", len(letters))
	}
	told := map[string]string{}
	for _, header := range letters[0].Headers {
		told[header.Key] = string(header.Value)
	}
	if told["kpush-error-code"] != fmt.Sprintf("http_%d", status) || told["kpush-error-status"] != fmt.Sprint(status) || told["kpush-source-offset"] != fmt.Sprint(bad) {
		t.Errorf("the dead letter says %v, want its status and offset", told)
	}
	if alone != attempts {
		t.Errorf("the record was tried alone %d times, want %d", alone, attempts)
	}
	t.Logf("%d extra requests until record %d was alone, then %d of its own", extra, bad, alone)
}
