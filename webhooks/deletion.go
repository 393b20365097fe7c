package webhooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Deletion is a webhook that was deleted and of which something is left to be done:
// its place is taken until then. It is kept where the webhook was, in one write, so
// that no leader forgets it.
type Deletion struct {
	Tenant, ID string
	GroupID    string    // its consumer group; empty if the webhook could not be read
	Offsets    bool      // the group's committed offsets shall go, too
	Since      time.Time // of the first request
	Revision   int64     // a webhook of its place with a lower one is the deleted one
}

// ErrDeleting is an ErrNotFound of which more is known: there is a Deletion.
var ErrDeleting = fmt.Errorf("%w: its deletion is under way", ErrNotFound)

// deletionVersion is that of the layout of deletions. A build that does not know it
// has the webhook as one it cannot read.
const deletionVersion = 1

// storedDeletion is the value of a record that stands for a deletion.
type storedDeletion struct {
	Version int       `json:"deletion_version"`
	Since   time.Time `json:"since"`
	GroupID string    `json:"group_id"`
	Offsets bool      `json:"offsets"`
}

func encodeDeletion(d *Deletion) ([]byte, error) {
	value, err := json.Marshal(storedDeletion{deletionVersion, d.Since, d.GroupID, d.Offsets})
	if err != nil {
		return nil, fmt.Errorf("encoding the deletion of webhook %s: %w", d.ID, err)
	}
	return value, nil
}

// decodeDeletion reads a record; ok is false for one that is no deletion.
func decodeDeletion(recordKey string, value []byte, revision int64) (d Deletion, ok bool) {
	name, isWebhook := strings.CutPrefix(recordKey, webhookPrefix)
	tenant, id, found := strings.Cut(name, "/")
	if !isWebhook || !found || !json.Valid(value) {
		return Deletion{}, false
	}
	var s storedDeletion
	decoder := json.NewDecoder(bytes.NewReader(value))
	decoder.DisallowUnknownFields()
	if decoder.Decode(&s) != nil || s.Version != deletionVersion {
		return Deletion{}, false
	}
	return Deletion{Tenant: tenant, ID: id, GroupID: s.GroupID, Offsets: s.Offsets, Since: s.Since, Revision: revision}, true
}

// BeginDelete takes a webhook out of the registry, also one that cannot be read, and
// leaves a Deletion in its place until Delete. If there is one already, that is the
// answer; offsets that shall go are added to it. Errors are ErrNotFound,
// ErrNotLeader, ErrUnavailable and ctx's own.
func (r *Registry) BeginDelete(ctx context.Context, tenant, id string, offsets bool) (Deletion, error) {
	recordKey := key(tenant, id)
	done := r.change(ctx, recordKey, func(current Entry, err error) (verdict, error) {
		d := Deletion{Tenant: tenant, ID: id, GroupID: current.Webhook.GroupID, Offsets: offsets, Since: now()}
		switch {
		case errors.Is(err, ErrDeleting):
			before, _ := r.Deletion(tenant, id)
			if before.Offsets || !offsets {
				return verdict{deletion: &before}, nil
			}
			d.GroupID, d.Since = before.GroupID, before.Since
		case errors.Is(err, ErrUnreadable):
			d.GroupID = r.groupAside(recordKey)
		case err != nil:
			return verdict{}, err
		}
		return verdict{write: true, deletion: &d}, nil
	})
	if done.err != nil {
		return Deletion{}, done.err
	}
	return *done.deletion, nil
}

// Delete removes for good what there is of a webhook, also one that cannot be read:
// the webhook, or the Deletion that BeginDelete has left. With a revision other than
// AnyRevision only the Deletion of that revision: if it is not there any more that is
// ErrNotFound, and ErrPrecondition if more was asked of it since. Other errors are
// ErrNotFound, ErrNotLeader, ErrUnavailable and ctx's own.
func (r *Registry) Delete(ctx context.Context, tenant, id string, revision int64) error {
	done := r.change(ctx, key(tenant, id), func(_ Entry, err error) (verdict, error) {
		switch deleting := errors.Is(err, ErrDeleting); {
		case errors.Is(err, ErrNotFound) && !deleting:
			return verdict{}, err
		case revision == AnyRevision:
		case !deleting:
			return verdict{}, fmt.Errorf("%w: another webhook is in its place", ErrNotFound)
		default:
			if d, _ := r.Deletion(tenant, id); d.Revision != revision {
				return verdict{}, ErrPrecondition
			}
		}
		return verdict{write: true, remove: true}, nil
	})
	return done.err
}

// groupAside is the group of a webhook that cannot be read, "" if it is not known.
func (r *Registry) groupAside(recordKey string) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.aside[recordKey].group
}

// Deletion returns the deletion that is under way of a webhook.
func (r *Registry) Deletion(tenant, id string) (d Deletion, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	d, ok = r.deletions[key(tenant, id)]
	return d, ok
}

// Deletions are all that are under way, of all tenants, the oldest first; none
// before the registry is ready.
func (r *Registry) Deletions() []Deletion {
	if !r.isReady() {
		return nil
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]Deletion, 0, len(r.deletions))
	for _, d := range r.deletions {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b Deletion) int { return a.Since.Compare(b.Since) })
	return all
}

// Leads tells whether changes are taken by this process, as far as it knows.
func (r *Registry) Leads() bool { return r.leading.Load() != nil }
