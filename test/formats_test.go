package test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/receiver"
)

// kit is a receiver made of the receiver package, behind a bearer token. It takes
// nothing until it is told the secret.
type kit struct {
	*httptest.Server
	token   string
	known   chan struct{} // closed once secrets are
	secrets receiver.Secrets

	mu       sync.Mutex
	offsets  map[gatewaytest.Partition][]int64 // in order of arrival
	values   []string
	failures []string
}

func newKit(t *testing.T, token string) *kit {
	k := &kit{token: token, known: make(chan struct{}), offsets: map[gatewaytest.Partition][]int64{}}
	handler := &receiver.Handler{
		SecretsFor: func(ctx context.Context, _ string) (receiver.Secrets, error) {
			select {
			case <-k.known:
				return k.secrets, nil
			case <-ctx.Done():
				return receiver.Secrets{}, ctx.Err()
			}
		},
		Deliver: k.deliver,
		Report: func(_ *http.Request, status int, err error) {
			k.fail("answered %d: %v", status, err)
		},
		Decompress: func(encoding string, packed io.Reader) (io.ReadCloser, error) {
			if encoding != "zstd" {
				return nil, fmt.Errorf("no encoding %q here", encoding)
			}
			d, err := zstd.NewReader(packed)
			if err != nil {
				return nil, err
			}
			return d.IOReadCloser(), nil
		},
	}
	k.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer "+k.token {
			k.fail("authorization is %q", got)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(k.Close)
	return k
}

func (k *kit) deliver(_ context.Context, d *receiver.Delivery) (receiver.Ack, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := gatewaytest.Partition{Topic: d.Topic, ID: d.Partition}
	for _, r := range d.Records {
		k.offsets[p] = append(k.offsets[p], r.Offset)
		k.values = append(k.values, string(r.Value))
	}
	return receiver.AckAll(), nil
}

func (k *kit) trust(t *testing.T, secret string) {
	t.Helper()
	secrets, err := receiver.ParseSecrets(secret)
	if err != nil {
		t.Fatal(err)
	}
	k.secrets = secrets
	close(k.known)
}

func (k *kit) fail(format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failures = append(k.failures, fmt.Sprintf(format, args...))
}

// check compares what has arrived with what should have.
func (k *kit) check(t *testing.T, want map[gatewaytest.Partition][]int64) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if !maps.EqualFunc(k.offsets, want, slices.Equal[[]int64]) {
		t.Errorf("arrived: %v, want %v", k.offsets, want)
	}
	for _, v := range k.values {
		var value struct{ Number *int }
		if err := json.Unmarshal([]byte(v), &value); err != nil || value.Number == nil || *value.Number%2 != 0 {
			t.Errorf("value %s arrived, want even numbers", v)
		}
	}
	if len(k.failures) > 0 {
		t.Errorf("complaints: %v", k.failures)
	}
}

// tokenEndpoint hands out one token by the client credentials grant.
func tokenEndpoint(t *testing.T, token string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, secret, _ := r.BasicAuth()
		if id != "kpush" || secret != "client-secret" || r.FormValue("grant_type") != "client_credentials" || r.FormValue("scope") != "push" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(object{"access_token": token, "token_type": "Bearer", "expires_in": 3600})
	}))
	t.Cleanup(s.Close)
	return s.URL + "/token"
}

// TestEveryFormat: each form of a delivery, filtered, with credentials and a secret that
// is rotated meanwhile, is read by the receiver kit: half of the records, each once and
// in order, while the group commits over all of them.
func TestEveryFormat(t *testing.T) {
	const half = 50
	s := newScene(t, 2, gatewaytest.OK)
	produce := func() {
		for p := range int32(2) {
			s.kafka.Produce(t, s.produced, numbered(s.topic, p, half)...)
		}
	}
	produce()
	want := map[gatewaytest.Partition][]int64{}
	for offset := int64(0); offset < 2*half; offset += 2 {
		for p := range int32(2) {
			partition := gatewaytest.Partition{Topic: s.topic, ID: p}
			want[partition] = append(want[partition], offset)
		}
	}

	bearer := object{"type": "bearer", "token": "a-token"}
	grant := object{"type": "oauth2", "token_url": tokenEndpoint(t, "a-token"), "client_id": "kpush", "client_secret": "client-secret", "scopes": []string{"push"}}
	type shape struct {
		format, auth object
		batch        int
		kit          *kit
		group        string
	}
	shapes := map[string]*shape{
		"envelope":          {format: object{}, auth: grant, batch: 10},
		"envelope-gzip":     {format: object{"content_encoding": "gzip"}, auth: bearer, batch: 10},
		"ndjson-zstd":       {format: object{"type": "ndjson", "content_encoding": "zstd"}, auth: grant, batch: 10},
		"cloudevents-batch": {format: object{"type": "cloudevents-batch"}, auth: bearer, batch: 10},
		"raw":               {format: object{"type": "raw"}, auth: bearer, batch: 1},
	}
	for name, sh := range shapes {
		sh.kit = newKit(t, "a-token")
		w := s.gateway.API.Register(t, name, object{
			"url": sh.kit.URL, "topics": []string{s.topic}, "start": "earliest",
			"format": sh.format, "auth": sh.auth, "filter": "value.number % 2 == 0", "batch": object{"max_records": sh.batch},
			"signing": object{"schemes": []string{"v1", "v1a"}},
		})
		sh.kit.trust(t, w.Secret)
		sh.group = w.GroupID
	}
	for name, sh := range shapes {
		t.Run(name, func(t *testing.T) {
			s.group = sh.group
			s.awaitEnd(t, later)
		})
	}
	for name := range shapes {
		s.gateway.API.Must(t, 200, http.MethodPost, "/v1/webhooks/"+name+"/secret/rotate", object{"overlap_ms": 3_600_000})
	}
	produce() // signed with both secrets, and the kits know the former
	for name, sh := range shapes {
		t.Run(name+" after a rotation", func(t *testing.T) {
			s.group = sh.group
			s.awaitEnd(t, later)
			sh.kit.check(t, want)
		})
	}
}
