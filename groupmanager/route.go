package groupmanager

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/internal/telemetry"
	"github.com/kpush/kpush/replica"
	"github.com/kpush/kpush/webhooks"
)

const (
	// ackTimeout bounds how long an ack waits for its commit; then the owner counts
	// as out of reach.
	ackTimeout = 15 * time.Second

	// maxAckCalls is how many replicas an ack is passed to: the sender of the
	// delivery, and the owner. Only while Kafka does not name the owner it may be
	// all of them.
	maxAckCalls = 2
)

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
	owner      string // id of the replica that sent the delivery; empty by fields
	ask               // what it says; without a reply
}

// errNotHeld says that this replica does not hold the partition.
var errNotHeld = errors.New("another replica holds the partition, or none")

// Ack takes a receiver's statement to the lane that sent the delivery, on whichever
// replica that is. Unless it waits for less, it returns once the broker confirmed a
// commit that covers the statement. The errors are those of this package's ack.go;
// with any of them nothing moved, but for ErrNoOwner, after which the statement may
// still count.
func (m *Manager) Ack(ctx context.Context, r AckRequest) (AckAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	t, group, err := m.target(r)
	var a AckAnswer
	switch {
	case err == nil:
		if a, err = m.ackHere(ctx, t, r); errors.Is(err, errNotHeld) {
			a, err = m.ackElsewhere(ctx, t, group, r)
		}
		if errors.Is(err, ErrNoOwner) && m.missing(ctx, t) {
			err = ErrPartitionNotFound
		}
	case errors.Is(err, ErrWebhookNotFound):
		a, err = m.ackUnknown(ctx, t, r)
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		err = ErrNoOwner
	}
	if err != nil {
		m.countAck(ackCode(err))
		return AckAnswer{}, err
	}
	m.countAck(a.Result)
	return a, nil
}

// missing tells whether a partition that nobody holds does not exist. One that is
// known here does; of another the cluster is asked, for topics come and grow.
func (m *Manager) missing(ctx context.Context, t target) bool {
	g := m.find(t.tenant, t.webhook)
	if g == nil || t.partition < g.known()[t.topic].partitions || m.health.cutOff() {
		return false
	}
	found, err := m.cluster.topics(ctx, []string{t.topic})
	if _, none := errors.AsType[*TopicError](err); none {
		return true
	}
	return err == nil && t.partition >= found[t.topic].partitions
}

// ackUnknown answers an ack for a webhook that is not in what this replica has read
// of the registry. The replica that sent the delivery may have read more. Without
// it that is an answer only where the registry is read up to now: a webhook that
// was made since a replica was cut off from Kafka is none that does not exist.
func (m *Manager) ackUnknown(ctx context.Context, t target, r AckRequest) (AckAnswer, error) {
	if t.owner != "" && t.owner != m.peers.Self().ID {
		if sender, err := m.peers.Find(ctx, t.owner); err == nil {
			if a, err := m.ackAt(ctx, sender, r); !errors.Is(err, ErrNoOwner) {
				return a, err
			}
		}
	}
	return AckAnswer{}, m.notFound()
}

// notFound is the error for a webhook that this replica does not know.
func (m *Manager) notFound() error {
	if m.health.cutOff() {
		return fmt.Errorf("%w: this replica has not heard of Kafka for %v", ErrNoOwner, m.Age())
	}
	return ErrWebhookNotFound
}

// ackElsewhere passes an ack on to the owner: the replica that sent the delivery,
// and if that is not known or not the owner any more, the one that Kafka names. A
// description that was a little old is asked for again. No replica is asked twice,
// and none passes it on again.
func (m *Manager) ackElsewhere(ctx context.Context, t target, group string, r AckRequest) (AckAnswer, error) {
	asked := map[string]bool{m.peers.Self().ID: true}
	if !asked[t.owner] && t.owner != "" {
		if sender, err := m.peers.Find(ctx, t.owner); err == nil {
			asked[t.owner] = true
			if a, err := m.ackAt(ctx, sender, r); !errors.Is(err, ErrNoOwner) {
				return a, err
			}
		}
	}
	for _, age := range []time.Duration{ownersTrusted, ownersFresh} {
		owners, err := m.ownersOf(ctx, group, t.topicPartition, age)
		if err != nil {
			return AckAnswer{}, fmt.Errorf("%w: %w", ErrNoOwner, err)
		}
		for _, owner := range owners {
			if asked[owner.ID] {
				continue
			}
			asked[owner.ID] = true
			if a, err := m.ackAt(ctx, owner, r); !errors.Is(err, ErrNoOwner) {
				return a, err
			}
		}
		if len(asked) > maxAckCalls {
			break
		}
	}
	return AckAnswer{}, ErrNoOwner
}

// ackAt asks a replica. If it cannot be reached that is ErrNoOwner, as its own is.
func (m *Manager) ackAt(ctx context.Context, peer replica.Peer, r AckRequest) (AckAnswer, error) {
	var a AckAnswer
	operation := operationAck
	switch r.Outcome {
	case acker.Reject.String(), acker.Partial.String():
		operation = operationRefuse
	}
	err := meaning(m.peers.Call(ctx, peer, operation, r, &a))
	_, unknown := errors.AsType[*replica.Refusal](err)
	if unknown || errors.Is(err, replica.ErrUnreachable) {
		err = fmt.Errorf("%w: %w", ErrNoOwner, err)
	}
	return a, err
}

