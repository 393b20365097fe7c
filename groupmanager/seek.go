package groupmanager

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/kpush/kpush/internal/telemetry"
	"github.com/kpush/kpush/replica"
	"github.com/kpush/kpush/webhooks"
)

const (
	// seekMargin is what a round of a seek may take besides the drain of the owners:
	// their last commit, what they tell the receiver, and the commit of the new place.
	seekMargin = 2*finishTimeout + lifecyclePatience + 3*time.Second

	// seekPause comes before those partitions are tried again that nobody held.
	seekPause = 200 * time.Millisecond
)

// seekTarget is where a partition shall go on.
type seekTarget struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

func (t seekTarget) topicPartition() topicPartition { return topicPartition{t.Topic, t.Partition} }

// seekTargets is what every replica is asked to move.
type seekTargets struct {
	webhookTarget
	Seek    string       `json:"seek"` // one id over all rounds: what a round has moved the next one leaves alone
	Targets []seekTarget `json:"targets"`
}

// Seek moves the committed offsets of a webhook's partitions, also while it runs:
// their owners drain them, commit, and go on from there. It returns what has moved,
// or with DryRun would move, ordered by topic and partition. Errors are
// webhooks.ErrNotFound, *webhooks.ValidationError with pointers into the body of
// PUT .../offsets, *TopicError, and webhooks.ErrUnavailable: then some partitions
// may have moved and others not.
func (m *Manager) Seek(ctx context.Context, tenant, id string, r SeekRequest) ([]SeekMove, error) {
	in := offsetsRequest{webhookTarget{tenant, id}, r}
	return lead(ctx, m, operationOffsets, in, func(ctx context.Context) ([]SeekMove, error) { return m.seek(ctx, in) })
}

// seek is Seek at the leader; a webhook has one at a time.
func (m *Manager) seek(ctx context.Context, in offsetsRequest) ([]SeekMove, error) {
	if err := m.registry.Confirm(ctx); err != nil {
		return nil, err
	}
	e, err := m.registry.Get(in.Tenant, in.ID)
	if err != nil {
		return nil, err
	}
	unlock, err := m.seekLocks.lock(ctx, in.Tenant+"/"+in.ID)
	if err != nil {
		return nil, err
	}
	defer unlock()
	topics, err := m.cluster.resolve(ctx, e.Webhook)
	if err != nil {
		return nil, topicOr(err)
	}
	targets, err := m.seekOffsets(ctx, e.Webhook, topics, in.Seek)
	if err != nil {
		return nil, err
	}
	moves, err := m.seekMoves(ctx, e.Webhook.GroupID, targets)
	if err != nil || in.Seek.DryRun || len(moves) == 0 {
		return moves, err
	}
	if err := m.move(ctx, e.Webhook, targets); err != nil {
		return nil, err
	}
	m.moved.Add(context.Background(), int64(len(moves)), metric.WithAttributes(attribute.String(telemetry.AttrWebhook, in.ID)))
	for _, move := range moves {
		from := int64(-1)
		if move.From != nil {
			from = *move.From
		}
		m.logger.Info("committed offset moved on request", "webhook", in.ID, "group", e.Webhook.GroupID,
			"topic", move.Topic, "partition", move.Partition, "from", from, "to", move.To)
	}
	return moves, nil
}

// seekOffsets resolves a request to an offset for each partition that it means.
func (m *Manager) seekOffsets(ctx context.Context, w webhooks.Webhook, topics map[string]topicInfo, r SeekRequest) (map[topicPartition]int64, error) {
	switch {
	case r.Partitions != nil:
		return m.explicitOffsets(ctx, topics, r.Partitions)
	case r.Time != nil && r.Time.UnixMilli() < 0:
		return nil, invalidSeek("/to/time", "must not be before 1970")
	case r.Time != nil:
		w.Start = r.Time.UTC().Format(time.RFC3339Nano)
	case r.To == webhooks.StartEarliest || r.To == webhooks.StartLatest:
		w.Start = r.To
	default:
		return nil, invalidSeek("/to", "must be earliest, latest, a time or partitions")
	}
	all := partitionsOf(topics)
	if len(all) == 0 {
		return map[topicPartition]int64{}, nil
	}
	offsets, err := m.cluster.starts(ctx, w, all)
	if err != nil {
		return nil, unavailable(err)
	}
	return offsets, nil
}

