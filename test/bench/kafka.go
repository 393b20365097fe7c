package main

import (
	"context"
	"fmt"

	"github.com/kpush/kpush/internal/kafkanode"
)

const kafkaVersion = kafkanode.Version

// startKafka runs a node on the core of all that is not measured.
func startKafka(ctx context.Context) (brokers string, stop func(), err error) {
	node, err := kafkanode.Run(ctx, kafkanode.WithCPUs(otherCore))
	if err != nil {
		return "", nil, fmt.Errorf("starting Kafka: %w", err)
	}
	return node.Brokers(), node.Stop, nil
}
