package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/internal/kafkaconf"
)

const (
	demoTopic      = "demo"
	demoPartitions = 4
	demoRetention  = "86400000" // milliseconds: the demo's records go after a day

	sampleEvery    = time.Second
	sampleMaxPause = 30 * time.Second // between attempts at a broker that is away
	adminTimeout   = 10 * time.Second
	producerGrace  = 2 * time.Second // for a record under way at the end
)

// sample fills the demo topic: a record a second, one at a time, for ever. It makes
// the topic if there is none. ready is called once the topic is there.
func sample(ctx context.Context, conf kafkaconf.Config, logger *slog.Logger, ready func()) error {
	if err := retry(ctx, sampleMaxPause, logger, "making the demo topic", func() error {
		return createDemoTopic(ctx, conf)
	}); err != nil {
		return nil // ctx ended
	}
	ready()
	config := conf.Producer()
	producer, err := kafka.NewProducer(&config)
	if err != nil {
		return fmt.Errorf("starting the sample producer: %w", err)
	}
	// Close ends Logs and Events, and with them the readers.
	var readers sync.WaitGroup
	defer readers.Wait()
	defer producer.Close()
	readers.Go(func() { conf.Logs(context.WithoutCancel(ctx), producer.Logs()) })
	readers.Go(func() {
		for range producer.Events() { // errors of the connection; the log has them too
		}
	})

	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for number := 1; ; number++ {
		if err := produceOrder(ctx, producer, number); err != nil && ctx.Err() == nil {
			logger.Warn("the sample producer could not write", "topic", demoTopic, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// order is a record of the demo topic.
type order struct {
	Order    int       `json:"order"`
	Customer string    `json:"customer"`
	Total    float64   `json:"total"`
	At       time.Time `json:"at"`
}

// produceOrder writes one record and waits until the broker has confirmed it, so
// that at most one is ever under way.
func produceOrder(ctx context.Context, producer *kafka.Producer, number int) error {
	customer := fmt.Sprintf("customer-%d", rand.IntN(10))
	value, err := json.Marshal(order{number, customer, float64(rand.IntN(10_000)) / 100, time.Now().UTC()})
	if err != nil {
		return err
	}
	topic := demoTopic
	report := make(chan kafka.Event, 1)
	if err := producer.Produce(&kafka.Message{
		TopicPartition: kafka.TopicPartition{Topic: &topic, Partition: kafka.PartitionAny},
		Key:            []byte(customer),
		Value:          value,
	}, report); err != nil {
		return err
	}
	var ended <-chan time.Time
	done := ctx.Done()
	for {
		select {
		case e := <-report:
			return e.(*kafka.Message).TopicPartition.Error
		case <-done:
			done, ended = nil, time.After(producerGrace)
		case <-ended:
			return ctx.Err()
		}
	}
}

// createDemoTopic makes the demo topic; one that exists is left as it is.
func createDemoTopic(ctx context.Context, conf kafkaconf.Config) error {
	config := conf.Admin()
	admin, err := kafka.NewAdminClient(&config)
	if err != nil {
		return err
	}
	defer admin.Close()
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	results, err := admin.CreateTopics(ctx, []kafka.TopicSpecification{{
		Topic:             demoTopic,
		NumPartitions:     demoPartitions,
		ReplicationFactor: -1,
		Config:            map[string]string{"retention.ms": demoRetention},
	}}, kafka.SetAdminRequestTimeout(adminTimeout/2), kafka.SetAdminOperationTimeout(adminTimeout/2))
	if err != nil {
		return err
	}
	for _, r := range results {
		if code := r.Error.Code(); code != kafka.ErrNoError && code != kafka.ErrTopicAlreadyExists {
			return r.Error
		}
	}
	return nil
}
