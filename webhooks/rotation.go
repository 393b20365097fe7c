package webhooks

import (
	"context"
	"crypto/subtle"
	"time"
)

// How long former keys may sign beside new ones.
const (
	DefaultOverlap = 24 * time.Hour
	MaxOverlap     = 30 * 24 * time.Hour
)

// Rotation says how a webhook's signing keys are exchanged.
type Rotation struct {
	Secret []byte // the new one, of 24 to 64 bytes

	// Overlap is how long from now the keys before may sign beside the new ones,
	// which is also true of those that an earlier rotation has left longer.
	Overlap time.Duration
}

// Validate returns nil or a *ValidationError.
func (n Rotation) Validate() error {
	var c complaints
	if err := checkSecret(n.Secret); err != nil {
		c.add("/secret", "%s", err)
	}
	if n.Overlap < 0 || n.Overlap > MaxOverlap {
		c.add("/overlap_ms", "must be from 0 to %d", MaxOverlap.Milliseconds())
	}
	return c.err()
}

// Rotate gives a webhook a new secret and, if it signs by v1a, a new key pair. Those
// before sign on for the overlap. With the secret that it has already nothing new is
// made, so that the same rotation again is safe; a shorter overlap still ends the
// former keys sooner. Errors are ErrNotFound, ErrUnreadable, ErrNotLeader,
// ErrUnavailable, ctx's own, and a *ValidationError.
func (r *Registry) Rotate(ctx context.Context, tenant, id string, n Rotation) (Entry, error) {
	if err := n.Validate(); err != nil {
		return Entry{}, err
	}
	done := r.change(ctx, key(tenant, id), func(current Entry, err error) (verdict, error) {
		if err != nil {
			return verdict{}, err
		}
		e, changed := current.rotated(n, now())
		return verdict{write: changed, entry: e}, nil
	})
	return done.entry, done.err
}

// rotated is e after a rotation at a time, and whether that has changed anything. It
// shares with e what it does not change.
func (e Entry) rotated(n Rotation, at time.Time) (rotated Entry, changed bool) {
	until := at.Add(n.Overlap)
	former := e.Former
	if subtle.ConstantTimeCompare(e.Secret, n.Secret) != 1 {
		former = append([]FormerKey{{e.Secret, e.Private, until}}, former...)
		e.Secret, e.Private = n.Secret, nil
		e.completeKeys()
		changed = true
	}
	e.Former = nil
	for _, k := range former {
		if k.Until.After(until) {
			k.Until, changed = until, true
		}
		if !k.Ended(at) && len(e.Former) < maxFormer {
			e.Former = append(e.Former, k)
		}
	}
	if changed {
		e.Webhook.UpdatedAt = at
	}
	return e, changed
}

// completeKeys makes the key pair if the webhook's signing needs one that it does not
// have yet.
func (e *Entry) completeKeys() {
	if e.Private == nil && e.Webhook.Signing.asymmetric() {
		e.Private = newPrivate()
	}
}

// withoutEnded is e without the former keys that sign no more: what is written.
func (e Entry) withoutEnded(at time.Time) Entry {
	former := e.Former
	e.Former = nil
	for _, k := range former {
		if !k.Ended(at) {
			e.Former = append(e.Former, k)
		}
	}
	return e
}

// PublicKeys are those that sign the requests of any webhook at a time, in no order.
// The error is ErrUnavailable before the registry is ready.
func (r *Registry) PublicKeys(at time.Time) ([]PublicKey, error) {
	if !r.isReady() {
		return nil, ErrUnavailable
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	var keys []PublicKey
	for _, e := range r.entries {
		keys = append(keys, e.PublicKeys(at)...)
	}
	return keys, nil
}