// explicitOffsets checks offsets that were named against what is in the log.
func (m *Manager) explicitOffsets(ctx context.Context, topics map[string]topicInfo, asked []SeekPartition) (map[topicPartition]int64, error) {
	pointer := func(i int, field string) string { return fmt.Sprintf("/to/partitions/%d%s", i, field) }
	targets := make(map[topicPartition]int64, len(asked))
	partitions := make([]kafka.TopicPartition, len(asked))
	for i, p := range asked {
		tp := topicPartition{p.Topic, p.Partition}
		info, known := topics[p.Topic]
		_, twice := targets[tp]
		switch {
		case !known:
			return nil, invalidSeek(pointer(i, "/topic"), "must be a topic of the webhook")
		case p.Partition < 0 || p.Partition >= info.partitions:
			return nil, invalidSeek(pointer(i, "/partition"), "must be a partition of the topic")
		case twice:
			return nil, invalidSeek(pointer(i, ""), "is given twice")
		}
		targets[tp] = p.Offset
		partitions[i] = kafka.TopicPartition{Topic: &p.Topic, Partition: p.Partition}
	}
	if len(asked) == 0 {
		return nil, invalidSeek("/to/partitions", "must not be empty")
	}
	lows, err := m.cluster.listOffsets(ctx, partitions, kafka.EarliestOffsetSpec, kafka.IsolationLevelReadUncommitted)
	if err != nil {
		return nil, unavailable(err)
	}
	highs, err := m.cluster.endOffsets(ctx, partitions)
	if err != nil {
		return nil, unavailable(err)
	}
	for i, p := range asked {
		tp := topicPartition{p.Topic, p.Partition}
		if p.Offset < lows[tp] || p.Offset > highs[tp] {
			return nil, invalidSeek(pointer(i, "/offset"), fmt.Sprintf("must be from %d to %d, which is what the log holds", lows[tp], highs[tp]))
		}
	}
	return targets, nil
}

func invalidSeek(pointer, detail string) error {
	return &webhooks.ValidationError{Fields: []webhooks.FieldError{{Pointer: pointer, Detail: detail}}}
}

