package groupmanager

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kpush/kpush/webhooks"
)

const (
	// formerPatience is how long a new webhook waits until members of a deleted one
	// with its group have left.
	formerPatience = 10 * time.Second

	// membersPause comes before a group is looked at again.
	membersPause = 200 * time.Millisecond

	// pinPatience is how long after the leadership was known the start of a group
	// may still be pinned; see Manager.pinStart.
	pinPatience = 5 * time.Second
)

// The changes below are made wholly at the leader, whichever replica was asked:
// only there nobody else decides meanwhile. A replica that does not lead passes the
// change on, once, and answers when it has read back what came of it. What a webhook
// may reach is for the replica that was asked to say: the policy is one for all.

// Create registers a webhook. Its URLs must be allowed here, and its topics must not
// be the registry's (*webhooks.ValidationError); the topics must exist (*TopicError),
// its group must be free (webhooks.ErrGroupInUse), and its start is pinned before it
// is written, so that a record produced after Create returned is delivered. The
// entry's secret is shown to the caller this once. Errors besides are those of
// webhooks.Registry.Create; errors.Is(err, webhooks.ErrUnavailable) when Kafka or
// the leader could not be asked.
func (m *Manager) Create(ctx context.Context, w webhooks.Webhook) (webhooks.Entry, error) {
	if err := w.Admit(m.cfg.Guard); err != nil {
		return webhooks.Entry{}, err
	}
	in, operation := createRequest{}, operationCreate
	var err error
	if in.Webhook, in.Credentials, err = w.SealCall(m.cfg.Keys); err != nil {
		return webhooks.Entry{}, err
	}
	if in.Credentials != nil {
		operation = operationCreateSealed
	}
	c, err := lead(ctx, m, operation, in, func(ctx context.Context) (change, error) { return m.create(ctx, w) })
	if err != nil {
		return webhooks.Entry{}, err
	}
	return m.read(ctx, w.Tenant, w.ID, c)
}

// create is Create at the leader. One creator has a group at a time, from the look
// whether it is free to the webhook's place in the registry. If two could be in
// here, the second might find partitions without a commit, wait, and pin a later
// "latest" after the first has had its answer: what was produced in between would
// never be delivered.
func (m *Manager) create(ctx context.Context, w webhooks.Webhook) (change, error) {
	if err := m.awaitDeletion(ctx, w); err != nil {
		return change{}, err
	}
	unlock, err := m.groupLocks.lock(ctx, w.GroupID)
	if err != nil {
		return change{}, err
	}
	defer unlock()
	if err := m.registry.Confirm(ctx); err != nil {
		return change{}, err
	}
	known := time.Now()
	if _, err := m.registry.Get(w.Tenant, w.ID); err == nil {
		return change{}, webhooks.ErrExists
	}
	if m.deleting(w) {
		return change{}, unavailable(errors.New("the deletion of a former webhook has begun meanwhile"))
	}
	if m.webhookOf(w.Tenant, w.GroupID) != "" {
		return change{}, webhooks.ErrGroupInUse
	}
	topics, err := m.checkTopics(ctx, w)
	if err != nil {
		return change{}, err
	}
	// Whatever may be refused is refused before anything is pinned: a pinned start stays.
	if err := w.CheckMasks(); err != nil {
		return change{}, err
	}
	pinned := pinnedTopics(topics)
	if err := webhooks.CheckPinned(pinned); err != nil {
		return change{}, err
	}
	if err := m.pinStart(ctx, w, topics, known); err != nil {
		return change{}, err
	}
	e, err := m.registry.Create(ctx, w, pinned)
	return change{Revision: e.Revision, Created: true, entry: e}, err
}

// standing is a webhook as it stands at the leader. What is not there may have been
// written by the leader before and not been read yet: before that is told, it is
// certain.
func (m *Manager) standing(ctx context.Context, tenant, id string) (webhooks.Entry, error) {
	e, err := m.registry.Get(tenant, id)
	if !errors.Is(err, webhooks.ErrNotFound) {
		return e, err
	}
	if err := m.registry.Confirm(ctx); err != nil {
		return webhooks.Entry{}, err
	}
	return m.registry.Get(tenant, id)
}