// ackHeld takes an ack that another replica passes on, if this one is the owner.
func (m *Manager) ackHeld(ctx context.Context, r AckRequest) (AckAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	t, _, err := m.target(r)
	if errors.Is(err, ErrWebhookNotFound) {
		err = m.notFound()
	}
	if err != nil {
		return AckAnswer{}, err
	}
	a, err := m.ackHere(ctx, t, r)
	if errors.Is(err, errNotHeld) || err != nil && ctx.Err() != nil {
		err = ErrNoOwner
	}
	return a, err
}

// ackHere takes an ack for a partition that this replica holds; else errNotHeld.
func (m *Manager) ackHere(ctx context.Context, t target, r AckRequest) (AckAnswer, error) {
	g := m.find(t.tenant, t.webhook)
	if g == nil {
		return AckAnswer{}, errNotHeld
	}
	return g.ack(ctx, t, r)
}

// target reads what is meant, and finds the webhook and its group.
func (m *Manager) target(r AckRequest) (t target, group string, err error) {
	t = target{
		tenant: r.Tenant, webhook: r.WebhookID,
		topicPartition: topicPartition{r.Topic, r.Partition},
		generation:     r.Generation,
	}
	t.statement = acker.Statement{First: acker.Everything, Last: r.Offset, UpTo: r.Offset}
	if r.Token != "" {
		token, err := m.tokens.Parse(r.Token)
		if err != nil {
			return t, "", ErrTokenInvalid
		}
		t = target{
			tenant: token.Tenant, webhook: token.Webhook,
			topicPartition: topicPartition{token.Topic, token.Partition},
			generation:     token.Generation, tenure: token.Tenure, owner: token.Owner,
		}
		t.statement = acker.Statement{First: token.First, Last: token.Last, UpTo: token.Last}
	}
	t.statement.Outcome = outcomeNamed(r.Outcome)
	t.delay, t.extend, t.reason = r.Delay, r.Extend, r.Reason
	if r.UpToOffset != nil {
		t.statement.UpTo = *r.UpToOffset
	}
	for _, f := range r.Failures {
		t.fail(f.Offset, f.Action, f.Reason)
	}
	t.sortFailures()
	if t.webhook == "" {
		t.webhook = m.webhookOf(t.tenant, r.GroupID)
	}
	e, err := m.registry.Get(t.tenant, t.webhook)
	switch {
	case errors.Is(err, webhooks.ErrNotFound):
		return t, "", ErrWebhookNotFound
	case err != nil: // it has not been read yet, or not by this build
		return t, "", fmt.Errorf("%w: %v", ErrNoOwner, err)
	}
	if !e.Webhook.Chooses(t.topic) || t.partition < 0 {
		return t, "", ErrPartitionNotFound
	}
	return t, e.Webhook.GroupID, nil
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
	m, h, ok := g.find(t.topicPartition)
	if !ok {
		return AckAnswer{}, errNotHeld
	}
	current := m.current.Load()
	if t.generation < h.tenure.began || t.generation > current || t.tenure != 0 && t.tenure != h.tenure.id {
		return AckAnswer{}, &StaleError{Current: current}
	}
	if t.tenure == 0 && h.tenure.doubts(t.generation, t.statement.UpTo, time.Now()) {
		m.outgrow()
		return AckAnswer{}, &StaleError{Current: current}
	}
	back, err := h.ask(ctx, t.ask)
	if err != nil {
		return AckAnswer{}, err
	}
	switch {
	case errors.Is(back.err, acker.ErrConflict):
		return AckAnswer{}, ErrOutcomeConflict
	case errors.Is(back.err, acker.ErrOutOfRange):
		return AckAnswer{}, ErrOffsetOutOfRange
	case errors.Is(back.err, errNoDeadLetters):
		return AckAnswer{}, noDeadLetters(r)
	case back.err != nil:
		return AckAnswer{}, back.err
	}
	a := AckAnswer{Generation: current}
	switch {
	case t.statement.Outcome == acker.Nack, t.statement.Outcome == acker.Reject:
		a.Result = resultScheduled
	case t.statement.Outcome == acker.Extend:
		a.Result, a.Deadline = resultExtended, &back.deadline
	default:
		err = m.settled(ctx, h.tenure, back.answer, r.WaitAccept, &a)
	}
	return a, err
}

// noDeadLetters complains about the first record that was to be dead-lettered.
func noDeadLetters(r AckRequest) error {
	i := slices.IndexFunc(r.Failures, func(f AckFailure) bool { return f.Action == acker.DeadLetter.String() })
	return &webhooks.ValidationError{Fields: []webhooks.FieldError{{
		Pointer: fmt.Sprintf("/failures/%d/action", i), Detail: "must not be dead_letter: the webhook has no dead_letter.topic",
	}}}
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

func (m *Manager) countAck(result string) {
	m.acks.Add(context.Background(), 1, metric.WithAttributes(attribute.String(telemetry.AttrResult, result)))
}
