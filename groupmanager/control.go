package groupmanager

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/kpush/kpush/webhooks"
)

// Create registers a webhook. Its topics must exist (*TopicError), its group must
// be free (webhooks.ErrGroupInUse), and its start is pinned before it is written,
// so that a record produced after Create returned is delivered. The entry's
// secret is shown to the caller this once. Errors besides are those of
// webhooks.Registry.Create; errors.Is(err, webhooks.ErrUnavailable) when Kafka
// could not be asked.
func (m *Manager) Create(ctx context.Context, w webhooks.Webhook) (webhooks.Entry, error) {
	if _, err := m.registry.Get(w.Tenant, w.ID); err == nil {
		return webhooks.Entry{}, webhooks.ErrExists
	}
	for _, e := range m.registry.List(w.Tenant) {
		if e.Webhook.GroupID == w.GroupID {
			return webhooks.Entry{}, webhooks.ErrGroupInUse
		}
	}
	topics, err := m.checkTopics(ctx, w)
	if err != nil {
		return webhooks.Entry{}, err
	}
	m.awaitFormer(ctx, w)
	switch err := m.cluster.pin(ctx, w, topics); {
	case errors.Is(err, ErrGroupHasMembers):
		return webhooks.Entry{}, fmt.Errorf("%w: %w", webhooks.ErrGroupInUse, err)
	case err != nil:
		return webhooks.Entry{}, unavailable(err)
	}
	pinned := make(map[string]webhooks.Pinned, len(topics))
	for name, info := range topics {
		pinned[name] = webhooks.Pinned{TopicID: hex.EncodeToString(info.id[:]), Partitions: info.partitions}
	}
	return m.registry.Create(ctx, w, pinned)
}

// awaitFormer waits until a deleted webhook of that name has left its group.
func (m *Manager) awaitFormer(ctx context.Context, w webhooks.Webhook) {
	g := m.find(w.Tenant, w.ID)
	if g == nil {
		return
	}
	g.stop()
	select {
	case <-g.done:
	case <-ctx.Done():
	}
}

// Put creates a webhook or replaces its content; the same content again changes
// nothing. With ifMatch the stored revision must be that one (webhooks.ErrPrecondition).
func (m *Manager) Put(ctx context.Context, w webhooks.Webhook, ifMatch *int64) (e webhooks.Entry, created bool, err error) {
	before, err := m.registry.Get(w.Tenant, w.ID)
	if errors.Is(err, webhooks.ErrNotFound) {
		if ifMatch != nil {
			return webhooks.Entry{}, false, webhooks.ErrPrecondition
		}
		if e, err = m.Create(ctx, w); !errors.Is(err, webhooks.ErrExists) {
			return e, err == nil, err
		}
		before, err = m.registry.Get(w.Tenant, w.ID) // somebody else was faster
	}
	if err != nil {
		return webhooks.Entry{}, false, err
	}
	if !sameTopics(before.Webhook, w) {
		if _, err := m.checkTopics(ctx, w); err != nil {
			return webhooks.Entry{}, false, err
		}
	}
	e, _, err = m.registry.Replace(ctx, w, ifMatch)
	return m.withState(e), false, err
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
func (m *Manager) checkTopics(ctx context.Context, w webhooks.Webhook) (map[string]topicInfo, error) {
	topics, err := m.cluster.topics(ctx, w.Topics)
	if err == nil && w.DeadLetter.Topic != nil {
		_, err = m.cluster.topics(ctx, []string{*w.DeadLetter.Topic})
	}
	var missing *TopicError
	if err != nil && !errors.As(err, &missing) {
		err = unavailable(err)
	}
	return topics, err
}

// unavailable marks an error as Kafka's, not the caller's.
func unavailable(err error) error { return fmt.Errorf("%w: %w", webhooks.ErrUnavailable, err) }

// Get returns a webhook with the state it is in now.
func (m *Manager) Get(tenant, id string) (webhooks.Entry, error) {
	e, err := m.registry.Get(tenant, id)
	return m.withState(e), err
}

// List returns all webhooks of a tenant, ordered by id, with the states they are in now.
func (m *Manager) List(tenant string) []webhooks.Entry {
	entries := m.registry.List(tenant)
	for i := range entries {
		entries[i] = m.withState(entries[i])
	}
	return entries
}

// withState lays a running group's failure over a stored active.
func (m *Manager) withState(e webhooks.Entry) webhooks.Entry {
	if e.Webhook.State != webhooks.Active {
		return e
	}
	if g := m.find(e.Webhook.Tenant, e.Webhook.ID); g != nil {
		if reason := g.failure(); reason != "" {
			e.Webhook.State, e.Webhook.StateReason = webhooks.Failed, &reason
		}
	}
	return e
}

// Delete removes a webhook. When it returns no request is sent any more, except
// those under way. With offsets, the Kafka group and its offsets are removed once
// the member has left.
func (m *Manager) Delete(ctx context.Context, tenant, id string, offsets bool) error {
	e, err := m.registry.Get(tenant, id)
	if err != nil && !errors.Is(err, webhooks.ErrUnreadable) {
		return err
	}
	g := m.find(tenant, id)
	if err := m.registry.Delete(ctx, tenant, id); err != nil {
		return err
	}
	if g != nil {
		g.quiesce(ctx)
		g.stop()
	}
	if !offsets || e.Webhook.GroupID == "" {
		return nil
	}
	if g != nil {
		select {
		case <-g.done:
		case <-ctx.Done():
			return unavailable(fmt.Errorf("waiting for the group to be left: %w", ctx.Err()))
		}
	}
	if err := m.cluster.deleteGroup(ctx, e.Webhook.GroupID); err != nil {
		return unavailable(err)
	}
	return nil
}

// Pause stops deliveries and keeps the member in its group. Idempotent. When it
// returns nothing new is sent.
func (m *Manager) Pause(ctx context.Context, tenant, id string) (webhooks.Entry, error) {
	e, err := m.registry.SetState(ctx, tenant, id, webhooks.Paused, nil)
	if err != nil {
		return webhooks.Entry{}, err
	}
	if g := m.find(tenant, id); g != nil {
		g.quiesce(ctx)
	}
	return e, nil
}

// Resume lets deliveries go on, of a disabled or failed webhook too. Idempotent.
func (m *Manager) Resume(ctx context.Context, tenant, id string) (webhooks.Entry, error) {
	e, err := m.registry.SetState(ctx, tenant, id, webhooks.Active, nil)
	if err != nil {
		return webhooks.Entry{}, err
	}
	if g := m.find(tenant, id); g != nil {
		g.again()
	}
	return m.withState(e), nil
}