// pinnedTopics is what a webhook's registration remembers of its topics.
func pinnedTopics(topics map[string]topicInfo) map[string]webhooks.Pinned {
	pinned := make(map[string]webhooks.Pinned, len(topics))
	for name, info := range topics {
		pinned[name] = webhooks.Pinned{TopicID: hex.EncodeToString(info.id[:]), Partitions: info.partitions}
	}
	return pinned
}

// pinStart pins the start of a webhook's group, which must be free of members.
// Members of a deleted webhook of ours may still be leaving it: they are waited for.
//
// Kafka does not fence commits to an empty group, so a process that led, was
// stopped, and goes on in here could pin a later start than its successor did. It
// finds its time over instead: pinPatience, from when it was known to lead, is
// shorter than any session whose end would have made somebody else the leader.
func (m *Manager) pinStart(ctx context.Context, w webhooks.Webhook, topics map[string]topicInfo, known time.Time) error {
	leaving := time.Now().Add(formerPatience)
	for {
		err := m.cluster.pin(ctx, w, topics, known.Add(pinPatience))
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, ErrGroupHasMembers):
			return unavailable(err)
		case time.Now().After(leaving) || !m.onlyOurs(ctx, w.GroupID):
			return fmt.Errorf("%w: %w", webhooks.ErrGroupInUse, err)
		}
		select {
		case <-time.After(membersPause):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := m.registry.Confirm(ctx); err != nil {
			return err
		}
		known = time.Now()
	}
}

// onlyOurs tells whether all members of a group are those of replicas.
func (m *Manager) onlyOurs(ctx context.Context, group string) bool {
	state, err := m.group(ctx, group)
	return err == nil && !slices.ContainsFunc(state.members, func(m groupMember) bool { return m.replica == "" })
}

// Put creates a webhook or replaces its content; the same content again changes
// nothing. With ifMatch there must be one, of that revision or for
// webhooks.AnyRevision of whichever (webhooks.ErrPrecondition).
func (m *Manager) Put(ctx context.Context, w webhooks.Webhook, ifMatch *int64) (e webhooks.Entry, created bool, err error) {
	if err := w.Admit(m.cfg.Guard); err != nil {
		return webhooks.Entry{}, false, err
	}
	in, operation := putRequest{IfMatch: ifMatch}, operationPut
	if in.Webhook, in.Credentials, err = w.SealCall(m.cfg.Keys); err != nil {
		return webhooks.Entry{}, false, err
	}
	if in.Credentials != nil {
		operation = operationPutSealed
	}
	c, err := lead(ctx, m, operation, in, func(ctx context.Context) (change, error) { return m.put(ctx, w, ifMatch) })
	if err != nil {
		return webhooks.Entry{}, false, err
	}
	e, err = m.read(ctx, w.Tenant, w.ID, c)
	return m.withFailure(e), c.Created, err
}

// put is Put at the leader.
func (m *Manager) put(ctx context.Context, w webhooks.Webhook, ifMatch *int64) (change, error) {
	before, err := m.standing(ctx, w.Tenant, w.ID)
	if errors.Is(err, webhooks.ErrNotFound) {
		if ifMatch != nil {
			return change{}, webhooks.ErrPrecondition
		}
		var c change
		if c, err = m.create(ctx, w); !errors.Is(err, webhooks.ErrExists) {
			return c, err
		}
		before, err = m.registry.Get(w.Tenant, w.ID) // somebody else was faster
	}
	if err != nil {
		return change{}, err
	}
	if !sameTopics(before.Webhook, w) {
		if _, err := m.checkTopics(ctx, w); err != nil {
			return change{}, err
		}
	}
	e, _, err := m.registry.Replace(ctx, w, ifMatch)
	return change{Revision: e.Revision, entry: e}, err
}

func sameTopics(a, b webhooks.Webhook) bool {
	a.DeadLetter, b.DeadLetter = deref(a.DeadLetter), deref(b.DeadLetter)
	return fmt.Sprint(a.Topics, *a.DeadLetter.Topic) == fmt.Sprint(b.Topics, *b.DeadLetter.Topic)
}

func deref(d webhooks.DeadLetter) webhooks.DeadLetter {
	if d.Topic == nil {
		d.Topic = new(string)
	}
	return d
}

