package groupmanager

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// topicInterval is how often the topics of all groups are looked at. Commits name
// a topic, not its id: what is committed between a topic's being made anew and
// this look is set right again (resetOffsets).
const topicInterval = 5 * time.Second

// watchTopics notices topics that were deleted and made anew between two fetches:
// to the Kafka client, which goes by names, they are the same. It runs until ctx ends.
func (m *Manager) watchTopics(ctx context.Context) {
	tick := time.NewTicker(topicInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		groups := m.all()
		names := make(map[string]struct{})
		for _, g := range groups {
			for name := range g.known() {
				names[name] = struct{}{}
			}
		}
		if len(names) == 0 {
			continue
		}
		found, err := m.cluster.describe(ctx, slices.Collect(maps.Keys(names)))
		if err != nil {
			m.logger.Debug("topics could not be looked at", "error", err)
			continue
		}
		for _, g := range groups {
			g.compare(found)
		}
	}
}

// known are the topics that the group has come to know.
func (g *group) known() map[string]topicInfo {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.topics // replaced, never changed
}

// compare ends the tenures of topics that are not the ones they were.
func (g *group) compare(found map[string]topicInfo) {
	g.mu.Lock()
	m, topics := g.member, g.topics
	g.mu.Unlock()
	if m == nil {
		return
	}
	for name, info := range topics {
		if now, ok := found[name]; ok && now.id != info.id {
			g.logger.Error("a topic was deleted and made anew: what was delivered of the old one is dropped", "topic", name)
			m.faults.add(fault{topicPartition{name, 0}, nil, errTopicRecreated})
		}
	}
}

// describe tells of the topics that exist.
func (c *cluster) describe(ctx context.Context, names []string) (map[string]topicInfo, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	res, err := c.admin.DescribeTopics(ctx, kafka.NewTopicCollectionOfTopicNames(names), kafka.SetAdminRequestTimeout(adminTimeout))
	if err != nil {
		return nil, fmt.Errorf("describing topics: %w", err)
	}
	found := make(map[string]topicInfo, len(names))
	for _, t := range res.TopicDescriptions {
		if t.Error.Code() == kafka.ErrNoError {
			found[t.Name] = infoOf(t)
		}
	}
	return found, nil
}
