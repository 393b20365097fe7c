package groupmanager

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kpush/kpush/replica"
	"github.com/kpush/kpush/webhooks"
)

const (
	// deletionPause is how often the leader looks for deletions under way, and comes
	// before it tries one again. Who asked for it mostly waits for it, and is faster.
	deletionPause = 2 * time.Second

	// deletionTry bounds one try. It is longer than the sessions of most members that
	// have to be out of the group, which is waited for until leavingTry.
	deletionTry = 75 * time.Second
	leavingTry  = time.Minute

	// deletionPatience is how long a group is waited for to be left. Then its offsets
	// stay: somebody else uses it.
	deletionPatience = 10 * time.Minute

	// maxMembersPause is the longest pause before a group is looked at again.
	maxMembersPause = time.Second
)

// Delete removes a webhook. When it returns no request is sent any more by any
// replica, except those under way. With offsets, the Kafka group and its offsets
// are removed once all members have left.
//
// With webhooks.ErrUnavailable, and when ctx ends before, a deletion that has begun
// goes on at the leader, also at the next one. The same call again waits for it; it
// is webhooks.ErrNotFound once the deletion has come to its end.
func (m *Manager) Delete(ctx context.Context, tenant, id string, offsets bool) error {
	in := deleteRequest{webhookTarget{tenant, id}, offsets}
	c, err := lead(ctx, m, operationDelete, in, func(ctx context.Context) (change, error) { return m.remove(ctx, in) })
	if err != nil {
		return err
	}
	return m.await(ctx, c.Revision)
}

// remove is Delete at the leader.
func (m *Manager) remove(ctx context.Context, in deleteRequest) (change, error) {
	d, err := m.registry.BeginDelete(ctx, in.Tenant, in.ID, in.Offsets)
	if err != nil {
		return change{}, err
	}
	if err := m.finishDeletion(ctx, d); err != nil {
		return change{}, err
	}
	return change{Revision: m.registry.Revision()}, nil // not before the end of the deletion
}

// finishDeletion brings a deletion to its end, at the leader. One does so at a time,
// and no webhook gets the group meanwhile: what it pinned would be removed.
func (m *Manager) finishDeletion(ctx context.Context, begun webhooks.Deletion) error {
	unlock, err := m.groupLocks.lock(ctx, begun.GroupID)
	if err != nil {
		return unavailable(err)
	}
	defer unlock()
	if err := m.registry.Confirm(ctx); err != nil {
		return err
	}
	for {
		d, ok := m.registry.Deletion(begun.Tenant, begun.ID)
		if !ok || d.GroupID != begun.GroupID {
			return nil // it has come to its end, by way of somebody else
		}
		if err := m.workOff(ctx, d); err != nil {
			return err
		}
		switch err := m.registry.Delete(ctx, d.Tenant, d.ID, d.Revision); {
		case errors.Is(err, webhooks.ErrPrecondition): // the offsets shall go, too, since
		case errors.Is(err, webhooks.ErrNotFound):
			return nil
		default:
			return err
		}
	}
}

// workOff does what is left to be done of a deletion.
func (m *Manager) workOff(ctx context.Context, d webhooks.Deletion) error {
	if err := m.quiesceDeleted(ctx, d); err != nil {
		return err
	}
	if !d.Offsets || d.GroupID == "" {
		return nil
	}
	err := m.deleteGroup(ctx, d)
	switch {
	case err == nil:
	case time.Since(d.Since) < deletionPatience || errors.Is(err, webhooks.ErrNotLeader):
		return unavailable(err)
	default:
		m.logger.Error("the offsets of a deleted webhook stay", "webhook", d.ID, "group", d.GroupID, "error", err)
	}
	return nil
}