// checkTopics describes the webhook's topics; its dead letter topic must exist, too.
// None of them may be the registry's (*webhooks.ValidationError): what is in there is
// nobody else's business, and a dead letter would be a write past its leader's fence.
func (m *Manager) checkTopics(ctx context.Context, w webhooks.Webhook) (map[string]topicInfo, error) {
	var fields []webhooks.FieldError
	refuse := func(pointer, topic string) {
		if topic == m.cfg.RegistryTopic {
			fields = append(fields, webhooks.FieldError{Pointer: pointer, Detail: "must not be the topic in which the gateway keeps its webhooks"})
		}
	}
	for i, topic := range w.Topics {
		refuse(fmt.Sprintf("/topics/%d", i), topic)
	}
	if w.DeadLetter.Topic != nil {
		refuse("/dead_letter/topic", *w.DeadLetter.Topic)
	}
	if fields != nil {
		return nil, &webhooks.ValidationError{Fields: fields}
	}
	topics, err := m.cluster.resolve(ctx, w)
	if err == nil && w.DeadLetter.Topic != nil {
		_, err = m.cluster.topics(ctx, []string{*w.DeadLetter.Topic})
	}
	return topics, topicOr(err)
}

// topicOr marks what is no *TopicError as Kafka's.
func topicOr(err error) error {
	if _, missing := errors.AsType[*TopicError](err); missing || err == nil {
		return err
	}
	return unavailable(err)
}

// Pause stops deliveries and keeps the members in their group. Idempotent. When it
// returns nothing new is sent by any replica. With webhooks.ErrUnavailable the
// webhook may be paused already, and not every replica may know.
func (m *Manager) Pause(ctx context.Context, tenant, id string) (webhooks.Entry, error) {
	in := webhookTarget{tenant, id}
	c, err := lead(ctx, m, operationPause, in, func(ctx context.Context) (change, error) { return m.pause(ctx, in) })
	if err != nil {
		return webhooks.Entry{}, err
	}
	return m.read(ctx, tenant, id, c)
}

// pause is Pause at the leader.
func (m *Manager) pause(ctx context.Context, in webhookTarget) (change, error) {
	e, err := m.registry.SetState(ctx, in.Tenant, in.ID, webhooks.Paused, nil)
	if err != nil {
		return change{}, err
	}
	return change{Revision: e.Revision, entry: e}, m.quiesceAll(ctx, e.Webhook.GroupID, quiesceRequest{in, e.Revision})
}

// Resume lets deliveries go on, of a disabled or failed webhook too, and has every
// replica try at once that was waiting to. Idempotent.
func (m *Manager) Resume(ctx context.Context, tenant, id string) (webhooks.Entry, error) {
	in := webhookTarget{tenant, id}
	c, err := lead(ctx, m, operationResume, in, func(ctx context.Context) (change, error) { return m.resume(ctx, in) })
	if err != nil {
		return webhooks.Entry{}, err
	}
	e, err := m.read(ctx, tenant, id, c)
	return m.withFailure(e), err
}

// resume is Resume at the leader.
func (m *Manager) resume(ctx context.Context, in webhookTarget) (change, error) {
	e, err := m.registry.SetState(ctx, in.Tenant, in.ID, webhooks.Active, nil)
	if err != nil {
		return change{}, err
	}
	m.againAll(ctx, in)
	return change{Revision: e.Revision, entry: e}, nil
}

// disable writes down, at the leader, that the receiver has answered 410 to the
// webhook as it stood at a revision, or pauses it because it leads back to us. If it
// has changed since, the next answer tells. Other replicas stop with what they read
// in the registry, at the latest.
func (m *Manager) disable(ctx context.Context, in disableRequest) (change, error) {
	state, reason := webhooks.Disabled, "gone"
	if in.Looped {
		state, reason = webhooks.Paused, "loop_detected"
	}
	e, err := m.registry.SetStateOf(ctx, in.Tenant, in.ID, in.Revision, state, &reason)
	if errors.Is(err, webhooks.ErrPrecondition) {
		e, err = m.registry.Get(in.Tenant, in.ID)
		return change{Revision: e.Revision, entry: e}, err
	}
	if err != nil {
		return change{}, err
	}
	confirming, cancel := context.WithTimeout(ctx, goneConfirm)
	defer cancel()
	if err := m.quiesceAll(confirming, e.Webhook.GroupID, quiesceRequest{in.webhookTarget, e.Revision}); err != nil {
		m.logger.Warn("not every replica has confirmed that a webhook is disabled", "webhook", in.ID, "error", err)
	}
	return change{Revision: e.Revision, entry: e}, nil
}
