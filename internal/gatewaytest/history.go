package gatewaytest

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// offsetsTopic is where Kafka keeps groups and what they commit. The brokers of
// tests give it one partition, so that its log has one order.
const offsetsTopic = "__consumer_offsets"

// Commit is one commit of a group as the broker keeps it.
type Commit struct {
	Partition Partition
	Offset    int64
	Metadata  string
	At        time.Time // the broker's clock, whole milliseconds
	Place     int64     // in the broker's log of groups
}

// Generation is one state of a group as the broker keeps it: who was a member,
// and what each was assigned.
type Generation struct {
	Number  int32
	Members []Member // none: the group was empty
	At      time.Time
	Place   int64 // in the broker's log of groups
}

// Member is one member of a group in one generation.
type Member struct {
	ID       string
	Client   string // client.id, see Config.Client
	Instance string // group.instance.id, empty for a dynamic member
	Assigned []Partition
}

// owner is the member that was assigned a partition; nil for none.
func (g *Generation) owner(p Partition) *Member {
	for i := range g.Members {
		if slices.Contains(g.Members[i].Assigned, p) {
			return &g.Members[i]
		}
	}
	return nil
}

// member finds a member by its id; nil for none.
func (g *Generation) member(id string) *Member {
	for i := range g.Members {
		if g.Members[i].ID == id {
			return &g.Members[i]
		}
	}
	return nil
}

// History is everything the broker still holds of one group, in order.
type History struct {
	Commits     []Commit
	Generations []Generation
}

// Commits is every commit that Kafka still holds, by group, in order for each
// partition: Kafka's own truth, read from its log.
func (k *Kafka) Commits(t testing.TB) map[string][]Commit {
	t.Helper()
	out := map[string][]Commit{}
	for group, h := range k.Histories(t) {
		out[group] = h.Commits
	}
	return out
}

// History is what Kafka still holds of one group.
func (k *Kafka) History(t testing.TB, group string) History {
	t.Helper()
	return k.Histories(t)[group]
}

// Histories is what Kafka still holds of all groups: their commits, and, for those
// of the classic protocol, their generations.
func (k *Kafka) Histories(t testing.TB) map[string]History {
	t.Helper()
	out := map[string]History{}
	for _, r := range k.Read(t, offsetsTopic) {
		if len(r.Key) < 2 || r.Value == nil {
			continue
		}
		var (
			group string
			err   error
		)
		switch version := binary.BigEndian.Uint16(r.Key); version {
		case 0, 1:
			var c Commit
			if group, c, err = decodeCommit(r); err == nil {
				h := out[group]
				h.Commits = append(h.Commits, c)
				out[group] = h
			}
		case 2:
			var g Generation
			if group, g, err = decodeGeneration(r); err == nil {
				h := out[group]
				h.Generations = append(h.Generations, g)
				out[group] = h
			}
		}
		if err != nil {
			t.Fatalf("reading offset %d of %s: %v", r.Offset, offsetsTopic, err)
		}
	}
	return out
}

func decodeCommit(r *kgo.Record) (group string, c Commit, err error) {
	key, value := kmsg.NewOffsetCommitKey(), kmsg.NewOffsetCommitValue()
	if err := key.ReadFrom(r.Key); err != nil {
		return "", c, err
	}
	if err := value.ReadFrom(r.Value); err != nil {
		return "", c, err
	}
	return key.Group, Commit{
		Partition: Partition{key.Topic, key.Partition}, Offset: value.Offset, Metadata: value.Metadata,
		At: time.UnixMilli(value.CommitTimestamp), Place: r.Offset,
	}, nil
}

func decodeGeneration(r *kgo.Record) (group string, g Generation, err error) {
	key, value := kmsg.NewGroupMetadataKey(), kmsg.NewGroupMetadataValue()
	if err := key.ReadFrom(r.Key); err != nil {
		return "", g, err
	}
	if err := value.ReadFrom(r.Value); err != nil {
		return "", g, err
	}
	g = Generation{Number: value.Generation, At: r.Timestamp, Place: r.Offset}
	for _, m := range value.Members {
		member := Member{ID: m.MemberID, Client: m.ClientID}
		if m.InstanceID != nil {
			member.Instance = *m.InstanceID
		}
		if len(m.Assignment) > 0 { // else it has not been told yet
			assignment := kmsg.NewConsumerMemberAssignment()
			if err := assignment.ReadFrom(m.Assignment); err != nil {
				return "", g, err
			}
			for _, topic := range assignment.Topics {
				for _, p := range topic.Partitions {
					member.Assigned = append(member.Assigned, Partition{topic.Topic, p})
				}
			}
		}
		g.Members = append(g.Members, member)
	}
	return key.Group, g, nil
}
