// Package kafkastore keeps the webhook registry in a compacted Kafka topic of
// one partition. Every process reads it; one leads it and writes, with a producer
// whose transactional.id is the same for all processes on the registry, so that
// the latest to lead fences the ones before.
package kafkastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/kpush/kpush/internal/kafkaconf"
	"github.com/kpush/kpush/webhooks"
)

// DefaultTopic is where the registry is when nothing else is said.
const DefaultTopic = "__kpush_registry"

// ErrUnsuitable says that the topic is there and is not fit to be a registry. The
// error that wraps it says what to do.
var ErrUnsuitable = errors.New("the registry's topic cannot be used")

// Config of a Log.
type Config struct {
	Kafka kafkaconf.Config // valid

	// Topic of the registry; it is made if missing. Default DefaultTopic. It is
	// the transactional.id of the writer, too.
	Topic string

	// ReplicationFactor of a topic that is made; 0 and -1 are the broker's default.
	ReplicationFactor int

	Logger *slog.Logger
}

// Log is the registry's log; it implements webhooks.Log.
type Log struct {
	cfg    Config
	writer atomic.Pointer[writer] // nil while Lead does not run

	step time.Duration // stepTimeout; less in tests
}

var _ webhooks.Log = (*Log)(nil)

// New makes a log; nothing is connected to before Run.
func New(cfg Config) (*Log, error) {
	if cfg.Topic == "" {
		cfg.Topic = DefaultTopic
	}
	if cfg.ReplicationFactor < -1 {
		return nil, fmt.Errorf("registry.replication_factor: %d is neither -1 nor a number of replicas", cfg.ReplicationFactor)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Log{cfg: cfg, step: stepTimeout}, nil
}

// Run implements webhooks.Log. It makes the topic if it is missing, and writes
// nothing. It is called once. Errors wrap ErrUnsuitable, or say that the topic was
// lost while it was read.
func (l *Log) Run(ctx context.Context, apply func(key string, value []byte, offset int64), caughtUp func()) error {
	if err := l.persist(ctx, "preparing the registry's topic", l.prepareTopic, sleep); err != nil {
		return err
	}
	r := reader{Log: l, apply: apply, caughtUp: caughtUp}
	return l.persist(ctx, "reading the registry", r.run, sleep)
}

// fatal marks an error that no retry heals.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// Pauses between attempts to reach the broker; each is twice the one before.
const (
	firstPause = 500 * time.Millisecond
	maxPause   = 15 * time.Second

	// soundRun is how long an attempt has to have lasted for the pauses to begin
	// anew: what it did has worked.
	soundRun = time.Minute
)

// persist does something until it works, logging each failure once and pausing
// after it. It returns nil, a fatal error, or ctx's.
func (l *Log) persist(ctx context.Context, what string, do func(context.Context) error,
	wait func(context.Context, time.Duration, error) error) error {
	pause := firstPause
	for {
		start := time.Now()
		err := do(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if f, ok := errors.AsType[fatal](err); ok {
			return f.error
		}
		if time.Since(start) >= soundRun {
			pause = firstPause
		}
		l.cfg.Logger.Warn(what+" failed and is tried again", "topic", l.cfg.Topic, "error", err, "pause", pause)
		if err := wait(ctx, pause, err); err != nil {
			return err
		}
		pause = min(2*pause, maxPause)
	}
}

// sleep is the plain way to wait in persist.
func sleep(ctx context.Context, d time.Duration, _ error) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// closeTimeout bounds the closing of a client; one that hangs is left behind.
const closeTimeout = 3 * time.Second

// closeClient closes a client of the Kafka library in bounded time.
func (l *Log) closeClient(what string, end func()) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		end()
	}()
	select {
	case <-closed:
	case <-time.After(closeTimeout):
		l.cfg.Logger.Warn("a Kafka client does not close and is left behind", "client", what, "waited", closeTimeout)
	}
}
