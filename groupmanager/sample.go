package groupmanager

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/kpush/kpush/webhooks/delivery"
)

const (
	// samplePause is how long a replica sends a webhook no second sample: whoever may
	// register a URL is not to have anybody flooded.
	samplePause = 5 * time.Second

	// sampleGrace is what is left of the caller's time to tell what came of a sample.
	sampleGrace = time.Second
)

// RateLimitedError says that something was asked for too often.
type RateLimitedError struct {
	After time.Duration // when to ask again
}

func (e *RateLimitedError) Error() string {
	return fmt.Sprintf("asked too often, again in %v", e.After)
}

// Test sends the receiver of a webhook one invented record, from here and whatever the
// webhook's state, in the way in which deliveries are sent. Nothing comes of the
// answer but the result. It is bounded by the webhook's request timeout and by ctx.
// Errors are those of webhooks.Registry.Get, *RateLimitedError, and ctx's own.
func (m *Manager) Test(ctx context.Context, tenant, id string) (delivery.Result, error) {
	e, err := m.registry.Get(tenant, id)
	if err != nil {
		return delivery.Result{}, err
	}
	end, err := m.samples.begin(keyOf(e.Webhook), time.Now())
	if err != nil {
		return delivery.Result{}, err
	}
	defer end()
	c, err := delivery.NewClient(m.clientConfig(e.Webhook, delivery.NewSigner(e)))
	if err != nil {
		return delivery.Result{}, fmt.Errorf("making a client for a sample: %w", err)
	}
	defer c.Close()
	limit := e.Webhook.Request.Timeout()
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)-sampleGrace)
	}
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	res := c.Sample(within, "dl_test"+strings.ToLower(rand.Text()), time.Now())
	switch {
	case ctx.Err() != nil:
		return delivery.Result{}, ctx.Err()
	case res.Code == delivery.CodeCanceled: // by within
		res.Code = delivery.CodeTimeout
	}
	return res, nil
}

// samples remembers which webhooks were sent one a short while ago. The zero value is
// ready for use.
type samples struct {
	mu   sync.Mutex
	free map[webhookKey]time.Time // when the next may be sent; zero while one is under way
}

// begin lets one sample be sent, until end is called, or returns a *RateLimitedError.
func (s *samples) begin(key webhookKey, now time.Time) (end func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other, at := range s.free {
		if !at.IsZero() && !now.Before(at) {
			delete(s.free, other)
		}
	}
	if at, busy := s.free[key]; busy {
		after := samplePause
		if !at.IsZero() {
			after = at.Sub(now)
		}
		return nil, &RateLimitedError{after}
	}
	if s.free == nil {
		s.free = make(map[webhookKey]time.Time)
	}
	s.free[key] = time.Time{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.free[key] = now.Add(samplePause)
	}, nil
}
