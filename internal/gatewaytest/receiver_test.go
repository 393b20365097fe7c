package gatewaytest

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	testSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	testToken  = "tok"
)

// request is a well-formed delivery of two records of webhook "w", offsets 7 and 9.
func request(t *testing.T, r *Receiver) (body string, header http.Header) {
	t.Helper()
	body = `{"type":"kafka.records","timestamp":"2026-09-22T10:00:00.123Z","delivery_id":"dl_1","webhook_id":"w","attempt":1,
		"group_id":"g","generation":4,"topic":"orders","partition":3,"first_offset":7,"last_offset":9,"record_count":2,
		"ack":{"token":"tok","url":"http://gateway/ack","timeout_ms":30000},"records":[
		{"offset":7,"timestamp":5,"timestamp_type":"create","key":"k","value":{"total": 3},"headers":[]},
		{"offset":9,"timestamp":6,"timestamp_type":"create","key":null,"value":null,"headers":[{"name":"n","value":null},{"name_base64":"/w==","value":""}]}]}`
	header = http.Header{}
	for name, value := range map[string]string{
		"Content-Type": "application/json; charset=utf-8", "Webhook-Id": "dl_1", "Kpush-Webhook": "w", "Kpush-Group": "g",
		"Kpush-Topic": "orders", "Kpush-Partition": "3", "Kpush-Generation": "4", "Kpush-First-Offset": "7", "Kpush-Last-Offset": "9",
		"Kpush-Record-Count": "2", "Kpush-Attempt": "1", "Kpush-Ack-Token": testToken, "Kpush-Ack-Timeout-Ms": "30000",
	} {
		header.Set(name, value)
	}
	return body, header
}

// sign puts the Standard Webhooks headers on a request.
func sign(t *testing.T, body string, header http.Header) {
	t.Helper()
	wh, err := standardwebhooks.NewWebhook(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	signature, err := wh.Sign("dl_1", now, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	header.Set("Webhook-Signature", signature)
}

func post(t *testing.T, url, body string, header http.Header) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp
}

func TestReceiverKeepsTheLedger(t *testing.T) {
	r := NewReceiver(t, OK)
	r.Verify(t, "w", testSecret)
	body, header := request(t, r)
	sign(t, body, header)
	post(t, r.URL("w"), body, header)

	deliveries := r.Deliveries("w")
	if len(deliveries) != 1 || r.Distinct("w") != 2 {
		t.Fatalf("got %d deliveries of %d records, want 1 of 2; complaints %v", len(deliveries), r.Distinct("w"), r.Complaints())
	}
	want := []*kgo.Record{
		{Key: []byte("k"), Value: []byte(`{"total": 3}`), Timestamp: time.UnixMilli(5)},
		{Timestamp: time.UnixMilli(6), Headers: []kgo.RecordHeader{{Key: "n"}, {Key: "\xff", Value: []byte{}}}},
	}
	for i, record := range deliveries[0].Records {
		if got := record.Digest; got != DigestOf(want[i]) {
			t.Errorf("record %d has digest %x, want %x", i, got, DigestOf(want[i]))
		}
	}
	at, partition := deliveries[0].Answered, deliveries[0].Partition
	acked := []Ack{{"w", partition, 7, 7, at}, {"w", partition, 9, 9, at}}
	if acks := r.Acks("w"); !slices.Equal(acks, acked) {
		t.Errorf("acks are %+v, want %+v: 8 was not in the delivery", acks, acked)
	}
	if c := r.Complaints(); len(c) > 0 {
		t.Errorf("complaints %v, want none", c)
	}
}

func TestReceiverComplains(t *testing.T) {
	for _, test := range []struct {
		name   string
		doctor func(body *string, header http.Header)
		path   string
		want   string
	}{
		{name: "of a damaged signature", doctor: func(body *string, _ http.Header) {
			*body = strings.Replace(*body, "total", "Total", 1)
		}, want: "checking the signature"},
		{name: "of a head that differs from the body", doctor: func(_ *string, h http.Header) {
			h.Set("Kpush-Generation", "5")
		}, want: "header kpush-generation"},
		{name: "of an address of another webhook", path: "other", doctor: func(*string, http.Header) {}, want: "another's address"},
		{name: "of a body cut short", doctor: func(body *string, _ http.Header) {
			*body = (*body)[:300]
		}, want: "decoding the envelope"},
		{name: "of a field nobody agreed on", doctor: func(body *string, _ http.Header) {
			*body = strings.Replace(*body, `"type"`, `"extra":1,"type"`, 1)
		}, want: "unknown field"},
		{name: "of a count that is wrong", doctor: func(body *string, _ http.Header) {
			*body = strings.Replace(*body, `"record_count":2`, `"record_count":3`, 1)
		}, want: "record_count"},
		{name: "of a value in two forms", doctor: func(body *string, _ http.Header) {
			*body = strings.Replace(*body, `"value":{`, `"value_base64":"","value":{`, 1)
		}, want: "exactly one"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := NewReceiver(t, OK)
			r.Verify(t, "w", testSecret)
			body, header := request(t, r)
			sign(t, body, header)
			test.doctor(&body, header)
			path := "w"
			if test.path != "" {
				path = test.path
			}
			if resp := post(t, r.URL(path), body, header); resp.StatusCode != http.StatusBadRequest {
				t.Errorf("answered %d, want 400", resp.StatusCode)
			}
			if c := fmt.Sprint(r.Complaints()); !strings.Contains(c, test.want) {
				t.Errorf("complaints %s, want one that says %q", c, test.want)
			}
			if n := len(r.Deliveries("w")); n != 0 {
				t.Errorf("%d deliveries in the ledger, want none", n)
			}
		})
	}
}

func TestReceiverAnswersByScript(t *testing.T) {
	for _, test := range []struct {
		name     string
		answer   Answer
		explicit bool
		status   int
		ackedTo  int64 // -1: nothing
	}{
		{name: "200 acks", status: 200, ackedTo: 9},
		{name: "204 acks", answer: Answer{Status: 204}, status: 204, ackedTo: 9},
		{name: "202 does not", answer: Answer{Status: 202}, status: 202, ackedTo: -1},
		{name: "a failure does not", answer: Answer{Status: 500}, status: 500, ackedTo: -1},
		{name: "200 does not in explicit mode", explicit: true, status: 200, ackedTo: -1},
		{name: "an inline ack does in explicit mode", answer: Answer{Ack: "{}"}, explicit: true, status: 200, ackedTo: 9},
		{name: "an inline ack wins over 202", answer: Answer{Status: 202, Ack: `{"up_to_offset":7}`}, status: 202, ackedTo: 7},
		{name: "an inline nack does not", answer: Answer{Ack: `{"outcome":"nack"}`}, status: 200, ackedTo: -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := NewReceiver(t, func(*Delivery) Answer { return test.answer })
			if test.explicit {
				r.Explicit("w")
			}
			body, header := request(t, r)
			if resp := post(t, r.URL("w"), body, header); resp.StatusCode != test.status {
				t.Errorf("answered %d, want %d", resp.StatusCode, test.status)
			}
			got := int64(-1)
			for _, a := range r.Acks("w") {
				got = a.Last
			}
			if got != test.ackedTo {
				t.Errorf("acked to %d, want %d", got, test.ackedTo)
			}
		})
	}
}
