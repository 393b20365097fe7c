package groupmanager

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// A replica that is cut off from Kafka knows it after both of these at the latest.
const (
	healthInterval = 2 * time.Second // between two looks whether a broker answers
	healthTimeout  = 2 * time.Second
)

// health is whether and when a broker answered.
type health struct {
	answers atomic.Bool
	last    atomic.Pointer[time.Time] // of the latest answer; at first, of New
}

func (h *health) heard(at time.Time) { h.last.Store(&at) }

// leastAge is how long ago a broker answered when a replica counts as cut off. One
// that is not hears from it more often.
const leastAge = healthInterval + healthTimeout + time.Second

// cutOff tells whether what this replica has read may be out of date.
func (h *health) cutOff() bool { return !h.answers.Load() || time.Since(*h.last.Load()) >= leastAge }

// Ready returns nil, or why the gateway cannot serve.
func (m *Manager) Ready() error {
	if m.draining.Load() {
		return errors.New("draining")
	}
	select {
	case <-m.registry.Ready():
	default:
		return errors.New("the registry has not been read yet")
	}
	switch {
	case !m.health.answers.Load():
		return errors.New("no Kafka broker answers")
	case m.fenced():
		return errors.New("another process has the same kafka.group_instance_id")
	}
	return nil
}

// Age is how long ago a Kafka broker last answered, and with that how old what Get
// and List tell may be. It is a few seconds where all is well.
func (m *Manager) Age() time.Duration { return time.Since(*m.health.last.Load()) }

// watchHealth looks whether a broker answers; a failure is logged with growing pauses.
func (m *Manager) watchHealth(ctx context.Context) {
	quiet := healthInterval
	var next time.Time
	for {
		asked := time.Now()
		err := m.cluster.reachable(healthTimeout)
		if err == nil {
			m.health.heard(asked)
		}
		m.health.answers.Store(err == nil)
		switch now := time.Now(); {
		case err == nil && !next.IsZero():
			m.logger.Info("Kafka answers again")
			next, quiet = time.Time{}, healthInterval
		case err != nil && !now.Before(next):
			m.logger.Warn("no Kafka broker answers, will try again", "brokers", m.cfg.Kafka.Brokers, "error", err, "next_warning_in", quiet)
			next = now.Add(quiet)
			quiet = min(2*quiet, restartMax)
		}
		wait := healthInterval
		if err != nil {
			wait = time.Second
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}
