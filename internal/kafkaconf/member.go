package kafkaconf

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// Members are the members that the gateways of one installation have in the groups
// of webhooks, by what they tell of themselves in their client.id:
// kpush-<installation>-<replica id>. Another installation's may be in the same
// group, and are none of its business.
type Members struct{ prefix string }

const (
	memberPrefix = "kpush-"
	// tagBytes of a hash of its registry's topic tell an installation from the others
	// on the cluster. Two on one topic are one.
	tagBytes = 4
)

// MembersOf are those of the installation whose registry is the topic.
func MembersOf(registryTopic string) Members {
	sum := sha256.Sum256([]byte(registryTopic))
	return Members{memberPrefix + hex.EncodeToString(sum[:tagBytes]) + "-"}
}

// ClientID is the client.id of a replica's members.
func (m Members) ClientID(replica string) string { return m.prefix + replica }

// Replica returns the id of the replica whose member bears a client.id; ours is
// false for a member of somebody else.
func (m Members) Replica(clientID string) (id string, ours bool) {
	return strings.CutPrefix(clientID, m.prefix)
}
