package groupmanager

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/internal/kafkaconf"
	"github.com/kpush/kpush/webhooks"
)

// adminTimeout bounds one request to the cluster. The caller's context has to be
// longer: a request that the context cuts short leaves its answer behind in the client.
const adminTimeout = 10 * time.Second

// TopicError says that a topic does not exist.
type TopicError struct{ Topic string }

func (e *TopicError) Error() string { return fmt.Sprintf("topic %q does not exist", e.Topic) }

// ErrGroupHasMembers says that a consumer group is in use by somebody else and
// that not every partition has a committed offset yet.
var ErrGroupHasMembers = errors.New("the consumer group has live members and not every partition has a committed offset")

// topicInfo is what a group needs to know of a topic.
type topicInfo struct {
	id         [16]byte
	partitions int32
}

// cluster answers questions about topics, offsets and groups. Safe for concurrent use.
type cluster struct {
	admin         *kafka.AdminClient
	registryTopic string // no pattern's business
	ours          kafkaconf.Members
	// tainted is set when a group deletion failed: closing the client would then
	// abort the process (rkq_refcnt > 0 in librdkafka 2.11).
	tainted atomic.Bool
}

func newCluster(conf kafka.ConfigMap, registryTopic string) (*cluster, error) {
	admin, err := kafka.NewAdminClient(&conf)
	if err != nil {
		return nil, fmt.Errorf("making the admin client: %w", err)
	}
	return &cluster{admin: admin, registryTopic: registryTopic, ours: kafkaconf.MembersOf(registryTopic)}, nil
}

func (c *cluster) close() {
	if !c.tainted.Load() {
		c.admin.Close()
	}
}

// bounded gives a call a context that outlives its request timeout.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), adminTimeout+5*time.Second)
}

// reachable returns nil if a broker answers.
func (c *cluster) reachable(timeout time.Duration) error {
	_, err := c.admin.GetMetadata(nil, false, int(timeout.Milliseconds()))
	return err
}

// partitionsOf lists every partition of the topics.
func partitionsOf(topics map[string]topicInfo) []kafka.TopicPartition {
	var all []kafka.TopicPartition
	for name, info := range topics {
		for p := range info.partitions {
			all = append(all, kafka.TopicPartition{Topic: &name, Partition: p})
		}
	}
	return all
}

// committedOffsets returns the group's committed offsets; partitions without one are missing.
func (c *cluster) committedOffsets(ctx context.Context, group string, partitions []kafka.TopicPartition) (map[topicPartition]int64, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	res, err := c.admin.ListConsumerGroupOffsets(ctx,
		[]kafka.ConsumerGroupTopicPartitions{{Group: group, Partitions: partitions}}, kafka.SetAdminRequestTimeout(kafkaconf.CoordinatorTimeout))
	offsets := make(map[topicPartition]int64)
	var missing kafka.Error
	if errors.As(err, &missing) && missing.Code() == kafka.ErrGroupIDNotFound {
		return offsets, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading committed offsets of group %q: %w", group, err)
	}
	for _, g := range res.ConsumerGroupsTopicPartitions {
		for _, tp := range g.Partitions {
			if tp.Error != nil {
				return nil, fmt.Errorf("reading the committed offset of %s [%d]: %w", *tp.Topic, tp.Partition, tp.Error)
			}
			if tp.Offset >= 0 {
				offsets[topicPartition{*tp.Topic, tp.Partition}] = int64(tp.Offset)
			}
		}
	}
	return offsets, nil
}

// listOffsets asks the leaders for the offsets that spec means.
func (c *cluster) listOffsets(ctx context.Context, partitions []kafka.TopicPartition, spec kafka.OffsetSpec, isolation kafka.IsolationLevel) (map[topicPartition]int64, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	ask := make(map[kafka.TopicPartition]kafka.OffsetSpec, len(partitions))
	for _, tp := range partitions {
		ask[kafka.TopicPartition{Topic: tp.Topic, Partition: tp.Partition}] = spec
	}
	res, err := c.admin.ListOffsets(ctx, ask, kafka.SetAdminRequestTimeout(adminTimeout), kafka.SetAdminIsolationLevel(isolation))
	if err != nil {
		return nil, fmt.Errorf("listing offsets: %w", err)
	}
	offsets := make(map[topicPartition]int64, len(partitions))
	for tp, info := range res.ResultInfos {
		if info.Error.Code() != kafka.ErrNoError {
			return nil, fmt.Errorf("listing the offset of %s [%d]: %w", *tp.Topic, tp.Partition, info.Error)
		}
		offsets[topicPartition{*tp.Topic, tp.Partition}] = int64(info.Offset)
	}
	return offsets, nil
}

// endOffsets are those a Kafka tool shows: the high watermarks.
func (c *cluster) endOffsets(ctx context.Context, partitions []kafka.TopicPartition) (map[topicPartition]int64, error) {
	return c.listOffsets(ctx, partitions, kafka.LatestOffsetSpec, kafka.IsolationLevelReadUncommitted)
}

