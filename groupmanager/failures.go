package groupmanager

import (
	"context"
	"sync"
	"time"

	"github.com/kpush/kpush/webhooks"
)

const (
	// failuresTimeout bounds what a look at a webhook waits for other replicas.
	failuresTimeout = time.Second

	// failuresTrusted is how long their answers are believed.
	failuresTrusted = time.Second
)

// Get returns a webhook with the state it is in now, on whichever replica.
func (m *Manager) Get(tenant, id string) (webhooks.Entry, error) {
	e, err := m.registry.Get(tenant, id)
	if err != nil {
		return e, err
	}
	return m.withFailures([]webhooks.Entry{e})[0], nil
}

// List returns all webhooks of a tenant, ordered by id, with the states they are in
// now, on whichever replica. webhooks.ErrUnavailable before the registry was read.
func (m *Manager) List(tenant string) ([]webhooks.Entry, error) {
	select {
	case <-m.registry.Ready():
		return m.withFailures(m.registry.List(tenant)), nil
	default:
		return nil, webhooks.ErrUnavailable
	}
}

// withFailures lays failures over stored actives: those of this replica, and where
// it has none, or only a receiver that is sick, those of the others, of which one is enough.
func (m *Manager) withFailures(entries []webhooks.Entry) []webhooks.Entry {
	var elsewhere []failures
	asked := false
	for i, e := range entries {
		e = m.withFailure(e)
		if e.Webhook.State == webhooks.Active || e.Webhook.State == webhooks.Degraded {
			if !asked {
				elsewhere, asked = m.failuresElsewhere(), true
			}
			for _, all := range elsewhere {
				e = failedFor(e, all[e.Webhook.Tenant][e.Webhook.ID])
			}
		}
		entries[i] = e
	}
	return entries
}

// withFailure lays a failure of this replica over a stored active.
func (m *Manager) withFailure(e webhooks.Entry) webhooks.Entry {
	if g := m.find(e.Webhook.Tenant, e.Webhook.ID); g != nil && e.Webhook.State == webhooks.Active {
		return failedFor(e, g.failure())
	}
	return e
}

// failedFor lays a failure over an entry; an empty reason is none. A webhook that is
// degraded on one replica and fails on another has failed.
func failedFor(e webhooks.Entry, reason string) webhooks.Entry {
	switch {
	case reason == "":
	case !degrades(reason):
		e.Webhook.State, e.Webhook.StateReason = webhooks.Failed, &reason
	case e.Webhook.State == webhooks.Active:
		e.Webhook.State, e.Webhook.StateReason = webhooks.Degraded, &reason
	}
	return e
}

// failures are the reasons why webhooks cannot run, or are degraded, by tenant and id.
type failures map[string]map[string]string

// ownFailures are those of this replica.
func (m *Manager) ownFailures() failures {
	all := failures{}
	for _, g := range m.all() {
		reason := g.failure()
		if reason == "" {
			continue
		}
		w := g.webhook()
		if all[w.Tenant] == nil {
			all[w.Tenant] = map[string]string{}
		}
		all[w.Tenant][w.ID] = reason
	}
	return all
}

// failingElsewhere remembers for a moment what fails at other replicas. The zero
// value is ready. Safe for concurrent use.
type failingElsewhere struct {
	mu   sync.Mutex
	at   time.Time     // of the latest question
	done chan struct{} // closed when it is answered
	all  []failures    // complete when done is closed
}

// failuresElsewhere are what other replicas answered a moment ago at most. Who does
// not answer has none, as far as it is known.
func (m *Manager) failuresElsewhere() []failures {
	f := &m.failing
	f.mu.Lock()
	if time.Since(f.at) > failuresTrusted {
		done := make(chan struct{})
		f.at, f.done = time.Now(), done
		f.mu.Unlock()
		all := m.askFailures()
		f.mu.Lock()
		if f.done == done {
			f.all = all
		}
		f.mu.Unlock()
		close(done)
		return all
	}
	done := f.done
	f.mu.Unlock()
	<-done // failuresTimeout bounds it
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all
}

func (m *Manager) askFailures() []failures {
	ctx, cancel := context.WithTimeout(context.Background(), failuresTimeout)
	defer cancel()
	others, err := m.others(ctx)
	if err != nil {
		m.logger.Debug("failures at other replicas are not shown", "error", err)
	}
	answers := make([]failures, len(others))
	var asking sync.WaitGroup
	for i, peer := range others {
		asking.Go(func() {
			if err := m.peers.Call(ctx, peer, operationFailures, struct{}{}, &answers[i]); err != nil {
				m.logger.Debug("a replica does not tell of its failures", "replica", peer.ID, "error", err)
			}
		})
	}
	asking.Wait()
	return answers
}
