package groupmanager_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// sampled is a receiver that keeps what it is sent and answers as it is told.
type sampled struct {
	*httptest.Server
	status atomic.Int32

	mu       sync.Mutex
	requests []*http.Request
	bodies   [][]byte
}

func newSampled(t *testing.T) *sampled {
	s := &sampled{}
	s.status.Store(204)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.requests, s.bodies = append(s.requests, r), append(s.bodies, body)
		s.mu.Unlock()
		if status := int(s.status.Load()); status != 0 {
			w.WriteHeader(status)
			return
		}
		<-r.Context().Done()
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *sampled) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

func at(s *sampled) func(*webhooks.Webhook) {
	return func(w *webhooks.Webhook) {
		w.URL = s.URL
		w.Auth = &webhooks.Auth{Type: webhooks.AuthBearer, Token: "s3cret"}
	}
}

// TestASample goes to the receiver from any replica, whatever the webhook's state, and
// changes nothing.
func TestASample(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	other := h.another(t)
	h.kafka.CreateTopic(t, "orders", 1)
	receiver := newSampled(t)
	ids := []string{"active", "paused", "gone", "odd", "slow"}
	for _, id := range ids {
		h.webhook(t, id, "orders", at(receiver), func(w *webhooks.Webhook) {
			if id == "slow" {
				w.Request.TimeoutMs = 300
			}
		})
	}
	if _, err := h.Pause(t.Context(), "default", "paused"); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		id      string
		at      *house
		status  int // of the receiver; 0: it never answers
		verdict delivery.Verdict
		code    string
	}{
		{"active", h, 204, delivery.Acked, ""},
		{"paused", other, 202, delivery.Received, ""},
		{"gone", other, 410, delivery.Gone, "http_410"},
		{"odd", h, 302, delivery.Failed, "redirect_not_followed"},
		{"slow", h, 0, delivery.Failed, "timeout"},
	} {
		gatewaytest.Await(t, patience, func() error { _, err := row.at.Get("default", row.id); return err })
		before, err := h.Get("default", row.id)
		if err != nil {
			t.Fatal(err)
		}
		receiver.status.Store(int32(row.status))
		res, err := row.at.Test(t.Context(), "default", row.id)
		if err != nil || res.Verdict != row.verdict || res.Status != row.status || res.Code != row.code {
			t.Errorf("%s: %+v, %v; want verdict %d, code %q", row.id, res, err, row.verdict, row.code)
		}
		limited, _ := errors.AsType[*groupmanager.RateLimitedError](func() error { _, err := row.at.Test(t.Context(), "default", row.id); return err }())
		if limited == nil || limited.After <= 0 || limited.After > 5*time.Second {
			t.Errorf("%s: again at once: %v, want a refusal for up to 5 s", row.id, limited)
		}
		after, err := h.Get("default", row.id)
		if err != nil || after.Revision != before.Revision || after.Webhook.State != before.Webhook.State {
			t.Errorf("%s: the sample made of %s at %d: %s at %d, %v", row.id, before.Webhook.State, before.Revision, after.Webhook.State, after.Revision, err)
		}
	}
	if n := receiver.count(); n != len(ids) {
		t.Errorf("%d requests, want %d", n, len(ids))
	}
	for i, r := range receiver.requests {
		if r.Header.Get(delivery.SampleHeader) != "true" || r.Header.Get("Authorization") != "Bearer s3cret" || r.Header.Get("Webhook-Signature") == "" {
			t.Errorf("request %d has the headers %v", i, r.Header)
		}
	}
	// Whatever the receiver makes of it by POST /ack, nothing moves.
	var sample struct {
		Type       string
		Topic      string
		Generation int32
		Ack        struct{ Token string }
	}
	if err := json.Unmarshal(receiver.bodies[0], &sample); err != nil || sample.Type != "kafka.records.test" {
		t.Fatalf("the sample is %s: %v", receiver.bodies[0], err)
	}
	if _, err := h.Ack(t.Context(), groupmanager.AckRequest{Token: sample.Ack.Token}); !errors.Is(err, groupmanager.ErrTokenInvalid) {
		t.Errorf("acked by its token: %v, want %v", err, groupmanager.ErrTokenInvalid)
	}
	fields := groupmanager.AckRequest{Tenant: "default", WebhookID: "active", Topic: sample.Topic, Generation: sample.Generation}
	if _, err := h.Ack(t.Context(), fields); !errors.Is(err, groupmanager.ErrPartitionNotFound) && !errors.Is(err, groupmanager.ErrNoOwner) {
		t.Errorf("acked by its fields: %v", err)
	}
	if n := h.committed(t, "active", "orders"); n != 0 {
		t.Errorf("the committed offset is %d, want 0", n)
	}

	if _, err := h.Test(t.Context(), "default", "none"); !errors.Is(err, webhooks.ErrNotFound) {
		t.Errorf("of a webhook that is not there: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h.webhook(t, "canceled", "orders", at(receiver))
	if _, err := h.Test(ctx, "default", "canceled"); !errors.Is(err, context.Canceled) {
		t.Errorf("given up by its caller: %v", err)
	}
}

// TestCredentialsChangeWhileRecordsFlow: one token is replaced by another, and that by
// tokens that are fetched; each record comes once, in order.
func TestCredentialsChangeWhileRecordsFlow(t *testing.T) {
	var mu sync.Mutex
	var offsets []int64
	var fetches, refused atomic.Int32
	accepts := map[string]bool{"first": true, "second": true} // while one is replaced by the other
	mux := http.NewServeMux()
	mux.HandleFunc("/token", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"access-%d","token_type":"Bearer","expires_in":600}`, fetches.Add(1))
	})
	mux.HandleFunc("/hook", func(w http.ResponseWriter, r *http.Request) {
		_, token, _ := strings.Cut(r.Header.Get("Authorization"), "Bearer ")
		if !accepts[token] && !strings.HasPrefix(token, "access-") {
			refused.Add(1)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		var envelope struct{ Records []struct{ Offset int64 } }
		if err := json.NewDecoder(r.Body).Decode(&envelope); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, record := range envelope.Records {
			offsets = append(offsets, record.Offset)
		}
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()

	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 1)
	by := func(auth *webhooks.Auth) func(*webhooks.Webhook) {
		return func(w *webhooks.Webhook) { w.URL, w.Auth = srv.URL+"/hook", auth }
	}
	h.webhook(t, "a", "orders", by(&webhooks.Auth{Type: webhooks.AuthBearer, Token: "first"}))
	total := 0
	for _, auth := range []*webhooks.Auth{
		nil,
		{Type: webhooks.AuthBearer, Token: "second"},
		{Type: webhooks.AuthOAuth2, TokenURL: srv.URL + "/token", ClientID: "a", ClientSecret: "b"},
	} {
		if auth != nil {
			if _, _, err := h.Put(t.Context(), h.spec(t, "a", "orders", by(auth)), nil); err != nil {
				t.Fatal(err)
			}
		}
		var batch []*kgo.Record
		for range 50 {
			batch = append(batch, &kgo.Record{Topic: "orders", Value: fmt.Append(nil, total)})
			total++
		}
		h.kafka.Produce(t, new(gatewaytest.Produced), batch...)
		h.caughtUp(t, "a")
	}
	mu.Lock()
	defer mu.Unlock()
	next := int64(0)
	for _, o := range offsets {
		if o > next {
			t.Fatalf("offset %d came where %d was due", o, next)
		}
		next = max(next, o+1)
	}
	if next != int64(total) || len(offsets) != total {
		t.Errorf("%d records came, up to offset %d, want %d", len(offsets), next-1, total)
	}
	if n, r := fetches.Load(), refused.Load(); n != 1 || r != 0 {
		t.Errorf("%d tokens were fetched, and %d requests refused; want one and none", n, r)
	}
}
