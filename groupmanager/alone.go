package groupmanager

import (
	"context"
	"fmt"

	"github.com/kpush/kpush/replica"
)

// alone is the Peers of a process that has none: it leads always.
type alone struct{ self replica.Peer }

func (a alone) Self() replica.Peer { return a.self }

func (a alone) Leader(context.Context, bool) (replica.Peer, error) { return a.self, nil }

func (alone) Others(context.Context) ([]replica.Peer, error) { return nil, nil }

func (a alone) Find(_ context.Context, id string) (replica.Peer, error) {
	if id == a.self.ID {
		return a.self, nil
	}
	return replica.Peer{}, replica.ErrUnknownPeer
}

func (alone) Call(_ context.Context, _ replica.Peer, operation string, _, _ any) error {
	return fmt.Errorf("calling %s: %w", operation, replica.ErrUnknownPeer)
}

func (alone) Handle(string, func(context.Context, []byte) (any, error)) {}
