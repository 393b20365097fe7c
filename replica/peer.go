// Package replica is this process among its like: the replicas that share one
// registry, which of them leads, and how one calls another.
//
// Replicas find each other by Kafka's own means. Each is a member of a control
// group on the registry's topic, and bears its id and address in its client.id.
// The member that owns the topic's one partition leads: it alone writes the
// registry.
package replica

import "errors"

// Peer is one replica, as the control group knows it.
type Peer struct {
	ID  string // replica.id
	URL string // replica.advertised_url: where other replicas reach it
}

// Errors of calls between replicas.
var (
	// ErrNoLeader says that the control group has no owner now, or that it could
	// not be asked. It is worth trying again in a moment.
	ErrNoLeader = errors.New("no replica leads now")

	// ErrUnknownPeer says that no live replica has that id.
	ErrUnknownPeer = errors.New("no live replica has that id")

	// ErrUnreachable says that a peer gave no answer of ours: whether it did what
	// it was asked to is not known.
	ErrUnreachable = errors.New("the replica could not be reached")
)

// Refusal is a peer's definite no: it did nothing of what it was asked to. Code is
// a word both sides know; Data says more, as JSON, where the code has more to say.
type Refusal struct {
	Code string
	Data []byte
}

func (r *Refusal) Error() string { return "the replica refused: " + r.Code }
