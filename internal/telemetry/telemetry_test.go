package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quiet unsets everything that asks for an exporter, whatever the machine has set.
func quiet(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		"OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES",
		"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
	} {
		t.Setenv(name, "")
	}
}

func setup(t *testing.T) *Telemetry {
	t.Helper()
	tel, err := Setup(t.Context(), Options{Version: "1.2.3", Commit: "abc", GoVersion: "go1.26", LibrdkafkaVersion: "2.11.1", InstanceID: "r1"})
	if err != nil {
		t.Fatalf("Setup: %v", err)
	}
	t.Cleanup(func() { tel.Shutdown(context.Background()) })
	return tel
}

func scrape(t *testing.T, tel *Telemetry) string {
	t.Helper()
	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("GET /metrics = %d, want 200: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// TestExposition pins how our names come out at /metrics, which dashboards are
// built on, and that the bare minimum is there without any setting.
func TestExposition(t *testing.T) {
	quiet(t)
	tel := setup(t)
	meter := otel.Meter(Scope)
	webhook := metric.WithAttributes(attribute.String(AttrWebhook, "orders"))

	attempts, _ := meter.Int64Counter(DeliveryAttempts, metric.WithUnit(UnitAttempts))
	attempts.Add(t.Context(), 3, webhook, metric.WithAttributes(attribute.String(AttrOutcome, "acked")))
	duration, _ := meter.Float64Histogram(DeliveryDuration, metric.WithUnit(UnitSeconds))
	duration.Record(t.Context(), 0.02)
	size, _ := meter.Int64Histogram(DeliveryBatchSize, metric.WithUnit(UnitRecords))
	size.Record(t.Context(), 75)
	inFlight, _ := meter.Int64UpDownCounter(DeliveryInFlight, metric.WithUnit(UnitRequests))
	inFlight.Add(t.Context(), 2, webhook)
	lag, _ := meter.Float64Gauge(ConsumerLagTime, metric.WithUnit(UnitSeconds))
	lag.Record(t.Context(), 1.5, webhook)
	server, _ := meter.Float64Histogram("http.server.request.duration", metric.WithUnit(UnitSeconds))
	server.Record(t.Context(), 0.02, metric.WithAttributes(
		attribute.String("http.route", "/v1/webhooks"), attribute.String("server.address", "written.by.the.caller")))

	text := scrape(t, tel)
	for _, line := range []string{
		`kpush_delivery_attempts_total{outcome="acked",webhook="orders"} 3`,
		`kpush_delivery_duration_seconds_bucket{le="0.025"} 1`,
		`kpush_delivery_duration_seconds_bucket{le="0.01"} 0`,
		`kpush_delivery_batch_size_bucket{le="100"} 1`,
		`kpush_delivery_in_flight{webhook="orders"} 2`,
		`kpush_consumer_lag_time_seconds{webhook="orders"} 1.5`,
		`kpush_build_info{commit="abc",go_version="go1.26",librdkafka_version="2.11.1",version="1.2.3"} 1`,
		`http_server_request_duration_seconds_count{http_route="/v1/webhooks"} 1`,
		`service_instance_id="r1",service_name="kpush",service_version="1.2.3"`,
	} {
		if !strings.Contains(text, line) {
			t.Errorf("/metrics lacks %s", line)
		}
	}
	for _, name := range []string{"go_goroutine_count", "process_resident_memory_bytes", "process_cpu_seconds_total"} {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("/metrics lacks %s", name)
		}
	}
	if strings.Contains(text, "written.by.the.caller") {
		t.Error("/metrics shows the caller's Host header: series without end")
	}
	if t.Failed() {
		t.Log(text)
	}
}

func TestSeriesBeyondTheSDKsOwnLimitAreKept(t *testing.T) {
	quiet(t)
	tel := setup(t)
	lag, _ := otel.Meter(Scope).Int64Gauge(ConsumerLag, metric.WithUnit(UnitRecords))
	const partitions = 2500 // the SDK's default limit is 2000
	for p := range partitions {
		lag.Record(t.Context(), 1, metric.WithAttributes(attribute.Int(AttrPartition, p)))
	}
	text := scrape(t, tel)
	if got := strings.Count(text, "\nkpush_consumer_lag{"); got != partitions {
		t.Errorf("series of %s = %d, want %d", ConsumerLag, got, partitions)
	}
}

func TestAsked(t *testing.T) {
	tests := map[string]struct {
		env  map[string]string
		want bool
	}{
		"nothing set asks for nothing":          {nil, false},
		"an exporter by name":                   {map[string]string{"OTEL_TRACES_EXPORTER": "console"}, true},
		"another signal's exporter":             {map[string]string{"OTEL_METRICS_EXPORTER": "otlp"}, false},
		"an endpoint stands for otlp":           {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, true},
		"an endpoint of this signal":            {map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318"}, true},
		"an endpoint of another signal":         {map[string]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318"}, false},
		"a service name alone asks for nothing": {map[string]string{"OTEL_SERVICE_NAME": "x"}, false},
		"a disabled SDK wins":                   {map[string]string{"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			quiet(t)
			for k, v := range tt.env {
				t.Setenv(k, v)
			}
			if got := asked("TRACES"); got != tt.want {
				t.Errorf("asked(TRACES) = %v, want %v", got, tt.want)
			}
		})
	}
}

// TestOTLP lets a collector say what it was sent when only an endpoint is named.
func TestOTLP(t *testing.T) {
	quiet(t)
	var mu sync.Mutex
	var paths []string
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		paths = append(paths, r.URL.Path)
	}))
	defer collector.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)

	tel := setup(t)
	_, span := otel.Tracer(Scope).Start(t.Context(), "process orders")
	span.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatalf("Shutdown: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(paths)
	if got, want := fmt.Sprint(slices.Compact(paths)), "[/v1/metrics /v1/traces]"; got != want {
		t.Errorf("the collector was sent %s, want %s", got, want)
	}
}

func TestSetupNamesTheVariableItCannotUse(t *testing.T) {
	for _, name := range []string{"OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"} {
		quiet(t)
		t.Setenv(name, "carrier-pigeon")
		_, err := Setup(t.Context(), Options{})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=carrier-pigeon: error = %v, want one that names the variable", name, err)
		}
	}
}

func TestLogHandler(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(LogHandler(slog.NewJSONHandler(&out, nil)))
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}})
	under := trace.ContextWithSpanContext(t.Context(), span)

	log.With("webhook", "orders").InfoContext(under, "delivered")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"trace_id": span.TraceID().String(), "span_id": span.SpanID().String(), "webhook": "orders",
	} {
		if line[key] != want {
			t.Errorf("%s = %v, want %s", key, line[key], want)
		}
	}

	out.Reset()
	log.InfoContext(t.Context(), "delivered")
	if strings.Contains(out.String(), "trace_id") {
		t.Errorf("a line outside of any span has a trace id: %s", &out)
	}
}