// seekMoves lays the targets beside what is committed now.
func (m *Manager) seekMoves(ctx context.Context, group string, targets map[topicPartition]int64) ([]SeekMove, error) {
	if len(targets) == 0 {
		return []SeekMove{}, nil
	}
	partitions := make([]kafka.TopicPartition, 0, len(targets))
	for tp := range targets {
		partitions = append(partitions, kafka.TopicPartition{Topic: &tp.topic, Partition: tp.partition})
	}
	committed, err := m.cluster.committedOffsets(ctx, group, partitions)
	if err != nil {
		return nil, unavailable(err)
	}
	moves := make([]SeekMove, 0, len(targets))
	for tp, to := range targets {
		move := SeekMove{Topic: tp.topic, Partition: tp.partition, To: to}
		if from, ok := committed[tp]; ok {
			move.From = &from
		}
		moves = append(moves, move)
	}
	slices.SortFunc(moves, func(a, b SeekMove) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return moves, nil
}

// move has the owners of partitions move them, round by round, until all of them
// are: owners may be changing. Only what nobody holds, because the group is empty,
// is moved by the admin client, as Kafka allows. Every live replica has a part in
// it, for it has to forget where the partitions stood.
func (m *Manager) move(ctx context.Context, w webhooks.Webhook, targets map[topicPartition]int64) error {
	left, id := maps.Clone(targets), rand.Text()
	told := make(map[replica.Peer]bool) // who knows of all targets
	for {
		err := m.moveRound(ctx, id, w, left, told)
		if err == nil && len(left) > 0 {
			err = m.moveUnheld(ctx, w, left)
		}
		if err == nil && len(left) == 0 {
			return nil
		}
		if errors.Is(err, webhooks.ErrNotFound) {
			return err // deleted meanwhile
		}
		select {
		case <-time.After(seekPause):
		case <-ctx.Done():
			return unavailable(fmt.Errorf("moving %d of %d partitions: %w", len(left), len(targets), cmp.Or(err, ctx.Err())))
		}
	}
}

// moveRound asks every replica to move what it holds of left, and takes out of left
// what has moved. An error says that a replica has not heard of the seek yet.
func (m *Manager) moveRound(ctx context.Context, id string, w webhooks.Webhook, left map[topicPartition]int64, told map[replica.Peer]bool) error {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.DrainTimeout+seekMargin)
	defer cancel()
	others, err := m.others(ctx)
	if err != nil {
		return err
	}
	others = slices.DeleteFunc(others, func(p replica.Peer) bool { return len(left) == 0 && told[p] })
	in := seekTargets{webhookTarget: webhookTarget{w.Tenant, w.ID}, Seek: id}
	for tp, to := range left {
		in.Targets = append(in.Targets, seekTarget{tp.topic, tp.partition, to})
	}
	moved := make([][]seekTarget, len(others)+1)
	failed := make([]error, len(others)+1)
	var moving sync.WaitGroup
	for i, peer := range others {
		moving.Go(func() { failed[i] = m.peers.Call(ctx, peer, operationSeek, in, &moved[i]) })
	}
	moved[len(others)], failed[len(others)] = m.seekHeld(ctx, in)
	moving.Wait()
	for _, done := range moved {
		for _, t := range done {
			delete(left, t.topicPartition())
		}
	}
	for i, peer := range others {
		told[peer] = told[peer] || failed[i] == nil
	}
	for i, peer := range others {
		if !told[peer] {
			return fmt.Errorf("replica %s: %w", peer.ID, failed[i])
		}
	}
	return failed[len(others)]
}

// moveUnheld moves what is left if nobody is in the group and the webhook is still
// there: it may be deleted meanwhile, and its group be another's.
func (m *Manager) moveUnheld(ctx context.Context, w webhooks.Webhook, left map[topicPartition]int64) error {
	group := w.GroupID
	unlock, err := m.groupLocks.lock(ctx, group)
	if err != nil {
		return err
	}
	defer unlock()
	if err := m.registry.Confirm(ctx); err != nil {
		return err
	}
	if e, err := m.registry.Get(w.Tenant, w.ID); err != nil || !e.Webhook.CreatedAt.Equal(w.CreatedAt) {
		return cmp.Or(err, webhooks.ErrNotFound)
	}
	if err := m.cluster.empty(ctx, group); err != nil {
		return err // owners are changing
	}
	var partitions []kafka.TopicPartition
	for tp, to := range left {
		partitions = append(partitions, kafka.TopicPartition{Topic: &tp.topic, Partition: tp.partition, Offset: kafka.Offset(to)})
	}
	if err := m.cluster.commit(ctx, group, partitions); err != nil {
		return err
	}
	clear(left)
	return nil
}

// seekHeld moves those partitions that this replica holds, and forgets where all of
// the webhook's stood.
func (m *Manager) seekHeld(ctx context.Context, in seekTargets) ([]seekTarget, error) {
	moved := []seekTarget{}
	g := m.find(in.Tenant, in.ID)
	if g == nil {
		return moved, nil
	}
	g.forget()
	targets := make(map[topicPartition]int64, len(in.Targets))
	for _, t := range in.Targets {
		targets[t.topicPartition()] = t.Offset
	}
	held, err := g.seek(ctx, in.Seek, targets)
	for _, tp := range held {
		if to, ok := targets[tp]; ok {
			moved = append(moved, seekTarget{tp.topic, tp.partition, to})
		}
	}
	if err != nil {
		err = unavailable(err)
	}
	return moved, err
}
