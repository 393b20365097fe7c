package webhooks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
)

// change is one request to change the registry. decide is called by the leadership,
// which alone changes anything, so that what it is told stays true until its
// answer has been written.
type change struct {
	key    string
	decide func(current Entry, err error) (verdict, error) // err is of lookup
	reply  chan<- outcome                                  // has room for one
}

// verdict is what a change comes to: nothing to write, a tombstone, a deletion, or
// an entry.
type verdict struct {
	write    bool
	remove   bool
	deletion *Deletion // nil: it is about an entry. The answer, and with write what is written
	entry    Entry     // the answer, and with write what is written
}

type outcome struct {
	entry    Entry
	deletion *Deletion
	revision int64 // of what was written
	changed  bool
	err      error
}

// Create adds a webhook, which has to be complete and valid, and makes its
// secret. pinned, by topic, is kept with it for good. Errors are ErrExists,
// ErrGroupInUse, ErrUnreadable, ErrNotLeader, ErrUnavailable, a *ValidationError,
// and ctx's own.
func (r *Registry) Create(ctx context.Context, w Webhook, pinned map[string]Pinned) (Entry, error) {
	if err := w.Validate(); err != nil {
		return Entry{}, err
	}
	if err := CheckPinned(pinned); err != nil {
		return Entry{}, err
	}
	w, pinned = w.Clone(), maps.Clone(pinned)
	if err := w.unmask(Webhook{}); err != nil {
		return Entry{}, err
	}
	done := r.change(ctx, key(w.Tenant, w.ID), func(_ Entry, err error) (verdict, error) {
		switch {
		case err == nil:
			return verdict{}, ErrExists
		case errors.Is(err, ErrDeleting):
			return verdict{}, fmt.Errorf("%w: the former webhook's deletion is under way", ErrUnavailable)
		case !errors.Is(err, ErrNotFound):
			return verdict{}, err
		case r.groupInUse(w.GroupID):
			return verdict{}, ErrGroupInUse
		}
		w.State, w.StateReason = Active, nil
		w.CreatedAt = now()
		w.UpdatedAt = w.CreatedAt
		e := Entry{Webhook: w, Secret: NewSecret(), Pinned: pinned}
		e.completeKeys()
		return verdict{write: true, entry: e}, nil
	})
	return done.entry, done.err
}

// AnyRevision, as the one expected, is whichever stands.
const AnyRevision int64 = -1

// Replace sets all that the owner of a webhook sets to what w holds; the secret,
// the stored state, created_at and what was pinned stay. With the content that is there already
// nothing is changed. A new value of start is stored and has no effect: the
// group exists and goes on from its commits.
//
// Credentials that w has masked stay what they are. ifMatch is the revision the
// caller expects, AnyRevision or nil for any. Errors are ErrNotFound,
// ErrPrecondition, ErrUnreadable, ErrNotLeader, ErrUnavailable, ctx's own, and a
// *ValidationError, also for a group_id other than the stored one.
func (r *Registry) Replace(ctx context.Context, w Webhook, ifMatch *int64) (e Entry, changed bool, err error) {
	if err := w.Validate(); err != nil {
		return Entry{}, false, err
	}
	w = w.Clone()
	done := r.change(ctx, key(w.Tenant, w.ID), func(current Entry, err error) (verdict, error) {
		switch old := current.Webhook; {
		case err != nil:
			return verdict{}, err
		case ifMatch != nil && *ifMatch != current.Revision && *ifMatch != AnyRevision:
			return verdict{}, ErrPrecondition
		case w.GroupID != old.GroupID:
			return verdict{}, &ValidationError{[]FieldError{{Pointer: "/group_id", Detail: "cannot be changed"}}}
		default:
			if err := w.unmask(old); err != nil {
				return verdict{}, err
			}
			if sameContent(w, old) {
				return verdict{entry: current}, nil
			}
			w.State, w.StateReason, w.CreatedAt = old.State, old.StateReason, old.CreatedAt
			w.UpdatedAt = now()
			current.Webhook = w
			current.completeKeys()
			return verdict{write: true, entry: current}, nil
		}
	})
	return done.entry, done.changed, done.err
}

