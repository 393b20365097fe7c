package gatewaytest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// Broker is an embedded broker that a test makes fail. It notes every commit that
// is asked of it. Methods may be called concurrently; see [kfake.Cluster.Fault]
// for requests that are to be answered with an error.
type Broker struct {
	*kfake.Cluster

	mu      sync.Mutex
	commits []CommitRequest
}

// CommitRequest is a commit as it was asked of the broker, whatever the broker
// then made of it, with what the broker knew of the group at that moment.
type CommitRequest struct {
	Group, Member string
	Generation    int32 // -1: the sender does not claim to be a member
	Offsets       map[Partition]int64

	Current   int32                // generation of the group
	Members   map[string]bool      // of the group
	Owners    map[Partition]string // the member that each partition is assigned to
	Committed map[Partition]int64  // what the group had committed
}

// Accepted tells whether the broker's own fence lets the commit pass: it looks at
// the member and its generation, not at the partitions.
func (c *CommitRequest) Accepted() bool {
	if c.Generation < 0 {
		return len(c.Members) == 0
	}
	return c.Generation == c.Current && c.Members[c.Member]
}

// NewBroker starts a broker; it ends with the test.
func NewBroker(t testing.TB, options ...kfake.Opt) *Broker {
	t.Helper()
	options = append([]kfake.Opt{
		kfake.NumBrokers(1), kfake.AllowAutoTopicCreation(), kfake.GroupMinSessionTimeout(time.Second),
	}, options...)
	cluster, err := kfake.NewCluster(options...)
	if err != nil {
		t.Fatalf("starting the broker: %v", err)
	}
	t.Cleanup(cluster.Close)
	b := &Broker{Cluster: cluster}
	cluster.ControlKey(int16(kmsg.OffsetCommit), func(r kmsg.Request) (kmsg.Response, error, bool) {
		b.note(r.(*kmsg.OffsetCommitRequest))
		return nil, nil, false
	})
	return b
}

// Addr is the host:port that clients bootstrap from.
func (b *Broker) Addr() string { return b.ListenAddrs()[0] }

func (b *Broker) note(r *kmsg.OffsetCommitRequest) {
	c := CommitRequest{
		Group: r.Group, Member: r.MemberID, Generation: r.Generation,
		Offsets: map[Partition]int64{}, Committed: map[Partition]int64{},
		Members: map[string]bool{}, Owners: map[Partition]string{},
	}
	for _, t := range r.Topics {
		for _, p := range t.Partitions {
			c.Offsets[Partition{t.Topic, p.Partition}] = p.Offset
		}
	}
	if g := b.GroupInfo(r.Group); g != nil {
		c.Current = g.Epoch
		for p := range c.Offsets {
			c.Committed[p] = g.Commits[p.Topic][p.ID].Offset
		}
		for _, m := range g.Members {
			c.Members[m.MemberID] = true
			for topic, partitions := range m.Assignment {
				for _, p := range partitions {
					c.Owners[Partition{topic, p}] = m.MemberID
				}
			}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.commits = append(b.commits, c)
}

// CommitRequests are the commits asked for a group so far, in order.
func (b *Broker) CommitRequests(group string) []CommitRequest {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(b.commits), func(c CommitRequest) bool { return c.Group != group })
}

// CheckCommits fails the test if a commit was asked for that may move what is not
// its sender's: of a partition that another member held at that moment though the
// broker would let it pass, without a generation, or to a lower offset. The
// commits before from, such as that which pins the start, are not looked at.
func (b *Broker) CheckCommits(t testing.TB, group string, from int) {
	t.Helper()
	for n, c := range b.CommitRequests(group) {
		if n < from {
			continue
		}
		for p, offset := range c.Offsets {
			switch owner := c.Owners[p]; {
			case c.Generation < 0:
				t.Errorf("commit %d of %s at %d has generation %d", n, p, offset, c.Generation)
			case c.Accepted() && owner != "" && owner != c.Member:
				t.Errorf("commit %d of %s at %d is by %s in generation %d, which belongs to %s", n, p, offset, c.Member, c.Generation, owner)
			case c.Accepted() && offset < c.Committed[p]:
				t.Errorf("commit %d of %s goes down from %d to %d", n, p, c.Committed[p], offset)
			}
		}
	}
}

// Expel takes all members out of a group without telling them, as a coordinator
// does that has not heard from them.
func (b *Broker) Expel(t testing.TB, group string) {
	t.Helper()
	g := b.GroupInfo(group)
	if g == nil {
		t.Fatalf("there is no group %s", group)
	}
	for _, m := range g.Members {
		r := kmsg.NewPtrLeaveGroupRequest()
		r.Group, r.MemberID = group, m.MemberID
		one := kmsg.NewLeaveGroupRequestMember()
		one.MemberID = m.MemberID
		r.Members = append(r.Members, one)
		if _, err := r.RequestWith(t.Context(), b.plainClient(t)); err != nil {
			t.Fatalf("taking %s out of group %s: %v", m.MemberID, group, err)
		}
	}
}

// plainClient asks what it is told to, in versions that name topics.
func (b *Broker) plainClient(t testing.TB) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()), kgo.MaxVersions(kversion.V3_0_0()))
	if err != nil {
		t.Fatalf("connecting to the broker: %v", err)
	}
	t.Cleanup(client.Close)
	return client
}

// errCut makes the broker close the connection instead of answering.
var errCut = errors.New("cut")

// LoseAnswer has the next commit of a group carried out and its answer lost: the
// connection is cut instead. It returns a count of commits that it happened to.
func (b *Broker) LoseAnswer(t testing.TB, group string) (lost func() int) {
	t.Helper()
	client := b.plainClient(t)
	var begun atomic.Bool
	var done atomic.Int64
	b.ControlKey(int16(kmsg.OffsetCommit), func(r kmsg.Request) (kmsg.Response, error, bool) {
		commit := r.(*kmsg.OffsetCommitRequest)
		if commit.Group != group || begun.Swap(true) {
			return nil, nil, false
		}
		again := *commit
		b.SleepControl(func() {
			answer, err := again.RequestWith(context.Background(), client)
			if err == nil && len(answer.Topics) > 0 && answer.Topics[0].Partitions[0].ErrorCode == 0 {
				done.Add(1)
			}
		})
		return nil, errCut, true
	})
	return func() int { return int(done.Load()) }
}
