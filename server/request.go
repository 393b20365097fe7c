package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/oklog/ulid/v2"

	"github.com/kpush/kpush/server/api"
)

type requestIDKey struct{}

// requestID returns the id that identified gave the request.
func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

const (
	requestIDHeader = "X-Request-Id"
	maxRequestID    = 128
)

// identified gives each request an id, the client's if it sent a decent one, and
// sets the headers that every answer has.
func (s *Server) identified(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(requestIDHeader)
		if !decentID(id) {
			id = strings.ToLower(ulid.Make().String())
		}
		h := w.Header()
		h.Set(requestIDHeader, id)
		h.Set("Cache-Control", "no-store") // answers are of the moment, and some hold a secret
		h.Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id)))
	})
}

// decentID tells whether a client's request id may go into logs and answers.
func decentID(id string) bool {
	unfit := func(c rune) bool { return c <= ' ' || c > '~' }
	return id != "" && len(id) <= maxRequestID && !strings.ContainsFunc(id, unfit)
}

// accessLog writes one line per request at debug. It tells the route, not the
// path: what a client wrote into a path is its own affair.
func (s *Server) accessLog(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.logger.Enabled(r.Context(), slog.LevelDebug) {
			next.ServeHTTP(w, r)
			return
		}
		start := time.Now()
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		next.ServeHTTP(ww, r)
		s.logger.DebugContext(r.Context(), "request",
			"request_id", requestID(r.Context()),
			"method", r.Method,
			"route", chi.RouteContext(r.Context()).RoutePattern(),
			"status", ww.Status(),
			"bytes", ww.BytesWritten(),
			"duration", time.Since(start))
	})
}

// recovered answers a handler's panic with 500 and logs it. Once the answer has
// begun, all that can be done is to cut it off.
func (s *Server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler {
				panic(p)
			}
			if begun := ww.Status() != 0; begun {
				s.noteFailure(r.Context(), statusOf(panicError(p)), panicError(p))
				panic(http.ErrAbortHandler)
			}
			s.fail(ww, r, panicError(p))
		}()
		next.ServeHTTP(ww, r)
	})
}

// panicError is a panic as an error for the log, with the stack it happened on.
func panicError(p any) error { return fmt.Errorf("panic: %v\n%s", p, debug.Stack()) }

// withTimeout bounds the work of one operation.
func (s *Server) withTimeout(next api.StrictHandlerFunc, operation string) api.StrictHandlerFunc {
	timeout := s.requestTimeout
	if operation == "SeekWebhook" { // deliveries under way end first
		timeout *= seekTimeouts
	}
	return func(ctx context.Context, w http.ResponseWriter, r *http.Request, request any) (any, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return next(ctx, w, r, request)
	}
}

// methodNotAllowed tells which methods the path takes.
func methodNotAllowed(w http.ResponseWriter, r *http.Request) error {
	path := r.URL.RawPath
	if path == "" {
		path = r.URL.Path
	}
	routes := chi.RouteContext(r.Context()).Routes
	for _, method := range []string{http.MethodDelete, http.MethodGet, http.MethodPost, http.MethodPut} {
		if routes.Match(chi.NewRouteContext(), method, path) {
			w.Header().Add("Allow", method)
		}
	}
	return errMethodNotAllowed
}
