package webhooks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Answers of the registry.
var (
	ErrNotFound     = errors.New("no such webhook")
	ErrExists       = errors.New("a webhook of this id exists")
	ErrGroupInUse   = errors.New("another webhook has this consumer group")
	ErrPrecondition = errors.New("the webhook has changed since")

	// ErrUnavailable says that the registry cannot be reached, or has not been
	// read yet. A change may or may not have been made; trying again is safe.
	ErrUnavailable = errors.New("the registry cannot be reached")

	// ErrFenced says that another process has taken the registry over. This one
	// still reads it, and changes nothing in it any more.
	ErrFenced = errors.New("another process has taken over the registry")

	// ErrUnreadable says that a webhook is stored in a form this process cannot
	// read: by a newer build, or sealed with a key that is not in the key ring.
	// It is not run and can only be deleted.
	ErrUnreadable = errors.New("the stored webhook cannot be read by this process")
)

// Log is the ordered, compacted log in which the registry lives.
type Log interface {
	// Run reads the log from its beginning and calls apply for each value in
	// order, a nil value being a tombstone; caughtUp is called once, when
	// everything that was written before the start has been applied. Both are
	// called from one goroutine. Run re-connects by itself; it returns when ctx
	// ends, or with an error that no retry can heal.
	Run(ctx context.Context, apply func(key string, value []byte, offset int64), caughtUp func()) error

	// Append writes one value (nil: a tombstone) in one fenced transaction and
	// returns its offset. It is called from one goroutine at a time. Errors are
	// ErrFenced, or ErrUnavailable: then the value may or may not have been
	// written, but whatever is appended later comes after it.
	Append(ctx context.Context, key string, value []byte) (offset int64, err error)
}

// Registry holds every webhook: all of them in memory, for reading, and in a Log,
// for good. What a reader sees is what was read back from the log, never what
// someone meant to write. All methods may be called concurrently.
//
// A stored record that cannot be read (ErrUnreadable) is logged and kept aside:
// it is not listed, and nothing but Delete overwrites it.
type Registry struct {
	log    Log
	keys   *Keys
	logger *slog.Logger

	changes chan change   // callers → write
	ready   chan struct{} // closed by caughtUp
	done    chan struct{} // closed when Run has returned

	mu       sync.RWMutex
	entries  map[string]Entry      // by record key; immutable once in here
	aside    map[string]unreadable // by record key
	applied  int64                 // offset applied last; -1 before the first
	moved    chan struct{}         // closed and made anew whenever applied has risen
	watchers map[chan struct{}]struct{}
}

// unreadable is a record that cannot be read.
type unreadable struct {
	why   error
	group string // its consumer group, "" if not even that is known
}

// NewRegistry returns a registry over log. Run brings it to life.
func NewRegistry(log Log, keys *Keys, logger *slog.Logger) *Registry {
	return &Registry{
		log: log, keys: keys, logger: logger,
		changes:  make(chan change),
		ready:    make(chan struct{}),
		done:     make(chan struct{}),
		entries:  map[string]Entry{},
		aside:    map[string]unreadable{},
		applied:  -1,
		moved:    make(chan struct{}),
		watchers: map[chan struct{}]struct{}{},
	}
}

// Run reads the log and makes the changes that are asked for, one after the
// other, until ctx ends or the log cannot go on. It blocks and is called once.
func (r *Registry) Run(ctx context.Context) error {
	defer close(r.done)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := r.log.Run(ctx, r.apply, r.caughtUp); err != nil && ctx.Err() == nil {
			return fmt.Errorf("reading the registry: %w", err)
		}
		return ctx.Err()
	})
	g.Go(func() error { return r.write(ctx) })
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Ready is closed once the log has been read to its end. Until then List is empty
// and everything else answers ErrUnavailable.
func (r *Registry) Ready() <-chan struct{} { return r.ready }

func (r *Registry) isReady() bool {
	select {
	case <-r.ready:
		return true
	default:
		return false
	}
}

// Get returns one webhook. Errors are ErrNotFound, ErrUnreadable, and
// ErrUnavailable before the registry is ready.
func (r *Registry) Get(tenant, id string) (Entry, error) {
	if !r.isReady() {
		return Entry{}, ErrUnavailable
	}
	e, err := r.lookup(key(tenant, id))
	return e.clone(), err
}

// lookup finds the entry of a record key; it must not be changed.
func (r *Registry) lookup(recordKey string) (Entry, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if e, ok := r.entries[recordKey]; ok {
		return e, nil
	}
	if u, ok := r.aside[recordKey]; ok {
		return Entry{}, fmt.Errorf("%w: %w", ErrUnreadable, u.why)
	}
	return Entry{}, ErrNotFound
}

// List returns the webhooks of a tenant, ordered by id.
func (r *Registry) List(tenant string) []Entry {
	entries := []Entry{}
	if !r.isReady() {
		return entries
	}
	r.mu.RLock()
	for _, e := range r.entries {
		if e.Webhook.Tenant == tenant {
			entries = append(entries, e.clone())
		}
	}
	r.mu.RUnlock()
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Webhook.ID, b.Webhook.ID) })
	return entries
}

// Watch returns a channel that receives after anything has changed, once for
// many changes if its reader is slow, and first when the registry becomes ready.
// stop ends the watch; the channel is never closed.
func (r *Registry) Watch() (changed <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchers[c] = struct{}{}
	return c, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.watchers, c)
	}
}

// apply takes in one record; the log calls it.
func (r *Registry) apply(recordKey string, value []byte, offset int64) {
	known := strings.HasPrefix(recordKey, webhookPrefix)
	if !known && recordKey != markerKey {
		r.logger.Warn("the registry holds a record that this build does not know", "key", recordKey, "offset", offset)
	}
	var entry Entry
	var err error
	if known && value != nil {
		if entry, err = decodeEntry(recordKey, value, offset, r.keys); err != nil {
			r.logger.Error("a webhook in the registry cannot be read and is not run",
				"key", recordKey, "offset", offset, "error", err)
		}
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	if known {
		delete(r.entries, recordKey)
		delete(r.aside, recordKey)
		switch {
		case err != nil:
			r.aside[recordKey] = unreadable{err, entry.Webhook.GroupID}
		case value != nil:
			r.entries[recordKey] = entry
		}
		if r.isReady() {
			r.notify()
		}
	}
	r.applied = offset
	close(r.moved)
	r.moved = make(chan struct{})
}

func (r *Registry) caughtUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logger.Info("the registry has been read", "webhooks", len(r.entries), "unreadable", len(r.aside))
	close(r.ready)
	r.notify()
}

// notify tells the watchers; r.mu is held.
func (r *Registry) notify() {
	for c := range r.watchers {
		select {
		case c <- struct{}{}:
		default: // it has not taken the last one yet, which will do for this one too
		}
	}
}

// await blocks until the record at offset has been applied.
func (r *Registry) await(ctx context.Context, offset int64) error {
	for {
		r.mu.RLock()
		applied, moved := r.applied, r.moved
		r.mu.RUnlock()
		if applied >= offset {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
