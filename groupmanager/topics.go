package groupmanager

import (
	"context"
	"encoding/binary"
	"fmt"
	"regexp"
	"strings"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/webhooks"
)

// internalPrefix begins the names of topics that no pattern matches: Kafka's own,
// and ours.
const internalPrefix = "__"

// resolve describes the topics of a webhook: those it names, where *TopicError says
// that one does not exist, or those that its pattern matches now, which may be none.
func (c *cluster) resolve(ctx context.Context, w webhooks.Webhook) (map[string]topicInfo, error) {
	if pattern, ok := w.TopicPattern(); ok {
		return c.matching(ctx, pattern)
	}
	return c.topics(ctx, w.Topics)
}

// topics describes topics; *TopicError names the first one that does not exist.
func (c *cluster) topics(ctx context.Context, names []string) (map[string]topicInfo, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	res, err := c.admin.DescribeTopics(ctx, kafka.NewTopicCollectionOfTopicNames(names), kafka.SetAdminRequestTimeout(adminTimeout))
	if err != nil {
		return nil, fmt.Errorf("describing topics: %w", err)
	}
	infos := make(map[string]topicInfo, len(names))
	for _, t := range res.TopicDescriptions {
		switch t.Error.Code() {
		case kafka.ErrNoError:
		case kafka.ErrUnknownTopicOrPart, kafka.ErrUnknownTopic, kafka.ErrTopicException:
			return nil, &TopicError{Topic: t.Name}
		default:
			return nil, fmt.Errorf("describing topic %q: %w", t.Name, t.Error)
		}
		infos[t.Name] = infoOf(t)
	}
	return infos, nil
}

func infoOf(t kafka.TopicDescription) topicInfo {
	info := topicInfo{partitions: int32(len(t.Partitions))}
	binary.BigEndian.PutUint64(info.id[:8], uint64(t.TopicID.GetMostSignificantBits()))
	binary.BigEndian.PutUint64(info.id[8:], uint64(t.TopicID.GetLeastSignificantBits()))
	return info
}

// matching describes the topics that a pattern matches now.
func (c *cluster) matching(ctx context.Context, pattern string) (map[string]topicInfo, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("reading the pattern of topics: %w", err)
	}
	all, err := c.admin.GetMetadata(nil, true, int(adminTimeout.Milliseconds()))
	if err != nil {
		return nil, fmt.Errorf("listing topics: %w", err)
	}
	var names []string
	for name := range all.Topics {
		if !strings.HasPrefix(name, internalPrefix) && name != c.registryTopic && re.MatchString(name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return map[string]topicInfo{}, nil
	}
	return c.describe(ctx, names) // without those deleted meanwhile
}
