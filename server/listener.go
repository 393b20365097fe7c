package server

import (
	"log/slog"
	"net/http"
	"time"
)

// Limits of a connection.
const (
	headerTimeout  = 10 * time.Second
	readTimeout    = 20 * time.Second // header and body; a body still under way then is answered 408
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 64 << 10

	// writeTimeout leaves room for body and work, and for a profile of a minute.
	writeTimeout = 90 * time.Second
)

// NewHTTPServer returns an http.Server for the API or the management pages, with
// every timeout set, so that no client holds a connection for longer than it has
// business there. The caller serves and shuts it down.
func NewHTTPServer(h http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug), // clients that misbehave
	}
}
