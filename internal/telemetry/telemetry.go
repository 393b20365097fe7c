// Package telemetry sets up OpenTelemetry for the process: metrics for whoever
// scrapes /metrics, traces and metrics for a collector when the standard OTEL_*
// variables ask for it, and trace ids in the log.
//
// It holds the only use of the OTel SDK. Everyone else creates instruments and
// spans through the API, under the names of names.go.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/contrib/instrumentation/runtime"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// cardinalityLimit is how many series one instrument may have; beyond it the SDK
// folds the rest into otel.metric.overflow. Its own limit of 2000 is passed by 100
// webhooks on a topic of 20 partitions. A series costs well under 1 KB.
const cardinalityLimit = 100_000

// Options say what is being observed.
type Options struct {
	Version           string // of the gateway
	Commit            string
	GoVersion         string
	LibrdkafkaVersion string
	InstanceID        string // the replica's id; empty leaves service.instance.id out

	// Logger hears of failing exporters. Default slog.Default().
	Logger *slog.Logger
}

// Telemetry is the process's meter and tracer provider.
type Telemetry struct {
	metrics  *sdkmetric.MeterProvider
	traces   *sdktrace.TracerProvider // nil when nobody asked for traces
	registry *prometheus.Registry
}

// Setup makes the providers and installs them globally, so that it is called once
// per process, before anything creates an instrument. Of the environment it reads
// the standard OTEL_* variables, and nothing leaves the process without them:
//
//   - OTEL_TRACES_EXPORTER and OTEL_METRICS_EXPORTER name exporters (otlp,
//     console, none; prometheus is always there, on /metrics);
//   - with OTEL_EXPORTER_OTLP_ENDPOINT, or the variable of one signal, otlp is
//     taken for granted;
//   - OTEL_SDK_DISABLED=true switches both off; /metrics stays.
//
// The samplers, headers, batch sizes and resource attributes of the standard work
// as they do everywhere.
func Setup(ctx context.Context, opts Options) (*Telemetry, error) {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		opts.Logger.Warn("telemetry", "error", err)
	}))
	res, err := newResource(ctx, opts)
	if err != nil {
		return nil, err
	}
	t := &Telemetry{registry: prometheus.NewRegistry()}
	if err := t.setupMetrics(ctx, res, opts); err != nil {
		return nil, errors.Join(err, t.Shutdown(ctx))
	}
	if err := t.setupTraces(ctx, res); err != nil {
		return nil, errors.Join(err, t.Shutdown(ctx))
	}
	otel.SetMeterProvider(t.metrics)
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	if t.traces != nil {
		otel.SetTracerProvider(t.traces)
	}
	return t, nil
}

// Handler serves /metrics in Prometheus' formats.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{Registry: t.registry})
}

// Tracing tells whether spans are recorded: without it there is no need to make any.
func (t *Telemetry) Tracing() bool { return t.traces != nil }

// Shutdown sends what has not been sent yet and ends the exporters, within ctx.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	var errs []error
	if t.traces != nil {
		errs = append(errs, t.traces.Shutdown(ctx))
	}
	if t.metrics != nil {
		errs = append(errs, t.metrics.Shutdown(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("ending telemetry: %w", err)
	}
	return nil
}

// newResource says who speaks; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
func newResource(ctx context.Context, opts Options) (*resource.Resource, error) {
	attrs := []attribute.KeyValue{semconv.ServiceName("kpush"), semconv.ServiceVersion(opts.Version)}
	if opts.InstanceID != "" {
		attrs = append(attrs, semconv.ServiceInstanceID(opts.InstanceID))
	}
	res, err := resource.New(ctx,
		resource.WithAttributes(attrs...),
		resource.WithTelemetrySDK(),
		resource.WithFromEnv(),
	)
	if err != nil {
		return nil, fmt.Errorf("reading the OTel resource: %w", err)
	}
	return res, nil
}

func (t *Telemetry) setupMetrics(ctx context.Context, res *resource.Resource, opts Options) error {
	scraped, err := otelprom.New(otelprom.WithRegisterer(t.registry), otelprom.WithoutScopeInfo())
	if err != nil {
		return fmt.Errorf("setting up /metrics: %w", err)
	}
	// Memory and CPU of the whole process: the Kafka client's share of both is
	// outside of Go's own figures.
	if err := t.registry.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})); err != nil {
		return fmt.Errorf("setting up process metrics: %w", err)
	}
	config := []sdkmetric.Option{
		sdkmetric.WithResource(res),
		sdkmetric.WithReader(scraped),
		sdkmetric.WithView(view),
		sdkmetric.WithCardinalityLimit(cardinalityLimit),
		// Exemplars would carry the very attributes that view drops.
		sdkmetric.WithExemplarFilter(exemplar.AlwaysOffFilter),
	}
	if asked("METRICS") && os.Getenv("OTEL_METRICS_EXPORTER") != "prometheus" {
		pushed, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return fmt.Errorf("setting up OTEL_METRICS_EXPORTER: %w", err)
		}
		if !autoexport.IsNoneMetricReader(pushed) {
			config = append(config, sdkmetric.WithReader(pushed))
		}
	}
	t.metrics = sdkmetric.NewMeterProvider(config...)
	if err := runtime.Start(runtime.WithMeterProvider(t.metrics)); err != nil {
		return fmt.Errorf("setting up runtime metrics: %w", err)
	}
	return t.recordBuildInfo(opts)
}

func (t *Telemetry) setupTraces(ctx context.Context, res *resource.Resource) error {
	if !asked("TRACES") {
		return nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return fmt.Errorf("setting up OTEL_TRACES_EXPORTER: %w", err)
	}
	if autoexport.IsNoneSpanExporter(exporter) {
		return nil
	}
	t.traces = sdktrace.NewTracerProvider(sdktrace.WithResource(res), sdktrace.WithBatcher(exporter))
	return nil
}

// asked tells whether the environment wants a signal (TRACES, METRICS) exported.
// autoexport by itself would try a collector on localhost for want of any word.
func asked(signal string) bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	for _, name := range []string{
		"OTEL_" + signal + "_EXPORTER",
		"OTEL_EXPORTER_OTLP_ENDPOINT",
		"OTEL_EXPORTER_OTLP_" + signal + "_ENDPOINT",
	} {
		if os.Getenv(name) != "" {
			return true
		}
	}
	return false
}

func (t *Telemetry) recordBuildInfo(opts Options) error {
	is := metric.WithAttributes(
		attribute.String("version", opts.Version),
		attribute.String("commit", opts.Commit),
		attribute.String("go_version", opts.GoVersion),
		attribute.String("librdkafka_version", opts.LibrdkafkaVersion),
	)
	_, err := t.metrics.Meter(Scope).Int64ObservableGauge(BuildInfo,
		metric.WithDescription("Always 1; the attributes name the build."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(1, is)
			return nil
		}))
	if err != nil {
		return fmt.Errorf("creating %s: %w", BuildInfo, err)
	}
	return nil
}
