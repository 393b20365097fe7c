package groupmanager

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// partitionsTimeout bounds what a list of partitions waits for other replicas.
const partitionsTimeout = 2 * time.Second

// Place is where a partition stands in the order of the rows: by topic, then by
// partition. The zero value is before all of them.
type Place struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
}

// Compare orders places as cmp.Compare does numbers.
func (p Place) Compare(q Place) int {
	return cmp.Or(cmp.Compare(p.Topic, q.Topic), cmp.Compare(p.Partition, q.Partition))
}

// partitionsTarget are the partitions of a webhook after one place and up to
// another. Without places, as a replica of an earlier build asks, they are all.
type partitionsTarget struct {
	webhookTarget
	After *Place `json:"after,omitempty"`
	Last  *Place `json:"last,omitempty"`
}

func (t partitionsTarget) holds(tp topicPartition) bool {
	p := Place{tp.topic, tp.partition}
	return (t.After == nil || t.After.Compare(p) < 0) && (t.Last == nil || p.Compare(*t.Last) <= 0)
}

// Partitions tells of every partition of a webhook as PartitionsPage does.
func (m *Manager) Partitions(ctx context.Context, tenant, id string) ([]PartitionStatus, error) {
	rows, _, err := m.PartitionsPage(ctx, tenant, id, Place{}, math.MaxInt)
	return rows, err
}

// PartitionsPage tells of the partitions of a webhook after a place, at most limit of
// them, and whether there are more: what its owner is doing,
// whichever replica that is, and where Kafka says the group stands. Of an owner that
// does not answer only its id is told; the state is unassigned. The rows are ordered
// by place. webhooks.ErrNotFound, *TopicError, and
// webhooks.ErrUnavailable when Kafka does not answer.
func (m *Manager) PartitionsPage(ctx context.Context, tenant, id string, after Place, limit int) (rows []PartitionStatus, more bool, err error) {
	e, err := m.registry.Get(tenant, id)
	if err != nil {
		return nil, false, err
	}
	group := e.Webhook.GroupID
	topics, err := m.cluster.resolve(ctx, e.Webhook)
	if err != nil {
		return nil, false, topicOr(err)
	}
	page, more := pageOf(partitionsOf(topics), after, limit)
	if len(page) == 0 {
		return []PartitionStatus{}, false, nil
	}
	committed, err := m.cluster.committedOffsets(ctx, group, page)
	if err != nil {
		return nil, false, unavailable(err)
	}
	ends, err := m.cluster.endOffsets(ctx, page)
	if err != nil {
		return nil, false, unavailable(err)
	}
	last := placeOf(page[len(page)-1])
	held := m.partitionsEverywhere(ctx, partitionsTarget{webhookTarget{tenant, id}, &after, &last})
	var holders map[topicPartition]string
	rows = make([]PartitionStatus, 0, len(page))
	for _, p := range page {
		tp := topicPartition{*p.Topic, p.Partition}
		row, ok := held[tp]
		if !ok {
			if holders == nil {
				holders = m.holders(ctx, group)
			}
			row = PartitionStatus{Topic: tp.topic, Partition: tp.partition, Owner: holders[tp], Generation: -1, State: PartitionUnassigned}
		}
		row.measure(committed, ends, tp)
		rows = append(rows, row)
	}
	return rows, more, nil
}

func placeOf(p kafka.TopicPartition) Place { return Place{*p.Topic, p.Partition} }

// pageOf returns in order those of the partitions that come after a place, at most
// limit of them, and whether there are more.
func pageOf(all []kafka.TopicPartition, after Place, limit int) (page []kafka.TopicPartition, more bool) {
	all = slices.DeleteFunc(all, func(p kafka.TopicPartition) bool { return placeOf(p).Compare(after) <= 0 })
	slices.SortFunc(all, func(a, b kafka.TopicPartition) int { return placeOf(a).Compare(placeOf(b)) })
	n := min(limit, len(all))
	return all[:n], n < len(all)
}

// partitionsEverywhere asks all replicas at once which partitions of a webhook they
// hold. Of two that say so of one, the later generation is right.
func (m *Manager) partitionsEverywhere(ctx context.Context, t partitionsTarget) map[topicPartition]PartitionStatus {
	ctx, cancel := context.WithTimeout(ctx, partitionsTimeout)
	defer cancel()
	held := make(map[topicPartition]PartitionStatus)
	var mu sync.Mutex
	add := func(rows []PartitionStatus) {
		mu.Lock()
		defer mu.Unlock()
		for _, row := range rows {
			tp := topicPartition{row.Topic, row.Partition}
			if other, twice := held[tp]; !twice || row.Generation > other.Generation {
				held[tp] = row
			}
		}
	}
	others, err := m.others(ctx)
	if err != nil {
		m.logger.Debug("the partitions of other replicas are not shown", "webhook", t.ID, "error", err)
	}
	var asking sync.WaitGroup
	for _, peer := range others {
		asking.Go(func() {
			var rows []PartitionStatus
			if err := m.peers.Call(ctx, peer, operationPartitions, t, &rows); err != nil {
				m.logger.Debug("a replica does not tell of its partitions", "webhook", t.ID, "replica", peer.ID, "error", err)
				return
			}
			add(rows)
		})
	}
	rows, _ := m.heldPartitions(ctx, t)
	add(rows)
	asking.Wait()
	return held
}

// heldPartitions tells of the partitions of a webhook that this replica holds.
func (m *Manager) heldPartitions(ctx context.Context, t partitionsTarget) ([]PartitionStatus, error) {
	rows := []PartitionStatus{}
	g := m.find(t.Tenant, t.ID)
	if g == nil {
		return rows, nil
	}
	g.mu.Lock()
	member := g.member
	g.mu.Unlock()
	if member == nil {
		return rows, nil
	}
	for _, h := range member.all() {
		if !t.holds(h.tenure.topicPartition) {
			continue
		}
		if row, live := h.inspect(ctx); live {
			member.lifecycle.explain(&row)
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// holders are the replicas that hold the partitions of a group by Kafka's
// description; none when that cannot be had.
func (m *Manager) holders(ctx context.Context, group string) map[topicPartition]string {
	o, err := m.owners.look(ctx, group, ownersTrusted, m.group)
	if err != nil {
		m.logger.Debug("the owners of partitions are not shown", "group", group, "error", err)
		return map[topicPartition]string{}
	}
	return o.holders
}

// measure fills in what Kafka knows.
func (s *PartitionStatus) measure(committed, ends map[topicPartition]int64, tp topicPartition) {
	if end, ok := ends[tp]; ok {
		s.EndOffset = &end
	}
	if at, ok := committed[tp]; ok {
		s.CommittedOffset = &at
		if s.EndOffset != nil {
			lag := max(0, *s.EndOffset-at)
			s.Lag = &lag
		}
	}
}
