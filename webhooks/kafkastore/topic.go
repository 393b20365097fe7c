package kafkastore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

const (
	adminTimeout  = 5 * time.Second
	cleanupPolicy = "cleanup.policy"
	compact       = "compact"
)

// prepareTopic makes the topic, or checks the one that is there: with more
// partitions there is no one order, and without compaction, or with deletion
// beside it, webhooks vanish with time. It is never left to the broker's
// automatic creation, which makes topics that delete.
func (l *Log) prepareTopic(ctx context.Context) error {
	// Through a producer, since an admin client of its own has no log to say why it
	// does not get through.
	producer, end, err := l.newProducer(ctx, l.cfg.Kafka.Producer())
	if err != nil {
		return err
	}
	defer end()
	admin, err := kafka.NewAdminClientFromProducer(producer)
	if err != nil {
		return fmt.Errorf("making an admin client: %w", err)
	}
	defer admin.Close()

	partitions, exists, err := l.partitions(ctx, admin)
	switch {
	case err != nil:
		return err
	case !exists:
		return l.createTopic(ctx, admin)
	case partitions != 1:
		return fatal{fmt.Errorf("%w: %s has %d partitions and needs exactly one: name another topic in registry.topic",
			ErrUnsuitable, l.cfg.Topic, partitions)}
	}
	policy, err := l.policy(ctx, admin)
	if err != nil {
		return err
	}
	if policy != compact {
		return fatal{fmt.Errorf("%w: %s has %s=%s, by which webhooks would be lost; correct it with "+
			"kafka-configs.sh --alter --entity-type topics --entity-name %s --add-config %s=%s, or name another topic in registry.topic",
			ErrUnsuitable, l.cfg.Topic, cleanupPolicy, policy, l.cfg.Topic, cleanupPolicy, compact)}
	}
	return nil
}

func (l *Log) partitions(ctx context.Context, admin *kafka.AdminClient) (count int, exists bool, err error) {
	result, err := admin.DescribeTopics(ctx, kafka.NewTopicCollectionOfTopicNames([]string{l.cfg.Topic}),
		kafka.SetAdminRequestTimeout(adminTimeout))
	if err != nil {
		return 0, false, fmt.Errorf("describing the topic: %w", err)
	}
	if len(result.TopicDescriptions) != 1 {
		return 0, false, errors.New("describing the topic: the broker said nothing of it")
	}
	switch t := result.TopicDescriptions[0]; t.Error.Code() {
	case kafka.ErrNoError:
		return len(t.Partitions), true, nil
	case kafka.ErrUnknownTopicOrPart:
		return 0, false, nil
	default:
		return 0, false, fmt.Errorf("describing the topic: %w", t.Error)
	}
}

func (l *Log) createTopic(ctx context.Context, admin *kafka.AdminClient) error {
	results, err := admin.CreateTopics(ctx, []kafka.TopicSpecification{{
		Topic:             l.cfg.Topic,
		NumPartitions:     1,
		ReplicationFactor: l.cfg.ReplicationFactor,
		Config:            map[string]string{cleanupPolicy: compact},
	}}, kafka.SetAdminRequestTimeout(adminTimeout), kafka.SetAdminOperationTimeout(adminTimeout))
	if err != nil {
		return fmt.Errorf("creating the topic: %w", err)
	}
	for _, r := range results {
		if r.Error.Code() != kafka.ErrNoError { // also when it exists by now: then it is checked next time
			return fmt.Errorf("creating the topic: %w", r.Error)
		}
	}
	l.cfg.Logger.Info("created the registry's topic", "topic", l.cfg.Topic)
	return nil
}

func (l *Log) policy(ctx context.Context, admin *kafka.AdminClient) (string, error) {
	results, err := admin.DescribeConfigs(ctx,
		[]kafka.ConfigResource{{Type: kafka.ResourceTopic, Name: l.cfg.Topic}},
		kafka.SetAdminRequestTimeout(adminTimeout))
	if err != nil {
		return "", fmt.Errorf("reading the topic's configuration: %w", err)
	}
	if len(results) != 1 {
		return "", errors.New("reading the topic's configuration: the broker said nothing of it")
	}
	if r := results[0]; r.Error.Code() != kafka.ErrNoError {
		return "", fmt.Errorf("reading the topic's configuration: %w", r.Error)
	}
	return results[0].Config[cleanupPolicy].Value, nil
}
