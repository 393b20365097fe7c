package webhooks

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// change is one request to change the registry. decide is called by the writer,
// which alone changes anything, so that what it is told stays true until its
// answer has been written and read back.
type change struct {
	key    string
	decide func(current Entry, err error) (verdict, error) // err is of lookup
	reply  chan<- outcome                                  // has room for one
}

// verdict is what a change comes to: nothing to write, a tombstone, or an entry.
type verdict struct {
	write  bool
	remove bool
	entry  Entry // the answer, and with write what is written
}

type outcome struct {
	entry   Entry
	changed bool
	err     error
}

// writeTimeout bounds one change from its turn at the writer to its read-back, so
// that callers behind it do not wait for a broker that is gone.
const writeTimeout = 15 * time.Second

// Create adds a webhook, which has to be complete and valid, and makes its
// secret. Errors are ErrExists, ErrGroupInUse, ErrUnreadable, ErrUnavailable,
// ErrFenced, a *ValidationError, and ctx's own.
func (r *Registry) Create(ctx context.Context, w Webhook) (Entry, error) {
	if err := w.Validate(); err != nil {
		return Entry{}, err
	}
	w = w.Clone()
	done := r.change(ctx, key(w.Tenant, w.ID), func(_ Entry, err error) (verdict, error) {
		switch {
		case err == nil:
			return verdict{}, ErrExists
		case !errors.Is(err, ErrNotFound):
			return verdict{}, err
		case r.groupInUse(w.GroupID):
			return verdict{}, ErrGroupInUse
		}
		w.State, w.StateReason = Active, nil
		w.CreatedAt = now()
		w.UpdatedAt = w.CreatedAt
		return verdict{write: true, entry: Entry{Webhook: w, Secret: newSecret()}}, nil
	})
	return done.entry, done.err
}

// Replace sets all that the owner of a webhook sets to what w holds; the secret,
// the stored state and created_at stay. With the content that is there already
// nothing is changed. A new value of start is stored and has no effect: the
// group exists and goes on from its commits.
//
// ifMatch is the revision the caller expects, nil for any. Errors are
// ErrNotFound, ErrPrecondition, ErrUnreadable, ErrUnavailable, ErrFenced, ctx's
// own, and a *ValidationError, also for a group_id other than the stored one.
func (r *Registry) Replace(ctx context.Context, w Webhook, ifMatch *int64) (e Entry, changed bool, err error) {
	if err := w.Validate(); err != nil {
		return Entry{}, false, err
	}
	w = w.Clone()
	done := r.change(ctx, key(w.Tenant, w.ID), func(current Entry, err error) (verdict, error) {
		switch old := current.Webhook; {
		case err != nil:
			return verdict{}, err
		case ifMatch != nil && *ifMatch != current.Revision:
			return verdict{}, ErrPrecondition
		case w.GroupID != old.GroupID:
			return verdict{}, &ValidationError{[]FieldError{{"/group_id", "cannot be changed"}}}
		case sameContent(w, old):
			return verdict{entry: current}, nil
		default:
			w.State, w.StateReason, w.CreatedAt = old.State, old.StateReason, old.CreatedAt
			w.UpdatedAt = now()
			return verdict{write: true, entry: Entry{Webhook: w, Secret: current.Secret}}, nil
		}
	})
	return done.entry, done.changed, done.err
}

// SetState sets the stored state, which is Active, Paused or Disabled, and its
// reason; what is so already is not changed. Errors are ErrNotFound,
// ErrUnreadable, ErrUnavailable, ErrFenced and ctx's own.
func (r *Registry) SetState(ctx context.Context, tenant, id string, s State, reason *string) (Entry, error) {
	if s != Active && s != Paused && s != Disabled {
		return Entry{}, fmt.Errorf("state %q is never stored", s)
	}
	done := r.change(ctx, key(tenant, id), func(current Entry, err error) (verdict, error) {
		if err != nil {
			return verdict{}, err
		}
		w := current.Webhook
		if w.State == s && equalPointers(w.StateReason, reason) {
			return verdict{entry: current}, nil
		}
		w.State, w.StateReason, w.UpdatedAt = s, clonePointer(reason), now()
		return verdict{write: true, entry: Entry{Webhook: w, Secret: current.Secret}}, nil
	})
	return done.entry, done.err
}

// Delete removes a webhook, also one that cannot be read. Errors are ErrNotFound,
// ErrUnavailable, ErrFenced and ctx's own.
func (r *Registry) Delete(ctx context.Context, tenant, id string) error {
	done := r.change(ctx, key(tenant, id), func(_ Entry, err error) (verdict, error) {
		if errors.Is(err, ErrNotFound) {
			return verdict{}, err
		}
		return verdict{write: true, remove: true}, nil
	})
	return done.err
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
	return false
}

// change hands a change to the writer and waits for what came of it.
func (r *Registry) change(ctx context.Context, recordKey string, decide func(Entry, error) (verdict, error)) outcome {
	if !r.isReady() {
		return outcome{err: ErrUnavailable}
	}
	reply := make(chan outcome, 1)
	select {
	case r.changes <- change{recordKey, decide, reply}:
	case <-r.done:
		return outcome{err: ErrUnavailable}
	case <-ctx.Done():
		return outcome{err: ctx.Err()}
	}
	select {
	case done := <-reply:
		done.entry = done.entry.clone()
		return done
	case <-r.done:
		return outcome{err: ErrUnavailable}
	case <-ctx.Done():
		return outcome{err: ctx.Err()}
	}
}

// writer makes changes, one after the other. Its fields belong to its goroutine.
type writer struct {
	*Registry
	last   int64 // offset of the last record known to be written
	unsure bool  // a record may have been written after it
}

// write is the writer's goroutine.
func (r *Registry) write(ctx context.Context) error {
	w := writer{Registry: r, last: -1}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case c := <-r.changes:
			c.reply <- w.serve(ctx, c)
		}
	}
}

// serve makes one change. Its own context, not the caller's, bounds the writing:
// a client that hangs up must not cost the log its transaction.
func (w *writer) serve(ctx context.Context, c change) outcome {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if err := w.settle(ctx); err != nil {
		return outcome{err: unavailable(err)}
	}
	v, err := c.decide(w.lookup(c.key))
	if err != nil || !v.write {
		return outcome{entry: v.entry, err: err}
	}
	var value []byte
	if !v.remove {
		if value, err = encode(v.entry.Webhook, v.entry.Secret, w.keys); err != nil {
			return outcome{err: err}
		}
	}
	if err := w.append(ctx, c.key, value); err != nil {
		return outcome{err: unavailable(err)}
	}
	if err := w.await(ctx, w.last); err != nil {
		return outcome{err: unavailable(err)}
	}
	v.entry.Revision = w.last
	return outcome{entry: v.entry, changed: true}
}

// settle makes sure that everything written so far has been read back, so that a
// decision is never made on what is no longer so. Where it is not known what was
// written, a marker is: once that is read back, so is all that stands before it.
func (w *writer) settle(ctx context.Context) error {
	if w.unsure {
		if err := w.append(ctx, markerKey, nil); err != nil {
			return err
		}
	}
	return w.await(ctx, w.last)
}

func (w *writer) append(ctx context.Context, recordKey string, value []byte) error {
	offset, err := w.log.Append(ctx, recordKey, value)
	w.unsure = err != nil
	if err != nil {
		return fmt.Errorf("writing to the registry: %w", err)
	}
	w.last = offset
	return nil
}

// unavailable makes ErrUnavailable of an error that is neither that nor ErrFenced.
func unavailable(err error) error {
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrFenced) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
