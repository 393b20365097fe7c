package groupmanager

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// partitionsTimeout bounds what a list of partitions waits for other replicas.
const partitionsTimeout = 2 * time.Second

// Partitions tells of every partition of a webhook: what its owner is doing,
// whichever replica that is, and where Kafka says the group stands. Of an owner that
// does not answer only its id is told; the state is unassigned. The rows are ordered
// by topic and partition. webhooks.ErrNotFound, *TopicError, and
// webhooks.ErrUnavailable when Kafka does not answer.
func (m *Manager) Partitions(ctx context.Context, tenant, id string) ([]PartitionStatus, error) {
	e, err := m.registry.Get(tenant, id)
	if err != nil {
		return nil, err
	}
	group := e.Webhook.GroupID
	topics, err := m.cluster.resolve(ctx, e.Webhook)
	if err != nil {
		return nil, topicOr(err)
	}
	all := partitionsOf(topics)
	if len(all) == 0 {
		return []PartitionStatus{}, nil
	}
	committed, err := m.cluster.committedOffsets(ctx, group, all)
	if err != nil {
		return nil, unavailable(err)
	}
	ends, err := m.cluster.endOffsets(ctx, all)
	if err != nil {
		return nil, unavailable(err)
	}
	held := m.partitionsEverywhere(ctx, webhookTarget{tenant, id})
	var holders map[topicPartition]string
	rows := make([]PartitionStatus, 0, len(all))
	for _, p := range all {
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
	slices.SortFunc(rows, func(a, b PartitionStatus) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return rows, nil
}

// partitionsEverywhere asks all replicas at once which partitions of a webhook they
// hold. Of two that say so of one, the later generation is right.
func (m *Manager) partitionsEverywhere(ctx context.Context, t webhookTarget) map[topicPartition]PartitionStatus {
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
func (m *Manager) heldPartitions(ctx context.Context, t webhookTarget) ([]PartitionStatus, error) {
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
