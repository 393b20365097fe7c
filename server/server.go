// Package server is the HTTP outside of the gateway: the API of openapi.yaml and
// the management listener's pages. It authenticates, decodes, bounds what comes
// in, makes one call inward and encodes the answer. Whatever goes wrong is
// answered as application/problem+json.
//
// routes.go has every route on one page, and statusOf pairs errors with statuses.
package server

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/kpush/kpush/internal/version"
)

// Config is what a Server is made from.
type Config struct {
	// Gateway does the work. Required.
	Gateway Gateway

	// AdminToken is the bearer token of the API. Required unless InsecureNoAuth.
	AdminToken string

	// InsecureNoAuth lets everybody do everything.
	InsecureNoAuth bool

	// MaxFailedAcks is how many acks a second may come from one client address without
	// a valid token or bearer; more are answered 429. Default 0: any number.
	MaxFailedAcks int

	// Internal answers other replicas, at /internal/v1/ on the API's listener. It
	// checks by itself who calls, and bounds what it reads. Default: none, and
	// nothing is at these paths.
	Internal http.Handler

	// LoopMarkers are what the installation's own requests to receivers carry: one
	// that comes back is answered 508. Default: none, and none is known.
	LoopMarkers []string

	// Version is what /version tells.
	Version version.Info

	// Logger gets one line per request at debug, and what is the server's own
	// fault at error. Default: none.
	Logger *slog.Logger

	// TracerProvider and MeterProvider get a span and metrics per request of the
	// API. Default: the global ones.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider

	// RequestTimeout is how long a request may take once its body was read; a seek
	// may take twice as long. What has not come to an end by then is answered 503.
	// Default 30s.
	RequestTimeout time.Duration
}

const (
	defaultRequestTimeout = 30 * time.Second
	seekTimeouts          = 2 // request timeouts that a seek may take
)

// Server serves the API; it is an http.Handler, and safe for concurrent use.
type Server struct {
	gateway        Gateway
	admin          credential
	strangers      *strangers
	keySet         keySet
	version        version.Info
	logger         *slog.Logger
	tracers        trace.TracerProvider
	meters         metric.MeterProvider
	requestTimeout time.Duration
	draining       atomic.Bool
	api            http.Handler
	internal       http.Handler // nil: none
	loopMarkers    []string
}

// New makes a Server. It starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Gateway == nil {
		return nil, errors.New("server needs a gateway")
	}
	if cfg.AdminToken == "" && !cfg.InsecureNoAuth {
		return nil, errors.New("server needs an admin token, or to be told that it shall go without")
	}
	s := &Server{
		gateway:        cfg.Gateway,
		admin:          newCredential(cfg.AdminToken, cfg.InsecureNoAuth),
		strangers:      newStrangers(cfg.MaxFailedAcks),
		version:        cfg.Version,
		logger:         cfg.Logger,
		tracers:        cfg.TracerProvider,
		meters:         cfg.MeterProvider,
		requestTimeout: cfg.RequestTimeout,
		loopMarkers:    cfg.LoopMarkers,
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if s.requestTimeout == 0 {
		s.requestTimeout = defaultRequestTimeout
	}
	s.api = s.routes()
	if cfg.Internal != nil {
		s.internal = s.internalRoutes(cfg.Internal)
	}
	return s, nil
}

// ServeHTTP answers one request to the API, or of another replica.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.internal != nil && strings.HasPrefix(r.URL.Path, internalPath) {
		s.internal.ServeHTTP(w, r)
		return
	}
	s.api.ServeHTTP(w, r)
}

// Drain makes /readyz answer 503 from now on, on both listeners. All else is
// still served.
func (s *Server) Drain() { s.draining.Store(true) }