// SetState sets the stored state, which is Active, Paused or Disabled, and its
// reason; what is so already is not changed. Errors are ErrNotFound,
// ErrUnreadable, ErrNotLeader, ErrUnavailable and ctx's own.
func (r *Registry) SetState(ctx context.Context, tenant, id string, s State, reason *string) (Entry, error) {
	return r.SetStateOf(ctx, tenant, id, AnyRevision, s, reason)
}

// SetStateOf is SetState for a webhook as it stands at a revision: if it has changed
// since, nothing is, and the error is ErrPrecondition.
func (r *Registry) SetStateOf(ctx context.Context, tenant, id string, revision int64, s State, reason *string) (Entry, error) {
	if s != Active && s != Paused && s != Disabled {
		return Entry{}, fmt.Errorf("state %q is never stored", s)
	}
	done := r.change(ctx, key(tenant, id), func(current Entry, err error) (verdict, error) {
		if err != nil {
			return verdict{}, err
		}
		if revision != AnyRevision && revision != current.Revision {
			return verdict{}, ErrPrecondition
		}
		w := current.Webhook
		if w.State == s && equalPointers(w.StateReason, reason) {
			return verdict{entry: current}, nil
		}
		w.State, w.StateReason, w.UpdatedAt = s, clonePointer(reason), now()
		current.Webhook = w
		return verdict{write: true, entry: current}, nil
	})
	return done.entry, done.err
}

// now is the time as the API tells it, in milliseconds, so that what is stored
// and what is read back are equal.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

func equalPointers(a, b *string) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// groupInUse tells whether a webhook of any tenant has the group: groups belong
// to the Kafka cluster.
func (r *Registry) groupInUse(group string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, e := range r.entries {
		if e.Webhook.GroupID == group {
			return true
		}
	}
	for _, u := range r.aside {
		if u.group == group {
			return true
		}
	}
	for _, d := range r.deletions {
		if d.GroupID == group {
			return true
		}
	}
	return false
}

// Confirm returns nil if this process leads the registry and has read all that was
// written before the call, by whomever. What it then reads is what is so, as long
// as it leads. Errors are ErrNotLeader, ErrUnavailable and ctx's own.
func (r *Registry) Confirm(ctx context.Context) error {
	return r.change(ctx, markerKey, func(Entry, error) (verdict, error) { return verdict{}, nil }).err
}

// change hands a change to the leadership, waits for what came of it, and until it
// can be read here.
func (r *Registry) change(ctx context.Context, recordKey string, decide func(Entry, error) (verdict, error)) outcome {
	l := r.leading.Load()
	switch {
	case !r.isReady():
		return outcome{err: ErrUnavailable}
	case isClosed(r.done):
		return outcome{err: errStopped}
	case l == nil:
		return outcome{err: ErrNotLeader}
	}
	reply := make(chan outcome, 1)
	select {
	case l.changes <- change{recordKey, decide, reply}:
	case <-l.over:
		return outcome{err: ErrNotLeader}
	case <-ctx.Done():
		return outcome{err: ctx.Err()}
	}
	var done outcome
	select {
	case done = <-reply:
	case <-ctx.Done():
		return outcome{err: ctx.Err()}
	}
	if done.changed {
		if err := r.readBack(ctx, done.revision); err != nil {
			return outcome{err: err}
		}
	}
	done.entry = done.entry.clone()
	return done
}

// readBack waits for what was written, for a bounded time.
func (r *Registry) readBack(ctx context.Context, revision int64) error {
	waiting, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	err := r.Await(waiting, revision)
	if err == nil || ctx.Err() != nil {
		return err
	}
	return unavailable(fmt.Errorf("reading back: %w", err))
}
