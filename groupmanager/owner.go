package groupmanager

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/internal/kafkaconf"
	"github.com/kpush/kpush/replica"
)

const (
	// ownersTrusted is how long the description of a group is believed.
	ownersTrusted = time.Second

	// ownersFresh is how old a description may be that is asked for because an
	// older one was wrong: acks in a flood share it.
	ownersFresh = 100 * time.Millisecond
)

// groupState is a Kafka group as its coordinator describes it.
type groupState struct {
	members []groupMember
	// rebalancing: a classic group tells no assignments meanwhile, though members go
	// on with those they keep.
	rebalancing bool
}

// groupMember is a member of a Kafka group.
type groupMember struct {
	replica  string           // its replica id; empty for a member that is none of ours
	instance string           // its group.instance.id; empty for a dynamic member
	holds    []topicPartition // with an empty topic where the broker names none
}

// group describes a group of either protocol; one that does not exist has no members.
func (c *cluster) group(ctx context.Context, group string) (groupState, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	res, err := c.admin.DescribeConsumerGroups(ctx, []string{group}, kafka.SetAdminRequestTimeout(kafkaconf.CoordinatorTimeout))
	if err != nil {
		return groupState{}, fmt.Errorf("describing group %q: %w", group, err)
	}
	var state groupState
	for _, g := range res.ConsumerGroupDescriptions {
		switch g.Error.Code() {
		case kafka.ErrNoError, kafka.ErrGroupIDNotFound:
		default:
			return groupState{}, fmt.Errorf("describing group %q: %w", group, g.Error)
		}
		state.rebalancing = g.State == kafka.ConsumerGroupStatePreparingRebalance || g.State == kafka.ConsumerGroupStateCompletingRebalance
		for _, m := range g.Members {
			state.members = append(state.members, c.memberOf(m))
		}
	}
	return state, nil
}

func (c *cluster) memberOf(m kafka.MemberDescription) groupMember {
	member := groupMember{instance: m.GroupInstanceID}
	if id, ours := c.ours.Replica(m.ClientID); ours {
		member.replica = id
	}
	for _, tp := range m.Assignment.TopicPartitions {
		at := topicPartition{partition: tp.Partition}
		if tp.Topic != nil {
			at.topic = *tp.Topic
		}
		member.holds = append(member.holds, at)
	}
	return member
}

// members are those of a group.
func (c *cluster) members(ctx context.Context, group string) ([]groupMember, error) {
	state, err := c.group(ctx, group)
	return state.members, err
}

// group describes a group, its static members as the replicas that they are now: of
// one that came back within its session under another replica id, a classic
// coordinator keeps the client.id it had before.
func (m *Manager) group(ctx context.Context, group string) (groupState, error) {
	state, err := m.cluster.group(ctx, group)
	static := func(member groupMember) bool { return member.instance != "" }
	if err != nil || !slices.ContainsFunc(state.members, static) {
		return state, err
	}
	others, err := m.others(ctx)
	if err != nil {
		return groupState{}, err
	}
	rename(state.members, append(others, m.peers.Self()))
	return state, nil
}

// rename gives members that are known by an instance id the replica id of the live
// replica that has it.
func rename(members []groupMember, live []replica.Peer) {
	for i := range members {
		for _, p := range live {
			if p.Instance != "" && p.Instance == members[i].instance {
				members[i].replica = p.ID
			}
		}
	}
}

// ownership is who holds the partitions of a group, as Kafka described it.
type ownership struct {
	holders map[topicPartition]string // replica ids; empty for others than ours
	// vague: somebody may hold a partition that holders does not have. The group
	// rebalances; or the broker names no topics, as the embedded one for KIP-848.
	vague bool
}

func ownershipOf(g groupState) ownership {
	o := ownership{holders: make(map[topicPartition]string), vague: g.rebalancing}
	for _, m := range g.members {
		for _, tp := range m.holds {
			o.vague = o.vague || tp.topic == ""
			o.holders[tp] = m.replica
		}
	}
	return o
}

// owners remembers for a moment who holds the partitions of groups. The zero value
// is ready. Safe for concurrent use.
type owners struct {
	mu     sync.Mutex
	groups map[string]*described
}

// described is one description of a group; done is closed when the rest is there.
type described struct {
	done chan struct{}
	ownership
	err error
	at  time.Time // of the question
}

// look returns who holds the partitions of a group, as it was no longer ago than
// that. Who comes while it is being asked shares the answer.
func (o *owners) look(ctx context.Context, group string, age time.Duration, ask func(context.Context, string) (groupState, error)) (ownership, error) {
	now := time.Now()
	o.mu.Lock()
	d := o.groups[group]
	if d == nil || now.Sub(d.at) > age {
		d = &described{done: make(chan struct{}), at: now}
		o.forget(now)
		o.groups[group] = d
		o.mu.Unlock()
		state, err := ask(ctx, group)
		d.ownership, d.err = ownershipOf(state), err
		close(d.done)
		return d.ownership, d.err
	}
	o.mu.Unlock()
	select {
	case <-d.done:
		return d.ownership, d.err
	case <-ctx.Done():
		return ownership{}, ctx.Err()
	}
}

// forget drops what is too old, so that deleted webhooks leave nothing. o.mu is held.
func (o *owners) forget(now time.Time) {
	if o.groups == nil {
		o.groups = make(map[string]*described)
	}
	for group, d := range o.groups {
		if now.Sub(d.at) > ownersTrusted {
			delete(o.groups, group)
		}
	}
}

// ownersOf returns the replicas that may hold a partition of a group, without this
// one: its owner, by Kafka's description, or all while that does not tell. Nobody,
// when it is between owners or somebody else's.
func (m *Manager) ownersOf(ctx context.Context, group string, tp topicPartition, age time.Duration) ([]replica.Peer, error) {
	o, err := m.owners.look(ctx, group, age, m.group)
	if err != nil {
		return nil, err
	}
	id, told := o.holders[tp]
	switch {
	case !told && o.vague:
		return m.others(ctx)
	case id == "" || id == m.peers.Self().ID:
		return nil, nil
	}
	peer, err := m.peers.Find(ctx, id)
	if errors.Is(err, replica.ErrUnknownPeer) {
		return nil, nil
	}
	return []replica.Peer{peer}, err
}