// errTooLate says that the time in which something might be done was over.
var errTooLate = errors.New("it took too long")

// pin gives every partition of the webhook's group that has no committed offset
// the one its start means, while the group is empty. ErrGroupHasMembers: it is not.
// After the deadline nothing is committed any more.
func (c *cluster) pin(ctx context.Context, w webhooks.Webhook, topics map[string]topicInfo, deadline time.Time) error {
	all := partitionsOf(topics)
	if len(all) == 0 {
		return nil
	}
	committed, err := c.committedOffsets(ctx, w.GroupID, all)
	if err != nil {
		return err
	}
	var missing []kafka.TopicPartition
	for _, tp := range all {
		if _, ok := committed[topicPartition{*tp.Topic, tp.Partition}]; !ok {
			missing = append(missing, tp)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := c.empty(ctx, w.GroupID); err != nil {
		return err
	}
	starts, err := c.starts(ctx, w, missing)
	if err != nil {
		return err
	}
	for i, tp := range missing {
		missing[i].Offset = kafka.Offset(starts[topicPartition{*tp.Topic, tp.Partition}])
	}
	if time.Now().After(deadline) {
		return fmt.Errorf("pinning the start of group %q: %w", w.GroupID, errTooLate)
	}
	return c.commit(ctx, w.GroupID, missing)
}

// empty returns ErrGroupHasMembers unless the group has no live members.
func (c *cluster) empty(ctx context.Context, group string) error {
	members, err := c.members(ctx, group)
	if err == nil && len(members) > 0 {
		err = ErrGroupHasMembers
	}
	return err
}

// starts resolves a webhook's start: webhooks.StartEarliest, webhooks.StartLatest or
// an RFC 3339 time, where a time that no record has reached yet is the end. Latest
// means the end a reader of the webhook's isolation level sees, so that a
// transaction still open is delivered when it commits.
func (c *cluster) starts(ctx context.Context, w webhooks.Webhook, partitions []kafka.TopicPartition) (map[topicPartition]int64, error) {
	isolation := kafka.IsolationLevelReadCommitted
	if w.IsolationLevel == webhooks.ReadUncommitted {
		isolation = kafka.IsolationLevelReadUncommitted
	}
	switch w.Start {
	case webhooks.StartEarliest:
		return c.listOffsets(ctx, partitions, kafka.EarliestOffsetSpec, isolation)
	case webhooks.StartLatest:
		return c.listOffsets(ctx, partitions, kafka.LatestOffsetSpec, isolation)
	}
	at, err := time.Parse(time.RFC3339, w.Start)
	if err != nil {
		return nil, fmt.Errorf("reading the start time: %w", err)
	}
	offsets, err := c.listOffsets(ctx, partitions, kafka.NewOffsetSpecForTimestamp(at.UnixMilli()), isolation)
	if err != nil {
		return nil, err
	}
	ends, err := c.listOffsets(ctx, partitions, kafka.LatestOffsetSpec, isolation)
	if err != nil {
		return nil, err
	}
	for tp, n := range offsets {
		if n < 0 { // no record is that young
			offsets[tp] = ends[tp]
		}
	}
	return offsets, nil
}

// commit sets offsets of an empty group.
func (c *cluster) commit(ctx context.Context, group string, offsets []kafka.TopicPartition) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	res, err := c.admin.AlterConsumerGroupOffsets(ctx,
		[]kafka.ConsumerGroupTopicPartitions{{Group: group, Partitions: offsets}}, kafka.SetAdminRequestTimeout(kafkaconf.CoordinatorTimeout))
	if err != nil {
		return fmt.Errorf("committing offsets of group %q: %w", group, err)
	}
	for _, g := range res.ConsumerGroupsTopicPartitions {
		for _, tp := range g.Partitions {
			if tp.Error != nil {
				return fmt.Errorf("committing the offset of %s [%d]: %w", *tp.Topic, tp.Partition, tp.Error)
			}
		}
	}
	return nil
}

// deleteGroup removes the group and its offsets; it must have no members, see tainted.
func (c *cluster) deleteGroup(ctx context.Context, group string) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	res, err := c.admin.DeleteConsumerGroups(ctx, []string{group}, kafka.SetAdminRequestTimeout(kafkaconf.CoordinatorTimeout))
	if err != nil {
		c.tainted.Store(true)
		return fmt.Errorf("deleting group %q: %w", group, err)
	}
	for _, g := range res.ConsumerGroupResults {
		switch g.Error.Code() {
		case kafka.ErrNoError, kafka.ErrGroupIDNotFound:
		default:
			c.tainted.Store(true)
			return fmt.Errorf("deleting group %q: %w", group, g.Error)
		}
	}
	return nil
}
