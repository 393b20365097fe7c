package groupmanager

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/kpush/kpush/replica"
)

// ErrReplaced says that another replica runs with this one's
// kafka.group_instance_id. Kafka lets only the one that joined last take part in a
// webhook's group.
var ErrReplaced = errors.New("another process has this one's kafka.group_instance_id: give each replica one of its own")

// replacedInterval is how often a replica that was fenced looks for the one that
// has its instance id.
const replacedInterval = time.Second

// watchReplaced ends the Manager with ErrReplaced when a group of it was fenced and
// a live replica bears its instance id. Without such a replica it was somebody else
// in one group, which is that webhook's trouble alone: its group waits.
//
// Two that start at the same time may fence each other, in different groups. Then
// one of them ends, and the other takes up again what it has lost.
func (m *Manager) watchReplaced(ctx context.Context, end context.CancelCauseFunc) {
	self := m.peers.Self()
	if self.Instance == "" {
		return
	}
	tick := time.NewTicker(replacedInterval)
	defer tick.Stop()
	seen := false
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !m.fenced() {
			continue
		}
		others, err := m.others(ctx)
		if err != nil {
			m.logger.Debug("who has this replica's kafka.group_instance_id is not known", "error", err)
			continue
		}
		at := slices.IndexFunc(others, func(p replica.Peer) bool { return p.Instance == self.Instance })
		switch {
		case at >= 0 && m.yields(ctx, others[at]):
			m.logger.Error("another process has this one's kafka.group_instance_id, and this one ends",
				"instance_id", self.Instance, "replica", others[at].ID, "url", others[at].URL)
			end(ErrReplaced)
			return
		case at >= 0:
			seen = true
		case seen:
			seen = false
			for _, g := range m.all() {
				if g.failure() == reasonFenced {
					g.again()
				}
			}
		}
	}
}

// fenced tells whether another process has taken this one's place in a group.
func (m *Manager) fenced() bool {
	return slices.ContainsFunc(m.all(), func(g *group) bool { return g.failure() == reasonFenced })
}

// yields tells which of two replicas with one instance id ends: the one that was
// fenced, and if both were, the lesser by id and address.
func (m *Manager) yields(ctx context.Context, rival replica.Peer) bool {
	var theirs failures
	if err := m.peers.Call(ctx, rival, operationFailures, struct{}{}, &theirs); err != nil {
		return ctx.Err() == nil
	}
	for _, byID := range theirs {
		for _, reason := range byID {
			if reason == reasonFenced {
				self := m.peers.Self()
				return self.ID < rival.ID || self.ID == rival.ID && self.URL < rival.URL
			}
		}
	}
	return true
}
