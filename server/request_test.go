package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/go-chi/chi/v5"
	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/kpush/kpush"
	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/server/api"
	"github.com/kpush/kpush/webhooks"
)

func TestNewRefusesToRunOpen(t *testing.T) {
	if _, err := New(Config{Gateway: newFakeGateway()}); err == nil {
		t.Error("New took a Config without a token, want an error")
	}
	if _, err := New(Config{AdminToken: "t"}); err == nil {
		t.Error("New took a Config without a gateway, want an error")
	}
	s, _ := newServer(t, func(c *Config) { c.AdminToken, c.InsecureNoAuth = "", true })
	into[api.WebhookList](t, exchange{method: "GET", path: "/v1/webhooks", anonymous: true}.do(t, s), http.StatusOK)
}

func TestCredentials(t *testing.T) {
	tests := map[string]struct {
		header []string
		admits bool
	}{
		"the token":                   {[]string{"Bearer " + adminToken}, true},
		"the scheme in other letters": {[]string{"bEARER " + adminToken}, true},
		"none":                        {nil, false},
		"an empty one":                {[]string{""}, false},
		"only the scheme":             {[]string{"Bearer"}, false},
		"only the token":              {[]string{adminToken}, false},
		"another scheme":              {[]string{"Basic " + adminToken}, false},
		"a part of the token":         {[]string{"Bearer " + adminToken[:5]}, false},
		"more than the token":         {[]string{"Bearer " + adminToken + "x"}, false},
		"twice":                       {[]string{"Bearer " + adminToken, "Bearer " + adminToken}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, _ := newServer(t)
			r := exchange{method: "GET", path: "/v1/webhooks", anonymous: true}.request(t)
			r.Header["Authorization"] = tt.header
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if got := w.Code == http.StatusOK; got != tt.admits {
				t.Errorf("status %d, want it admitted: %v", w.Code, tt.admits)
			}
		})
	}
}

// TestRoutes holds the routes against openapi.yaml both ways, and asks each
// without credentials.
func TestRoutes(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(kpush.OpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	open := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			want = append(want, method+" "+path)
			open[method+" "+path] = operation.Security != nil
		}
	}
	s, _ := newServer(t)
	var got []string
	err = chi.Walk(s.api.(chi.Routes), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		got = append(got, method+" "+route)
		response := exchange{method: method, path: strings.ReplaceAll(route, "{id}", "a"), body: "{}", anonymous: true}.do(t, s)
		if refused := response.StatusCode == 401; refused == open[method+" "+route] && route != "/ack" && route != "/v1/ack" {
			t.Errorf("%s %s without credentials: status %d, openapi.yaml says they are optional: %v", method, route, response.StatusCode, open[method+" "+route])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("routes (-openapi.yaml +routes.go):\n%s", diff)
	}
}

func TestWrongMethodOrPath(t *testing.T) {
	tests := map[string]struct {
		method, path string
		status       int
		allow        []string
	}{
		"a collection":              {"DELETE", "/v1/webhooks", 405, []string{"GET", "POST"}},
		"one":                       {"PATCH", "/v1/webhooks/a", 405, []string{"DELETE", "GET", "PUT"}},
		"an ack":                    {"GET", "/ack", 405, []string{"POST"}},
		"health":                    {"POST", "/livez", 405, []string{"GET"}},
		"a method nobody knows":     {"BREW", "/v1/webhooks", 405, []string{"GET", "POST"}},
		"no path":                   {"GET", "/", 404, nil},
		"metrics are not public":    {"GET", "/metrics", 404, nil},
		"profiles are not public":   {"GET", "/debug/pprof/", 404, nil},
		"a path of another version": {"GET", "/v2/webhooks", 404, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, _ := newServer(t)
			code := map[int]api.ErrorCode{404: api.ErrorCodeNotFound, 405: api.ErrorCodeMethodNotAllowed}[tt.status]
			response := exchange{method: tt.method, path: tt.path}.do(t, s)
			wantProblem(t, response, tt.status, code)
			if diff := cmp.Diff(tt.allow, response.Header["Allow"]); diff != "" {
				t.Errorf("Allow (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRequestID(t *testing.T) {
	tests := map[string]struct {
		sent string
		kept bool
	}{
		"a decent one":     {"req-1/2.3", true},
		"the longest":      {strings.Repeat("x", 128), true},
		"none":             {"", false},
		"one too long":     {strings.Repeat("x", 129), false},
		"one with a space": {"a b", false},
		"one with a break": {"a\nb", false},
		"one not in ASCII": {"é", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, _ := newServer(t)
			x := exchange{method: "GET", path: "/v1/webhooks/a", header: map[string]string{"X-Request-Id": tt.sent}}
			response := x.do(t, s)
			got := response.Header.Get("X-Request-Id")
			if kept := got == tt.sent; kept != tt.kept {
				t.Errorf("X-Request-Id %q for %q, want it kept: %v", got, tt.sent, tt.kept)
			}
			if p := into[api.Problem](t, response, 404); p.RequestID != got {
				t.Errorf("request_id %q, want %q as in the header", p.RequestID, got)
			}
		})
	}
}

func TestPanic(t *testing.T) {
	logger, log := captureLog(slog.LevelInfo)
	s, g := newServer(t, func(c *Config) { c.Logger = logger })
	g.ack = func(groupmanager.AckRequest) (groupmanager.AckAnswer, error) { panic("s3cret state") }
	p := wantProblem(t, exchange{method: "POST", path: "/ack", body: byFields}.do(t, s), 500, api.ErrorCodeInternal)
	if strings.Contains(fmt.Sprint(p), "s3cret") {
		t.Errorf("the answer tells what only the log should: %v", p)
	}
	for _, want := range []string{"s3cret state", p.RequestID, "ackOne"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not tell %q: %s", want, log)
		}
	}
}

func TestPanicInTheMiddleOfAnAnswerCutsItOff(t *testing.T) {
	logger, log := captureLog(slog.LevelInfo)
	s, _ := newServer(t, func(c *Config) { c.Logger = logger })
	h := s.recovered(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		panic("too late")
	}))
	defer func() {
		if p := recover(); p != http.ErrAbortHandler {
			t.Errorf("the server sees %v, want http.ErrAbortHandler", p)
		}
		if !strings.Contains(log.String(), "too late") {
			t.Errorf("the log does not tell of it: %s", log)
		}
	}()
	h.ServeHTTP(httptest.NewRecorder(), exchange{method: "GET", path: "/"}.request(t))
}

func TestWorkHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, g := newServer(t)
		g.takes = time.Hour
		start := time.Now()
		wantProblem(t, exchange{method: "POST", path: "/ack", body: byFields}.do(t, s), 503, api.ErrorCodeUnavailable)
		if took := time.Since(start); took != defaultRequestTimeout {
			t.Errorf("answered after %v, want %v", took, defaultRequestTimeout)
		}
	})
}

// Replicas call each other on the API's listener. What they have to say is
// checked and bounded by the handler that knows them.
func TestInternalCallsAreTheHandlersAffair(t *testing.T) {
	logger, log := captureLog(slog.LevelDebug)
	spans := tracetest.NewSpanRecorder()
	s, _ := newServer(t, func(c *Config) {
		c.Logger = logger
		c.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
		c.Internal = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/panic") {
				panic("out of my depth")
			}
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprintf(w, "%s %s %d %v", r.Method, r.URL.Path, n, err)
		})
	})
	post := func(path string, size int) (int, string) {
		w := httptest.NewRecorder()
		body := strings.NewReader(strings.Repeat("x", size))
		s.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "POST", path, body))
		return w.Code, w.Body.String()
	}
	const size = 2 * maxBody
	if status, got := post("/internal/v1/ack", size); status != 200 || got != fmt.Sprintf("POST /internal/v1/ack %d <nil>", size) {
		t.Errorf("answered %d %q, want what the handler says after %d bytes", status, got, size)
	}
	if want := "route=/internal/v1/*"; !strings.Contains(log.String(), want) {
		t.Errorf("the log has no %s: %s", want, log)
	}
	if n := len(spans.Ended()); n > 0 {
		t.Errorf("there are %d spans, want none", n)
	}
	if status, got := post("/internal/v1/panic", 0); status != 500 || strings.Contains(got, "depth") {
		t.Errorf("a panic was answered %d %q, want 500 and nothing of it", status, got)
	}
	for _, path := range []string{"/internal/", "/internal/v2/ack", "/v1/internal/v1/ack"} {
		if status, _ := post(path, 0); status != 404 {
			t.Errorf("POST %s: %d, want 404", path, status)
		}
	}
	without, _ := newServer(t)
	wantProblem(t, exchange{method: "POST", path: "/internal/v1/ack", body: "{}"}.do(t, without), 404, api.ErrorCodeNotFound)
}

func TestAccessLog(t *testing.T) {
	logger, log := captureLog(slog.LevelDebug)
	s, _ := newServer(t, func(c *Config) { c.Logger = logger })
	exchange{method: "GET", path: "/v1/webhooks/some-name?verbose=s3cret", header: map[string]string{"X-Request-Id": "r1"}}.do(t, s)
	for _, want := range []string{"method=GET", "route=/v1/webhooks/{id}", "status=422", "request_id=r1"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %s: %s", want, log)
		}
	}
	for _, secret := range []string{adminToken, "s3cret"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log has %q: %s", secret, log)
		}
	}
}

