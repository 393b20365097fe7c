package server

import (
	"net/http"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// traced makes a span and the semantic conventions' metrics of each request but
// the probes. The API is a public endpoint: a caller's trace is linked to, and is
// not the parent. Between traced and the router nothing may copy the request,
// since the span takes its name from the pattern that the router leaves there.
func (s *Server) traced() func(http.Handler) http.Handler {
	opts := []otelhttp.Option{
		otelhttp.WithPublicEndpointFn(func(*http.Request) bool { return true }),
		otelhttp.WithFilter(func(r *http.Request) bool { return r.URL.Path != "/livez" && r.URL.Path != "/readyz" }),
	}
	if s.tracers != nil {
		opts = append(opts, otelhttp.WithTracerProvider(s.tracers))
	}
	if s.meters != nil {
		opts = append(opts, otelhttp.WithMeterProvider(s.meters))
	}
	return otelhttp.NewMiddleware("api", opts...)
}

// spanRoute adds http.route, which otelhttp puts on its metrics and leaves off its spans.
func spanRoute(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r)
		if r.Pattern != "" {
			trace.SpanFromContext(r.Context()).SetAttributes(semconv.HTTPRoute(r.Pattern))
		}
	})
}
