package groupmanager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kpush/kpush/replica"
	"github.com/kpush/kpush/webhooks"
)

const (
	// leaderPatience is how long a change waits for a leader that takes it, before
	// anything of it was sent.
	leaderPatience = 5 * time.Second

	// leaderPause comes before the leader is looked up again.
	leaderPause = 100 * time.Millisecond

	// awaitTimeout bounds how long a replica waits to read back what the leader has
	// written: it may be cut off from Kafka while the leader is not.
	awaitTimeout = 10 * time.Second
)

// lead has a change made at the leader: here, or by one call of the operation at
// the replica that leads. A leader that refuses because it leads no more, and one
// that was not reached at all, has done nothing: then the leader is looked up anew,
// for leaderPatience; the error is webhooks.ErrUnavailable then, and ErrNotLeader.
// Where it may have been done the answer is webhooks.ErrUnavailable at once: to do
// it twice is the caller's choice.
func lead[A any](ctx context.Context, m *Manager, operation string, in any, here func(context.Context) (A, error)) (A, error) {
	var answer A
	looking, cancel := context.WithTimeout(ctx, leaderPatience)
	defer cancel()
	for fresh := false; ; fresh = true {
		leader, err := m.peers.Leader(looking, fresh)
		switch {
		case err != nil:
		case leader == m.peers.Self(): // and not a former process of its id
			answer, err = here(ctx)
			if !errors.Is(err, webhooks.ErrNotLeader) {
				return answer, err
			}
		default:
			err = meaning(m.peers.Call(ctx, leader, operation, in, &answer))
			if !errors.Is(err, webhooks.ErrNotLeader) && !errors.Is(err, replica.ErrNotSent) {
				return answer, told(operation, err)
			}
		}
		select {
		case <-time.After(leaderPause):
		case <-looking.Done():
			if ctx.Err() != nil {
				return answer, ctx.Err()
			}
			return answer, unavailable(fmt.Errorf("%w: looking for the leader: %w", webhooks.ErrNotLeader, err))
		}
	}
}

// told is what a call's error means to the caller of the API: that of a peer which
// gave no answer, or none that we know, is webhooks.ErrUnavailable.
func told(operation string, err error) error {
	_, unknown := errors.AsType[*replica.Refusal](err)
	if unknown || errors.Is(err, replica.ErrUnreachable) {
		return unavailable(fmt.Errorf("%s at the leader: %w", operation, err))
	}
	return err
}

// change is what a change of the registry came to at the leader.
type change struct {
	Revision int64 `json:"revision"` // to be read before the change is answered
	Created  bool  `json:"created"`

	entry webhooks.Entry // at the leader itself
}

// read returns the entry that a change made, from this replica's own registry.
func (m *Manager) read(ctx context.Context, tenant, id string, c change) (webhooks.Entry, error) {
	if c.entry.Revision == c.Revision && c.entry.Webhook.ID != "" {
		return c.entry, nil
	}
	if err := m.await(ctx, c.Revision); err != nil {
		return webhooks.Entry{}, err
	}
	return m.registry.Get(tenant, id)
}

// await returns when this replica has read the registry up to a revision.
func (m *Manager) await(ctx context.Context, revision int64) error {
	ctx, cancel := context.WithTimeout(ctx, awaitTimeout)
	defer cancel()
	if err := m.registry.Await(ctx, revision); err != nil {
		return unavailable(fmt.Errorf("reading the registry up to %d: %w", revision, err))
	}
	return nil
}

// unavailable marks an error as Kafka's, not the caller's.
func unavailable(err error) error { return fmt.Errorf("%w: %w", webhooks.ErrUnavailable, err) }