func TestSpans(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	s, _ := newServer(t, func(c *Config) {
		c.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	})
	before := otel.GetTextMapPropagator()
	otel.SetTextMapPropagator(propagation.TraceContext{})
	t.Cleanup(func() { otel.SetTextMapPropagator(before) })
	caller := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	header := map[string]string{"Traceparent": fmt.Sprintf("00-%s-%s-01", caller.TraceID(), caller.SpanID())}
	exchange{method: "GET", path: "/v1/webhooks/a", header: header}.do(t, s)
	exchange{method: "GET", path: "/livez"}.do(t, s)
	ended := spans.Ended()
	if len(ended) != 1 {
		t.Fatalf("%d spans, want one and none for a probe", len(ended))
	}
	const route = "/v1/webhooks/{id}"
	if got, want := ended[0].Name(), "GET "+route; got != want {
		t.Errorf("the span is named %q, want %q", got, want)
	}
	has := attribute.NewSet(ended[0].Attributes()...)
	if got, _ := has.Value(semconv.HTTPRouteKey); got.AsString() != route {
		t.Errorf("http.route is %q, want %q", got.AsString(), route)
	}
	links := ended[0].Links()
	if len(links) != 1 || links[0].SpanContext.TraceID() != caller.TraceID() || ended[0].SpanContext().TraceID() == caller.TraceID() {
		t.Errorf("links %v of trace %s, want one to the caller's trace, which is another", links, ended[0].SpanContext().TraceID())
	}
}

func TestHealth(t *testing.T) {
	s, g := newServer(t)
	management := s.Management(http.NotFoundHandler())
	for name, h := range map[string]http.Handler{"API": s, "management": management} {
		get := func(path string) *http.Response { return exchange{method: "GET", path: path, anonymous: true}.do(t, h) }
		into[api.Health](t, get("/livez"), 200)
		into[api.Health](t, get("/readyz"), 200)
		if got, want := into[api.Version](t, get("/version"), 200), (api.Version{Version: "1.2.3", Commit: "abc1234", GoVersion: "go1.26"}); got != want {
			t.Errorf("%s: version %v, want %v", name, got, want)
		}
		g.unready = errors.New("no Kafka broker answers")
		if p := wantProblem(t, get("/readyz"), 503, api.ErrorCodeUnavailable); !strings.Contains(p.Detail, "no Kafka broker answers") {
			t.Errorf("%s: /readyz does not say why: %s", name, p.Detail)
		}
		into[api.Health](t, get("/livez"), 200)
		g.unready = nil
	}
	s.Drain()
	for _, h := range []http.Handler{s, management} {
		p := wantProblem(t, exchange{method: "GET", path: "/readyz"}.do(t, h), 503, api.ErrorCodeUnavailable)
		if !strings.Contains(p.Detail, "draining") {
			t.Errorf("/readyz does not say why: %s", p.Detail)
		}
	}
	into[api.WebhookList](t, exchange{method: "GET", path: "/v1/webhooks"}.do(t, s), 200)
}

func TestManagement(t *testing.T) {
	s, _ := newServer(t)
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "up 1\n") })
	h := s.Management(metrics)
	for path, want := range map[string]string{
		"/metrics": "up 1", "/debug/pprof/": "heap", "/debug/pprof/goroutine?debug=1": "goroutine profile", "/debug/pprof/cmdline": "server.test",
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
		if w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("GET %s: %d %.100s, want 200 and %q", path, w.Code, w.Body, want)
		}
	}
	for path, status := range map[string]int{"/v1/webhooks": 404, "/ack": 404} {
		response := exchange{method: "GET", path: path}.do(t, h)
		if response.StatusCode != status {
			t.Errorf("GET %s: %d, want %d", path, response.StatusCode, status)
		}
	}
}

func TestOpenAPIIsServed(t *testing.T) {
	s, _ := newServer(t)
	response := exchange{method: "GET", path: "/openapi.yaml", anonymous: true}.do(t, s)
	got, err := io.ReadAll(response.Body)
	if err != nil || string(got) != string(kpush.OpenAPI) {
		t.Errorf("served %d bytes, %v, want openapi.yaml's %d", len(got), err, len(kpush.OpenAPI))
	}
}

// TestExamplesOfOpenAPI sends what openapi.yaml gives as examples.
func TestExamplesOfOpenAPI(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(kpush.OpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []exchange{
		{method: "POST", path: "/v1/webhooks"}, {method: "PUT", path: "/v1/webhooks/{id}"},
		{method: "PUT", path: "/v1/webhooks/{id}/offsets"}, {method: "POST", path: "/ack"},
	} {
		examples := doc.Paths.Find(x.path).GetOperation(x.method).RequestBody.Value.Content["application/json"].Examples
		if len(examples) == 0 {
			t.Errorf("%s %s has no examples", x.method, x.path)
		}
		for name, example := range examples {
			s, g := newServer(t)
			g.ack = answering(groupmanager.AckAnswer{Result: "committed"}, nil)
			g.entries["a"] = webhooks.Entry{Webhook: webhooks.Default()}
			data, err := json.Marshal(example.Value.Value)
			if err != nil {
				t.Fatal(err)
			}
			sent := exchange{method: x.method, path: strings.ReplaceAll(x.path, "{id}", "a"), body: string(data)}
			if status := sent.do(t, s).StatusCode; status >= 300 {
				t.Errorf("example %s of %s %s: status %d, want it taken", name, x.method, x.path, status)
			}
		}
	}
}
