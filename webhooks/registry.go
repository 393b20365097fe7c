package webhooks

import (
	"context"
	"errors"
	"log/slog"
)

// Answers of the registry.
var (
	ErrNotFound     = errors.New("no such webhook")
	ErrExists       = errors.New("a webhook of this id exists")
	ErrGroupInUse   = errors.New("another webhook has this consumer group")
	ErrPrecondition = errors.New("the webhook has changed since")
	ErrUnavailable  = errors.New("the registry cannot be reached")
	ErrFenced       = errors.New("another process has taken over the registry")
)

// Entry is a webhook as it stands in the registry.
type Entry struct {
	Webhook  Webhook
	Secret   []byte // signing secret, raw bytes
	Revision int64  // rises with every change of this id: the ETag
}

// Log is the ordered, compacted log in which the registry lives.
type Log interface {
	// Run reads the log from its beginning and calls apply for each value in
	// order, a nil value being a tombstone; caughtUp is called once, when the
	// end that stood at the start has been reached. It re-connects by itself
	// and returns when ctx ends, or with an error that no retry can heal.
	Run(ctx context.Context, apply func(key string, value []byte, offset int64), caughtUp func()) error

	// Append writes one value (nil: a tombstone) in one fenced transaction and
	// returns its offset. Errors are ErrFenced or ErrUnavailable; after the
	// latter the value may or may not have been written.
	Append(ctx context.Context, key string, value []byte) (offset int64, err error)
}

// Registry holds every webhook, in memory and in a Log.
type Registry struct{}

// NewRegistry returns a registry over log; Run brings it to life.
func NewRegistry(log Log, keys *Keys, logger *slog.Logger) *Registry { panic("seam") }

// Run reads and writes until ctx ends. It blocks.
func (r *Registry) Run(ctx context.Context) error { panic("seam") }

// Ready is closed once the log has been read to its end.
func (r *Registry) Ready() <-chan struct{} { panic("seam") }

// Get returns one webhook, or ErrNotFound.
func (r *Registry) Get(tenant, id string) (Entry, error) { panic("seam") }

// List returns the webhooks of a tenant, ordered by id.
func (r *Registry) List(tenant string) []Entry { panic("seam") }

// Watch returns a channel on which a change of anything is told, many as one,
// and a function that ends the watch.
func (r *Registry) Watch() (changed <-chan struct{}, stop func()) { panic("seam") }

// Create adds a webhook and makes its secret.
func (r *Registry) Create(ctx context.Context, w Webhook) (Entry, error) { panic("seam") }

// Replace sets a webhook's content. The same content again changes nothing.
func (r *Registry) Replace(ctx context.Context, w Webhook, ifMatch *int64) (e Entry, changed bool, err error) {
	panic("seam")
}

// SetState sets the stored state; it is idempotent.
func (r *Registry) SetState(ctx context.Context, tenant, id string, s State, reason *string) (Entry, error) {
	panic("seam")
}

// Delete removes a webhook.
func (r *Registry) Delete(ctx context.Context, tenant, id string) error { panic("seam") }
