package groupmanager_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/receiver"
	"github.com/kpush/kpush/webhooks"
)

// taken is a receiver that is made of the kit. It answers the first request with 413,
// and keeps what it took after that.
type taken struct {
	receiver.Handler
	mu       sync.Mutex
	refused  bool
	records  map[int64]receiver.Record
	requests []http.Header
}

func (r *taken) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	first := !r.refused
	r.refused = true
	r.requests = append(r.requests, req.Header)
	r.mu.Unlock()
	if first {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	r.Handler.ServeHTTP(w, req)
}

// Records go in at Kafka's end, and out in each format; a receiver reads them as they
// were, its ack is committed, and nothing is left. The first batch comes in halves.
func TestEveryFormatFromKafkaToTheCommit(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 1)
	values := [][]byte{[]byte(`{"total":3}`), nil, {}, []byte("null"), {0xff, 0}, []byte("text")}
	for i, value := range values {
		h.kafka.Produce(t, &gatewaytest.Produced{}, &kgo.Record{Topic: "orders", Key: fmt.Append(nil, "k", i), Value: value})
	}
	for _, format := range []struct{ kind, encoding, contentType string }{
		{"envelope", "gzip", "application/json; charset=utf-8"},
		{"ndjson", "identity", "application/x-ndjson"},
		{"cloudevents-batch", "gzip", "application/cloudevents-batch+json"},
		{"raw", "identity", "application/octet-stream"},
	} {
		t.Run(format.kind, func(t *testing.T) {
			got := &taken{records: map[int64]receiver.Record{}}
			var secrets receiver.Secrets
			got.SecretsFor = func(context.Context, string) (receiver.Secrets, error) {
				got.mu.Lock()
				defer got.mu.Unlock()
				return secrets, nil
			}
			got.Deliver = func(_ context.Context, d *receiver.Delivery) (receiver.Ack, error) {
				got.mu.Lock()
				defer got.mu.Unlock()
				for _, r := range d.Records {
					got.records[r.Offset] = r
				}
				return receiver.AckAll(), nil
			}
			got.Report = func(_ *http.Request, status int, err error) {
				if status != http.StatusUnauthorized { // before the secret is known here
					t.Errorf("answered %d: %v", status, err)
				}
			}
			s := httptest.NewServer(got)
			t.Cleanup(s.Close)
			e := h.webhook(t, format.kind, "orders", earliest, func(w *webhooks.Webhook) {
				w.URL, w.Ack.Mode, w.Retry.InitialBackoffMs = s.URL, webhooks.AckExplicit, 1
				w.Format.Type, w.Format.ContentEncoding = format.kind, format.encoding
				if format.kind == webhooks.FormatRaw {
					w.Batch.MaxRecords = 1
				}
			})
			got.mu.Lock()
			var err error
			secrets, err = receiver.ParseSecrets(webhooks.FormatSecret(e.Secret))
			got.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			h.caughtUp(t, format.kind)

			got.mu.Lock()
			defer got.mu.Unlock()
			if len(got.records) != len(values) {
				t.Errorf("%d records, want %d", len(got.records), len(values))
			}
			for i, value := range values {
				r := got.records[int64(i)]
				same := cmp.Equal(value, r.Value) && (value == nil) == (r.Value == nil)
				if string(r.Key) != fmt.Sprint("k", i) || !same {
					t.Errorf("record %d is %q: %q, want k%d: %q", i, r.Key, r.Value, i, value)
				}
			}
			for _, header := range got.requests {
				if header.Get("Content-Type") != format.contentType {
					t.Errorf("the content type is %q", header.Get("Content-Type"))
				}
			}
			if got := h.kafka.Committed(t, "kpush.default."+format.kind); len(got) != 1 {
				t.Errorf("committed %v", got)
			}
		})
	}
}
