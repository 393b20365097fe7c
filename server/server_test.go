package server

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"go.uber.org/goleak"

	"github.com/kpush/kpush"
	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/internal/version"
	"github.com/kpush/kpush/server/api"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const adminToken = "correct horse battery staple"

// fakeGateway keeps webhooks in memory and answers acks as it is told.
type fakeGateway struct {
	mu      sync.Mutex
	entries map[string]webhooks.Entry
	err     error // what every method fails with
	unready error
	unread  map[string]bool // webhooks that Get does not know yet

	age    time.Duration
	rows   []groupmanager.PartitionStatus
	sample delivery.Result // what Test comes to
	moves  []groupmanager.SeekMove
	seeks  []groupmanager.SeekRequest
	takes  time.Duration // how long an ack or a seek takes, unless its context ends
	stuck  string        // acks with this token end with their context
	ack    func(groupmanager.AckRequest) (groupmanager.AckAnswer, error)
	acks   []groupmanager.AckRequest // in the order in which they came

	rotations      []webhooks.Rotation
	keyReads       int // calls of PublicKeys
	deletedOffsets bool
	beforePut      func() // called without the lock
}

func newFakeGateway() *fakeGateway { return &fakeGateway{entries: map[string]webhooks.Entry{}} }

func (g *fakeGateway) Create(_ context.Context, w webhooks.Webhook) (webhooks.Entry, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return webhooks.Entry{}, g.err
	}
	if _, ok := g.entries[w.ID]; ok {
		return webhooks.Entry{}, webhooks.ErrExists
	}
	e := webhooks.Entry{Webhook: w, Secret: []byte("0123456789abcdef0123456789abcdef"), Revision: 1}
	if slices.Contains(w.Signing.Schemes, webhooks.SchemeV1a) {
		e.Private = ed25519.NewKeyFromSeed([]byte("0123456789abcdef0123456789abcdef"))
	}
	g.entries[w.ID] = e
	return e, nil
}

func (g *fakeGateway) Put(ctx context.Context, w webhooks.Webhook, ifMatch *int64) (webhooks.Entry, bool, error) {
	if g.beforePut != nil {
		g.beforePut()
	}
	g.mu.Lock()
	e, ok := g.entries[w.ID]
	if ifMatch != nil && (!ok || *ifMatch != e.Revision && *ifMatch != webhooks.AnyRevision) {
		g.mu.Unlock()
		return webhooks.Entry{}, false, webhooks.ErrPrecondition
	}
	if !ok {
		g.mu.Unlock()
		e, err := g.Create(ctx, w)
		return e, err == nil, err
	}
	defer g.mu.Unlock()
	e.Webhook, e.Revision = w, e.Revision+1
	g.entries[w.ID] = e
	return e, false, g.err
}

func (g *fakeGateway) Get(_, id string) (webhooks.Entry, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e, ok := g.entries[id]
	if !ok || g.unread[id] {
		return webhooks.Entry{}, webhooks.ErrNotFound
	}
	return e, g.err
}

func (g *fakeGateway) List(string) ([]webhooks.Entry, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return sortedEntries(g.entries), g.err
}

func (g *fakeGateway) Delete(_ context.Context, tenant, id string, offsets bool) error {
	if _, err := g.Get(tenant, id); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.entries, id)
	g.deletedOffsets = offsets
	return nil
}

func (g *fakeGateway) setState(id string, s webhooks.State) (webhooks.Entry, error) {
	e, err := g.Get(tenant, id)
	if err != nil {
		return webhooks.Entry{}, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	e.Webhook.State = s
	g.entries[id] = e
	return e, nil
}

func (g *fakeGateway) Pause(_ context.Context, _, id string) (webhooks.Entry, error) {
	return g.setState(id, webhooks.Paused)
}

func (g *fakeGateway) Resume(_ context.Context, _, id string) (webhooks.Entry, error) {
	return g.setState(id, webhooks.Active)
}

func (g *fakeGateway) Test(_ context.Context, tenant, id string) (delivery.Result, error) {
	_, err := g.Get(tenant, id)
	return g.sample, err
}

func (g *fakeGateway) RotateSecret(_ context.Context, tenant, id string, r webhooks.Rotation) (webhooks.Entry, error) {
	e, err := g.Get(tenant, id)
	if err != nil {
		return webhooks.Entry{}, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rotations = append(g.rotations, r)
	if r.Overlap > 0 {
		e.Former = []webhooks.FormerKey{{Secret: e.Secret, Private: e.Private, Until: time.Now().Add(r.Overlap)}}
	}
	e.Secret, e.Revision = r.Secret, e.Revision+1
	if e.Private != nil {
		e.Private = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(e.Revision)}, ed25519.SeedSize))
	}
	g.entries[id] = e
	return e, nil
}

func (g *fakeGateway) PublicKeys() ([]webhooks.PublicKey, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.keyReads++
	var keys []webhooks.PublicKey
	for _, e := range g.entries {
		keys = append(keys, e.PublicKeys(time.Now())...)
	}
	return keys, g.err
}

func (g *fakeGateway) PartitionsPage(_ context.Context, tenant, id string, after groupmanager.Place, limit int) ([]groupmanager.PartitionStatus, bool, error) {
	_, err := g.Get(tenant, id)
	rows := slices.DeleteFunc(slices.Clone(g.rows), func(r groupmanager.PartitionStatus) bool {
		return groupmanager.Place{Topic: r.Topic, Partition: r.Partition}.Compare(after) <= 0
	})
	n := min(limit, len(rows))
	return rows[:n], n < len(rows), err
}

