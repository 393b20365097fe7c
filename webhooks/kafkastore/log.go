// Package kafkastore keeps the webhook registry in a compacted Kafka topic of
// one partition, written by one fenced transactional producer.
package kafkastore

import (
	"context"
	"log/slog"

	"github.com/kpush/kpush/internal/kafkaconf"
)

// Config of a Log.
type Config struct {
	Kafka             kafkaconf.Config
	Topic             string // default __kpush_registry
	ReplicationFactor int    // -1: the broker's default
	Logger            *slog.Logger
}

// Log is the registry's log; it implements webhooks.Log.
type Log struct{}

// New makes a log; nothing is connected before Run.
func New(cfg Config) (*Log, error) { panic("seam") }

// Run implements webhooks.Log.
func (l *Log) Run(ctx context.Context, apply func(key string, value []byte, offset int64), caughtUp func()) error {
	panic("seam")
}

// Append implements webhooks.Log.
func (l *Log) Append(ctx context.Context, key string, value []byte) (int64, error) { panic("seam") }
