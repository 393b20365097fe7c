package groupmanager

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/internal/telemetry"
)

// ackTimeout bounds how long an ack waits for its commit; then the owner counts as out of reach.
const ackTimeout = 15 * time.Second

// Results of an ack, contract section 5.4.
const (
	resultCommitted        = "committed"
	resultAccepted         = "accepted"
	resultAlreadyCommitted = "already_committed"
	resultPendingGap       = "pending_gap"
	resultScheduled        = "scheduled"
	resultExtended         = "extended"
)

// target is what an ack speaks of.
type target struct {
	tenant, webhook string // webhook id
	topicPartition
	generation int32
	tenure     uint64 // 0 by fields
	statement  acker.Statement
}

// Ack takes a receiver's statement to the lane that sent the delivery. Unless it
// waits for less, it returns once the broker confirmed a commit that covers the
// statement. The errors are those of this package's ack.go; with any of them
// nothing moved.
func (m *Manager) Ack(ctx context.Context, r AckRequest) (AckAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	t, g, err := m.target(r)
	if err == nil {
		var a AckAnswer
		if a, err = g.ack(ctx, t, r); err == nil {
			m.countAck(a.Result)
			return a, nil
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		err = ErrNoOwner
	}
	m.countAck(ackCode(err))
	return AckAnswer{}, err
}

// target reads what is meant, and finds the webhook.
func (m *Manager) target(r AckRequest) (target, *group, error) {
	t := target{
		tenant: r.Tenant, webhook: r.WebhookID,
		topicPartition: topicPartition{r.Topic, r.Partition},
		generation:     r.Generation,
		statement:      acker.Statement{First: -1, Last: r.Offset, UpTo: r.Offset},
	}
	if r.Token != "" {
		token, err := m.tokens.Parse(r.Token)
		if err != nil {
			return t, nil, ErrTokenInvalid
		}
		t = target{
			tenant: token.Tenant, webhook: token.Webhook,
			topicPartition: topicPartition{token.Topic, token.Partition},
			generation:     token.Generation, tenure: token.Tenure,
			statement: acker.Statement{First: token.First, Last: token.Last, UpTo: token.Last},
		}
	}
	switch r.Outcome {
	case "nack":
		t.statement.Outcome = acker.Nack
	case "extend":
		t.statement.Outcome = acker.Extend
	default:
		if r.UpToOffset != nil {
			t.statement.UpTo = *r.UpToOffset
		}
	}
	if t.webhook == "" {
		t.webhook = m.webhookOf(t.tenant, r.GroupID)
	}
	e, err := m.registry.Get(t.tenant, t.webhook)
	if err != nil {
		return t, nil, ErrWebhookNotFound
	}
	if !slices.Contains(e.Webhook.Topics, t.topic) || t.partition < 0 {
		return t, nil, ErrPartitionNotFound
	}
	g := m.find(t.tenant, t.webhook)
	if g == nil {
		return t, nil, ErrNoOwner
	}
	return t, g, nil
}

// webhookOf is the id of the webhook with that consumer group, or empty.
func (m *Manager) webhookOf(tenant, group string) string {
	for _, e := range m.registry.List(tenant) {
		if e.Webhook.GroupID == group {
			return e.Webhook.ID
		}
	}
	return ""
}

// ack checks the generation against the live tenure and asks its lane.
func (g *group) ack(ctx context.Context, t target, r AckRequest) (AckAnswer, error) {
	m, h, ok, topics := g.find(t.topicPartition)
	if !ok {
		if info, known := topics[t.topic]; known && t.partition >= info.partitions {
			return AckAnswer{}, ErrPartitionNotFound
		}
		return AckAnswer{}, ErrNoOwner
	}
	current := m.current.Load()
	if t.generation < h.tenure.began || t.generation > current || t.tenure != 0 && t.tenure != h.tenure.id {
		return AckAnswer{}, &StaleError{Current: current}
	}
	back, err := h.ask(ctx, ask{statement: t.statement, delay: r.Delay, extend: r.Extend})
	if err != nil {
		return AckAnswer{}, err
	}
	switch {
	case errors.Is(back.err, acker.ErrConflict):
		return AckAnswer{}, ErrOutcomeConflict
	case errors.Is(back.err, acker.ErrOutOfRange):
		return AckAnswer{}, ErrOffsetOutOfRange
	case back.err != nil:
		return AckAnswer{}, back.err
	}
	a := AckAnswer{Generation: current}
	switch {
	case t.statement.Outcome == acker.Nack:
		a.Result = resultScheduled
	case t.statement.Outcome == acker.Extend:
		a.Result, a.Deadline = resultExtended, &back.deadline
	default:
		err = m.settled(ctx, h.tenure, back.answer, r.WaitAccept, &a)
	}
	return a, err
}

// settled answers an ack that counted, or had counted before.
func (m *member) settled(ctx context.Context, t *tenure, counted acker.Answer, accept bool, a *AckAnswer) error {
	committed := m.committer.committed(t)
	switch {
	case counted.Repeat && committed >= counted.Cover:
		a.Result, a.CommittedOffset = resultAlreadyCommitted, &committed
		return nil
	case counted.BlockedBy >= 0:
		a.Result, a.BlockedBy = resultPendingGap, &counted.BlockedBy
		return nil
	case accept:
		a.Result = resultAccepted
		return nil
	}
	committed, err := m.committer.await(ctx, t, counted.Cover)
	if err != nil {
		return err
	}
	a.Result, a.CommittedOffset = resultCommitted, &committed
	if counted.Repeat {
		a.Result = resultAlreadyCommitted
	}
	return nil
}

// ackCode is the word for a refusal, from the closed list of the contract.
func ackCode(err error) string {
	var stale *StaleError
	switch {
	case errors.As(err, &stale):
		return "generation_stale"
	case errors.Is(err, ErrTokenInvalid):
		return "token_invalid"
	case errors.Is(err, ErrWebhookNotFound):
		return "webhook_not_found"
	case errors.Is(err, ErrPartitionNotFound):
		return "partition_not_found"
	case errors.Is(err, ErrOutcomeConflict):
		return "outcome_conflict"
	case errors.Is(err, ErrOffsetOutOfRange):
		return "offset_out_of_range"
	default:
		return "no_owner"
	}
}

func (m *Manager) countAck(result string) {
	m.acks.Add(context.Background(), 1, metric.WithAttributes(attribute.String(telemetry.AttrResult, result)))
}

// Partitions tells of every partition of a webhook: what its owner is doing and
// where Kafka says the group stands. webhooks.ErrNotFound, *TopicError, and
// webhooks.ErrUnavailable when Kafka does not answer.
func (m *Manager) Partitions(ctx context.Context, tenant, id string) ([]PartitionStatus, error) {
	e, err := m.registry.Get(tenant, id)
	if err != nil {
		return nil, err
	}
	w := e.Webhook
	topics, err := m.checkTopics(ctx, w)
	if err != nil {
		return nil, err
	}
	all := partitionsOf(topics)
	committed, err := m.cluster.committedOffsets(ctx, w.GroupID, all)
	if err != nil {
		return nil, unavailable(err)
	}
	ends, err := m.cluster.endOffsets(ctx, all)
	if err != nil {
		return nil, unavailable(err)
	}
	g := m.find(tenant, id)
	rows := make([]PartitionStatus, 0, len(all))
	for _, name := range w.Topics {
		for p := range topics[name].partitions {
			tp := topicPartition{name, p}
			row := PartitionStatus{Topic: name, Partition: p, Generation: -1, State: PartitionUnassigned}
			if g != nil {
				if _, h, ok, _ := g.find(tp); ok {
					if s, live := h.inspect(ctx); live {
						row = s
					}
				}
			}
			row.measure(committed, ends, tp)
			rows = append(rows, row)
		}
	}
	return rows, nil
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
