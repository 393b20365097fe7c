package groupmanager

import (
	"context"

	"github.com/kpush/kpush/replica"
)

// Peers is this replica among its like; *replica.Replica is one. All methods may
// be called concurrently.
type Peers interface {
	// Self is this replica.
	Self() replica.Peer

	// Leader is the replica that writes the registry, maybe this one.
	// replica.ErrNoLeader when there is none now. fresh asks Kafka anew instead
	// of believing what was true a moment ago.
	Leader(ctx context.Context, fresh bool) (replica.Peer, error)

	// Others are the live replicas besides this one.
	Others(ctx context.Context) ([]replica.Peer, error)

	// Find returns the replica of an id, also one that left the control group a
	// short while ago and may still be draining. replica.ErrUnknownPeer.
	Find(ctx context.Context, id string) (replica.Peer, error)

	// Call makes one authenticated request to a peer, without retry or redirect.
	// in and out are JSON; out may be nil. Errors are *replica.Refusal,
	// replica.ErrUnreachable, and ctx's own.
	Call(ctx context.Context, to replica.Peer, operation string, in, out any) error

	// Handle says what this replica does when a peer calls an operation. It is
	// called before the replica runs. An error that is a *replica.Refusal is told
	// to the caller as it is; any other is logged and told as "internal".
	Handle(operation string, do func(ctx context.Context, in []byte) (out any, err error))
}
