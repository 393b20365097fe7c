package main

import (
	"context"
	"log/slog"
	"time"
)

// retry calls f until it succeeds, with a pause that doubles from a second up to
// most, and logs each failure. It returns an error only once ctx has ended.
func retry(ctx context.Context, most time.Duration, logger *slog.Logger, what string, f func() error) error {
	for pause := time.Second; ; pause = min(2*pause, most) {
		err := f()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		logger.Warn(what+" failed", "error", err, "retry_in", pause)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}
