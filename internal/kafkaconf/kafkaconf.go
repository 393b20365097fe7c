// Package kafkaconf turns the gateway's Kafka settings into the configurations
// of the clients it runs.
package kafkaconf

import (
	"context"
	"log/slog"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/kpush/kpush/webhooks"
)

// Config is what the clients of one installation have in common.
type Config struct {
	Brokers       []string          // host:port
	Properties    map[string]string // librdkafka properties, passed through
	GroupProtocol string            // classic (also when empty) or consumer
	ClientID      string
	Logger        *slog.Logger
}

// Validate complains about everything that is wrong at once.
func (c Config) Validate() error { panic("seam") }

// Consumer is the configuration of the group member of w.
func (c Config) Consumer(w webhooks.Webhook) kafka.ConfigMap { panic("seam") }

// Admin is the configuration of an admin client.
func (c Config) Admin() kafka.ConfigMap { panic("seam") }

// Producer is the configuration of an idempotent producer with acks=all.
func (c Config) Producer() kafka.ConfigMap { panic("seam") }

// TransactionalProducer is the configuration of the producer with transactional.id id.
func (c Config) TransactionalProducer(id string) kafka.ConfigMap { panic("seam") }

// Logs routes what a client logs to the logger until the channel closes or ctx ends.
func (c Config) Logs(ctx context.Context, ch <-chan kafka.LogEvent) { panic("seam") }