func (g *fakeGateway) Ack(ctx context.Context, a groupmanager.AckRequest) (groupmanager.AckAnswer, error) {
	if a.Token != "" && a.Token == g.stuck {
		<-ctx.Done()
		return groupmanager.AckAnswer{}, groupmanager.ErrNoOwner
	}
	select {
	case <-time.After(g.takes):
	case <-ctx.Done():
		return groupmanager.AckAnswer{}, ctx.Err()
	}
	g.mu.Lock()
	g.acks = append(g.acks, a)
	answer := g.ack
	g.mu.Unlock()
	return answer(a)
}

func (g *fakeGateway) Seek(ctx context.Context, tenant, id string, r groupmanager.SeekRequest) ([]groupmanager.SeekMove, error) {
	select {
	case <-time.After(g.takes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if _, err := g.Get(tenant, id); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seeks = append(g.seeks, r)
	return g.moves, nil
}

func (g *fakeGateway) Age() time.Duration { return g.age }

func (g *fakeGateway) Ready() error { return g.unready }

// newServer makes a Server over a fake gateway; change may alter its Config.
func newServer(t *testing.T, change ...func(*Config)) (*Server, *fakeGateway) {
	t.Helper()
	g := newFakeGateway()
	cfg := Config{
		Gateway: g, AdminToken: adminToken,
		Version: version.Info{Version: "1.2.3", Commit: "abc1234", Go: "go1.26"},
	}
	for _, c := range change {
		c(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return s, g
}

// exchange is one request to a handler, and what must hold of the answer.
type exchange struct {
	method, path string
	body         string // JSON; empty: none
	header       map[string]string
	anonymous    bool // without the admin token
}

func (x exchange) request(t *testing.T) *http.Request {
	t.Helper()
	var body io.Reader
	if x.body != "" {
		body = strings.NewReader(x.body)
	}
	r := httptest.NewRequestWithContext(t.Context(), x.method, x.path, body)
	if x.body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if !x.anonymous {
		r.Header.Set("Authorization", "Bearer "+adminToken)
	}
	for name, value := range x.header {
		r.Header.Set(name, value)
	}
	return r
}

// do makes the request and holds the answer against openapi.yaml.
func (x exchange) do(t *testing.T, h http.Handler) *http.Response {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, x.request(t))
	response := w.Result()
	checkAgainstOpenAPI(t, x.request(t), response)
	return response
}

// openAPI is the document's router; it is built once.
var openAPI = sync.OnceValues(func() (routers.Router, error) {
	doc, err := openapi3.NewLoader().LoadFromData(kpush.OpenAPI)
	if err != nil {
		return nil, fmt.Errorf("loading openapi.yaml: %w", err)
	}
	return legacy.NewRouter(doc)
})

// checkAgainstOpenAPI fails the test unless openapi.yaml describes the answer. An
// answer to a path or method it does not have must be a problem all the same.
func checkAgainstOpenAPI(t *testing.T, r *http.Request, response *http.Response) {
	t.Helper()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	response.Body = io.NopCloser(bytes.NewReader(data))
	if response.Header.Get("X-Request-Id") == "" {
		t.Error("the answer has no X-Request-Id")
	}
	if response.StatusCode >= 400 {
		checkProblem(t, response, data)
	}
	router, err := openAPI()
	if err != nil {
		t.Fatal(err)
	}
	route, params, err := router.FindRoute(r)
	if err != nil {
		if response.StatusCode < 400 {
			t.Errorf("%s %s is not in openapi.yaml and was answered %d", r.Method, r.URL.Path, response.StatusCode)
		}
		return
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route},
		Status:                 response.StatusCode,
		Header:                 response.Header,
		Options:                &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	}
	input.SetBodyBytes(data)
	if err := openapi3filter.ValidateResponse(t.Context(), input); err != nil {
		t.Errorf("%s %s: the answer %d is not what openapi.yaml says: %v\n%s", r.Method, r.URL.Path, response.StatusCode, err, data)
	}
}

// checkProblem checks what every failure has.
func checkProblem(t *testing.T, response *http.Response, data []byte) {
	t.Helper()
	if got := response.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("a failure has content type %q: %s", got, data)
		return
	}
	var p api.Problem
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		t.Errorf("a failure is not a problem: %v\n%s", err, data)
		return
	}
	if p.Status != response.StatusCode || p.RequestID != response.Header.Get("X-Request-Id") || !p.Code.Valid() || p.Title == "" || p.Detail == "" {
		t.Errorf("the problem does not fit its answer %d: %s", response.StatusCode, data)
	}
	needs := map[int]string{401: "WWW-Authenticate", 405: "Allow", 429: "Retry-After", 503: "Retry-After"}
	if name := needs[p.Status]; name != "" && response.Header.Get(name) == "" {
		t.Errorf("a %d has no %s", p.Status, name)
	}
}

// into decodes an answer of the status wanted.
func into[T any](t *testing.T, response *http.Response, status int) T {
	t.Helper()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	if response.StatusCode != status {
		t.Fatalf("status %d, want %d: %s", response.StatusCode, status, data)
	}
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("decoding the answer: %v\n%s", err, data)
	}
	return v
}

// wantProblem fails the test unless the answer is this problem.
func wantProblem(t *testing.T, response *http.Response, status int, code api.ErrorCode) api.Problem {
	t.Helper()
	p := into[api.Problem](t, response, status)
	if p.Code != code {
		t.Errorf("code %q, want %q", p.Code, code)
	}
	return p
}

// captureLog is a logger that a test reads.
func captureLog(level slog.Level) (*slog.Logger, *bytes.Buffer) {
	var log bytes.Buffer
	return slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: level})), &log
}
