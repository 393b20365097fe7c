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

// prepareTopic makes the topic, or checks the one that is there. It is never left
// to the broker's automatic creation, which makes topics that delete.
func (l *Log) prepareTopic(ctx context.Context) error {
	// Through a producer, since an admin client of its own has no log to say why it
	// does not get through.
	producer, err := l.newProducer(ctx, l.cfg.Kafka.Producer())
	if err != nil {
		return err
	}
	defer producer.close()
	admin, err := kafka.NewAdminClientFromProducer(producer.Producer)
	if err != nil {
		return fmt.Errorf("making an admin client: %w", err)
	}
	defer admin.Close()

	exists, err := l.checkTopic(ctx, admin)
	if err != nil || exists {
		return err
	}
	made, err := l.createTopic(ctx, admin)
	if err != nil || made {
		return err
	}
	// Another process was faster. What it has made is checked like any other.
	if exists, err = l.checkTopic(ctx, admin); err == nil && !exists {
		err = errors.New("the topic was made by another process and is not known to the broker yet")
	}
	return err
}

// checkTopic refuses a topic that cannot be a registry: with more partitions there
// is no one order, and without compaction, or with deletion beside it, webhooks
// vanish with time.
func (l *Log) checkTopic(ctx context.Context, admin *kafka.AdminClient) (exists bool, err error) {
	partitions, exists, err := l.partitions(ctx, admin)
	switch {
	case err != nil || !exists:
		return false, err
	case partitions != 1:
		return true, fatal{fmt.Errorf("%w: %s has %d partitions and needs exactly one: name another topic in registry.topic",
			ErrUnsuitable, l.cfg.Topic, partitions)}
	}
	policy, err := l.policy(ctx, admin)
	if err == nil && policy != compact {
		err = fatal{fmt.Errorf("%w: %s has %s=%s, by which webhooks would be lost; correct it with "+
			"kafka-configs.sh --alter --entity-type topics --entity-name %s --add-config %s=%s, or name another topic in registry.topic",
			ErrUnsuitable, l.cfg.Topic, cleanupPolicy, policy, l.cfg.Topic, cleanupPolicy, compact)}
	}
	return true, err
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

// createTopic tells whether it was this process that made the topic.
func (l *Log) createTopic(ctx context.Context, admin *kafka.AdminClient) (made bool, err error) {
	results, err := admin.CreateTopics(ctx, []kafka.TopicSpecification{{
		Topic:             l.cfg.Topic,
		NumPartitions:     1,
		ReplicationFactor: l.cfg.ReplicationFactor,
		Config:            map[string]string{cleanupPolicy: compact},
	}}, kafka.SetAdminRequestTimeout(adminTimeout), kafka.SetAdminOperationTimeout(adminTimeout))
	if err != nil {
		return false, fmt.Errorf("creating the topic: %w", err)
	}
	for _, r := range results {
		switch r.Error.Code() {
		case kafka.ErrNoError:
		case kafka.ErrTopicAlreadyExists:
			return false, nil
		default:
			return false, fmt.Errorf("creating the topic: %w", r.Error)
		}
	}
	l.cfg.Logger.Info("created the registry's topic", "topic", l.cfg.Topic)
	return true, nil
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
