package webhooks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

	// ErrNotLeader says that this process does not lead the registry, or does no
	// more. Nothing of the change was made; the process that leads can make it.
	ErrNotLeader = errors.New("this process does not lead the registry")

	// ErrFenced ends a leadership: another process has taken the registry over.
	// This one still reads it, and may lead it again.
	ErrFenced = errors.New("another process has taken over the registry")

	// ErrUnreadable says that a webhook is stored in a form this process cannot
	// read: by a newer build, or sealed with a key that is not in the key ring.
	// It is not run and can only be deleted.
	ErrUnreadable = errors.New("the stored webhook cannot be read by this process")
)

var errStopped = fmt.Errorf("%w: it is not read any more", ErrUnavailable)

// Log is the ordered, compacted log in which the registry lives. Many processes
// read it; one of them leads it, and that one alone writes.
type Log interface {
	// Run reads the log from its beginning and calls apply for each value in
	// order, a nil value being a tombstone; caughtUp is called once, when its end
	// has been reached: what another process was answered a moment ago may still
	// be to come. Both are called from one goroutine. Run re-connects by itself;
	// it returns when ctx ends, or with an error that no retry can heal.
	Run(ctx context.Context, apply func(key string, value []byte, offset int64), caughtUp func()) error

	// Lead takes the log over, brings to an end what the leader before has left
	// open, and serves Append until ctx ends, when it returns nil within seconds.
	// From the taking over on the leader before writes nothing any more. Errors are
	// ErrFenced, once somebody else has taken over, and whatever else keeps this
	// process from leading now. Lead is called after caughtUp, while Run runs, and
	// again after it has returned.
	Lead(ctx context.Context) error

	// Append writes one value (nil: a tombstone) in one fenced transaction and
	// returns its offset. It is called from one goroutine at a time. Errors are
	// ErrNotLeader: nothing was written, since Lead does not run or its end has
	// come; and ErrUnavailable: the value may or may not have been written, but
	// whatever is appended later, also by the next leader, comes after it.
	Append(ctx context.Context, key string, value []byte) (offset int64, err error)
}

// Registry holds every webhook: all of them in memory, for reading, and in a Log,
// for good. What a reader sees is what was read back from the log, never what
// someone meant to write. It is changed only where it is led: see Lead. All
// methods may be called concurrently.
//
// A stored record that cannot be read (ErrUnreadable) is logged and kept aside:
// it is not listed, and nothing but a deletion overwrites it.
type Registry struct {
	log    Log
	keys   *Keys
	logger *slog.Logger

	ready   chan struct{}              // closed by caughtUp
	done    chan struct{}              // closed when Run has returned
	leading atomic.Pointer[leadership] // nil while Lead does not run

	mu        sync.RWMutex
	entries   map[string]Entry      // by record key; immutable once in here
	aside     map[string]unreadable // by record key
	deletions map[string]Deletion   // by record key
	applied   int64                 // offset applied last; -1 before the first
	moved     chan struct{}         // closed and made anew whenever applied has risen
	watchers  map[chan struct{}]struct{}
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
		ready:     make(chan struct{}),
		done:      make(chan struct{}),
		entries:   map[string]Entry{},
		aside:     map[string]unreadable{},
		deletions: map[string]Deletion{},
		applied:   -1,
		moved:     make(chan struct{}),
		watchers:  map[chan struct{}]struct{}{},
	}
}

// Run reads the log until ctx ends, when it returns nil, or until the log cannot
// go on. It blocks and is called once.
func (r *Registry) Run(ctx context.Context) error {
	defer close(r.done)
	if err := r.log.Run(ctx, r.apply, r.caughtUp); err != nil && ctx.Err() == nil {
		return fmt.Errorf("reading the registry: %w", err)
	}
	return nil
}

// Ready is closed once the log has been read to its end. Until then List is empty
// and everything else answers ErrUnavailable.
func (r *Registry) Ready() <-chan struct{} { return r.ready }

func (r *Registry) isReady() bool { return isClosed(r.ready) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Get returns one webhook. Errors are ErrNotFound, also while it is being deleted,
// ErrUnreadable, and ErrUnavailable before the registry is ready.
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
	if _, ok := r.deletions[recordKey]; ok {
		return Entry{}, ErrDeleting
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
	deletion, deleted := decodeDeletion(recordKey, value, offset)
	if known && value != nil && !deleted {
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
		delete(r.deletions, recordKey)
		switch {
		case deleted:
			r.deletions[recordKey] = deletion
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

// Revision is that up to which this process has read the registry; -1 at first.
func (r *Registry) Revision() int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.applied
}

// Await blocks until this process has read the registry up to a revision, which
// another process may have been told. Errors are ErrUnavailable, when Run has
// returned before, and ctx's own.
func (r *Registry) Await(ctx context.Context, revision int64) error {
	for {
		r.mu.RLock()
		applied, moved := r.applied, r.moved
		r.mu.RUnlock()
		if applied >= revision {
			return nil
		}
		select {
		case <-moved:
		case <-r.done:
			return errStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