// quiesceDeleted returns when no replica sends anything for a deleted webhook. A
// replica that lives and cannot be called must not keep the id for ever: after
// deletionPatience it is enough that it is not in the webhook's own group.
func (m *Manager) quiesceDeleted(ctx context.Context, d webhooks.Deletion) error {
	r := quiesceRequest{webhookTarget{d.Tenant, d.ID}, d.Revision}
	if time.Since(d.Since) < deletionPatience {
		return m.quiesceAll(ctx, d.GroupID, r)
	}
	trying, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	err := m.quiesceAll(trying, d.GroupID, r)
	if err == nil || ctx.Err() != nil || errors.Is(err, webhooks.ErrNotLeader) {
		return err
	}
	if in := m.unconfirmed(ctx, d.GroupID, map[replica.Peer]bool{m.peers.Self(): true}); in != nil {
		return in
	}
	m.logger.Error("a webhook is deleted without word from every replica", "webhook", d.ID, "since", d.Since, "error", err)
	return nil
}

// deleteGroup waits until everybody has left the group, but not for longer than
// leavingTry or after deletionPatience, and removes it. The wait is not only politeness: a
// deletion that Kafka refuses costs the admin client.
func (m *Manager) deleteGroup(ctx context.Context, d webhooks.Deletion) error {
	group := d.GroupID
	waiting, cancel := context.WithTimeout(ctx, min(leavingTry, time.Until(d.Since.Add(deletionPatience))))
	defer cancel()
	for pause := membersPause; ; pause = min(2*pause, maxMembersPause) {
		members, err := m.cluster.members(ctx, group)
		if err != nil {
			return err
		}
		if len(members) == 0 {
			// Kafka does not fence this: a former leader must not remove what a webhook
			// that was made since has pinned.
			if err := m.registry.Confirm(ctx); err != nil {
				return err
			}
			if standing, ok := m.registry.Deletion(d.Tenant, d.ID); !ok || standing.GroupID != group {
				return nil
			}
			return m.cluster.deleteGroup(ctx, group)
		}
		select {
		case <-time.After(pause):
		case <-waiting.Done():
			return fmt.Errorf("waiting for group %q to be left: %w", group, waiting.Err())
		}
	}
}

// finishDeletions brings to their end, as long as this replica leads, the deletions
// that nobody waits for any more, until ctx ends. Each has a goroutine of its own:
// one may have to wait for a session to end.
func (m *Manager) finishDeletions(ctx context.Context) {
	tick := time.NewTicker(deletionPause)
	defer tick.Stop()
	var finishing sync.WaitGroup
	defer finishing.Wait()
	var mu sync.Mutex
	busy := make(map[webhookKey]bool)
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !m.registry.Leads() {
			continue
		}
		for _, d := range m.registry.Deletions() {
			key := webhookKey{d.Tenant, d.ID}
			mu.Lock()
			begun := busy[key]
			busy[key] = true
			mu.Unlock()
			if begun {
				continue
			}
			finishing.Go(func() {
				m.tryDeletion(ctx, d)
				mu.Lock()
				delete(busy, key)
				mu.Unlock()
			})
		}
	}
}

func (m *Manager) tryDeletion(ctx context.Context, d webhooks.Deletion) {
	ctx, cancel := context.WithTimeout(ctx, deletionTry)
	defer cancel()
	if err := m.finishDeletion(ctx, d); err != nil && !errors.Is(err, webhooks.ErrNotLeader) {
		m.logger.Warn("the deletion of a webhook has not come to its end yet", "webhook", d.ID, "group", d.GroupID, "since", d.Since, "error", err)
	}
}

// awaitDeletion returns when neither the id nor the group of a webhook that is to be
// made belongs to one whose deletion is under way, as far as the leader has read.
func (m *Manager) awaitDeletion(ctx context.Context, w webhooks.Webhook) error {
	ctx, cancel := context.WithTimeout(ctx, formerPatience)
	defer cancel()
	for m.deleting(w) {
		select {
		case <-time.After(membersPause):
		case <-ctx.Done():
			return unavailable(fmt.Errorf("waiting for the end of a former webhook's deletion: %w", ctx.Err()))
		}
	}
	return nil
}

func (m *Manager) deleting(w webhooks.Webhook) bool {
	return slices.ContainsFunc(m.registry.Deletions(), func(d webhooks.Deletion) bool {
		return d.GroupID == w.GroupID || d.Tenant == w.Tenant && d.ID == w.ID
	})
}
