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
	// confirmPause comes before a replica is asked again that did not confirm.
	confirmPause = 200 * time.Millisecond

	// confirmTimeout bounds one round of asking: who does not answer may be dead.
	confirmTimeout = 5 * time.Second

	// againTimeout bounds a resumption's call to the other replicas.
	againTimeout = 2 * time.Second
)

// quiesceAll returns when no replica sends anything new for a webhook. Every live
// one has read the registry up to the revision, and has said so; one that cannot be
// reached is asked again until it is no live replica any more. Then it still has to
// be out of the webhook's own Kafka group: its lease there may be the longer one,
// and until it ends a replica that is cut off may go on. An error is
// webhooks.ErrUnavailable: not everybody is known to have stopped.
func (m *Manager) quiesceAll(ctx context.Context, group string, r quiesceRequest) error {
	if err := m.quiesce(ctx, r); err != nil {
		return err
	}
	confirmed := map[replica.Peer]bool{m.peers.Self(): true}
	for {
		err := m.confirm(ctx, confirmed, r)
		if err == nil {
			err = m.unconfirmed(ctx, group, confirmed)
		}
		if err == nil {
			return nil
		}
		select {
		case <-time.After(confirmPause):
		case <-ctx.Done():
			return unavailable(fmt.Errorf("waiting for all replicas to stop sending: %w", errors.Join(err, ctx.Err())))
		}
	}
}

// confirm asks the live replicas that have not confirmed yet, all at once.
// A former process of a replica counts for itself, as long as it is a member.
func (m *Manager) confirm(ctx context.Context, confirmed map[replica.Peer]bool, r quiesceRequest) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	others, err := m.others(ctx)
	if err != nil {
		return err
	}
	asked := slices.DeleteFunc(others, func(p replica.Peer) bool { return confirmed[p] })
	answers := make([]error, len(asked))
	var asking sync.WaitGroup
	for i, peer := range asked {
		asking.Go(func() { answers[i] = m.peers.Call(ctx, peer, operationQuiesce, r, nil) })
	}
	asking.Wait()
	for i, peer := range asked {
		confirmed[peer] = answers[i] == nil
	}
	return errors.Join(answers...)
}

// unconfirmed is an error if a replica that has not confirmed is in the group.
func (m *Manager) unconfirmed(ctx context.Context, group string, confirmed map[replica.Peer]bool) error {
	if group == "" { // of a webhook that cannot be read: nobody runs it
		return nil
	}
	state, err := m.group(ctx, group)
	if err != nil {
		return unavailable(err)
	}
	stopped := make(map[string]bool) // by replica id
	for peer, done := range confirmed {
		stopped[peer.ID] = stopped[peer.ID] || done
	}
	for _, member := range state.members {
		if member.replica != "" && !stopped[member.replica] {
			return fmt.Errorf("replica %s is in the group and has not confirmed", member.replica)
		}
	}
	return nil
}

// quiesce returns when this replica sends nothing new for a webhook as it stood
// before the revision, nor for one that was deleted to its lifecycle URL. Requests
// under way may go on.
func (m *Manager) quiesce(ctx context.Context, r quiesceRequest) error {
	if err := m.await(ctx, r.Revision); err != nil {
		return err
	}
	_, err := m.registry.Get(r.Tenant, r.ID)
	gone := errors.Is(err, webhooks.ErrNotFound)
	for _, g := range m.lives(r.key()) {
		g.quiesce(ctx, r.Revision)
		if gone && g.revision.Load() <= r.Revision { // else created again meanwhile
			g.stop()
			g.hush(ctx)
		}
	}
	if ctx.Err() != nil {
		return unavailable(ctx.Err()) // a partition may not have looked yet
	}
	return nil
}

// againAll has every replica try a webhook again that was waiting to. It is no
// matter if one does not: time does the same.
func (m *Manager) againAll(ctx context.Context, t webhookTarget) {
	m.again(t)
	ctx, cancel := context.WithTimeout(ctx, againTimeout)
	defer cancel()
	others, err := m.others(ctx)
	if err != nil {
		m.logger.Debug("the other replicas are not told of a resumption", "webhook", t.ID, "error", err)
	}
	var telling sync.WaitGroup
	for _, peer := range others {
		telling.Go(func() {
			if err := m.peers.Call(ctx, peer, operationAgain, t, nil); err != nil {
				m.logger.Debug("a replica was not told of a resumption", "webhook", t.ID, "replica", peer.ID, "error", err)
			}
		})
	}
	telling.Wait()
}

// again ends a backoff of a webhook's group here, and has it believe whatever
// committed offsets the broker tells next.
func (m *Manager) again(t webhookTarget) {
	if g := m.find(t.Tenant, t.ID); g != nil {
		g.forget()
		g.again()
	}
}
