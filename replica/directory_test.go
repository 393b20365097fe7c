package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// group is a control group as a test wants it described.
type group struct {
	mu      sync.Mutex
	members []kafka.MemberDescription
	err     error
	takes   time.Duration
	asked   int
}

func (g *group) set(err error, members ...kafka.MemberDescription) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err, g.members = err, members
}

func (g *group) describe() (kafka.ConsumerGroupDescription, error) {
	time.Sleep(g.takes)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked++
	return kafka.ConsumerGroupDescription{Members: g.members}, g.err
}

// count is how often it was asked.
func (g *group) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked
}

var registryTopic = "registry"

func owner(m kafka.MemberDescription) kafka.MemberDescription {
	m.Assignment.TopicPartitions = []kafka.TopicPartition{{Topic: &registryTopic, Partition: 0}}
	return m
}

func described(p Peer) kafka.MemberDescription {
	return kafka.MemberDescription{ClientID: p.clientID(), Host: "/10.0.0.1"}
}

var peerA, peerB, peerC = Peer{ID: "a", URL: "http://a:1"}, Peer{ID: "b", URL: "http://b:1"}, Peer{ID: "c", URL: "http://c:1"}

// inBubble runs a test with replica a, whose directory asks g, on a clock of its own.
func inBubble(t *testing.T, g *group, test func(t *testing.T, r *Replica)) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(t, Config{ID: peerA.ID, URL: peerA.URL})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			r.directory.answer(ctx, g.describe)
		}()
		synctest.Wait()
		test(t, r)
		cancel()
		<-ended
	})
}

func TestAllWhoAskShareOneQuestion(t *testing.T) {
	g := &group{takes: 100 * time.Millisecond, members: []kafka.MemberDescription{described(peerA), owner(described(peerB))}}
	inBubble(t, g, func(t *testing.T, r *Replica) {
		time.Sleep(5 * time.Second) // the look at the start is out of date
		before := g.count()
		var callers sync.WaitGroup
		for range 100 {
			callers.Go(func() {
				if p, err := r.Leader(t.Context(), false); err != nil || p != peerB {
					t.Errorf("Leader = %v, %v, want %v", p, err, peerB)
				}
			})
		}
		callers.Wait()
		if n := g.count() - before; n != 1 {
			t.Errorf("a hundred callers asked Kafka %d times, want once", n)
		}
		for range 10 {
			callers.Go(func() { r.Leader(t.Context(), true) })
		}
		callers.Wait()
		// The one who came first, and those who came while its question was under way.
		if n := g.count() - before - 1; n < 1 || n > 2 {
			t.Errorf("ten who wanted it fresh asked Kafka %d times, want once or twice", n)
		}
	})
}

func TestWhatIsTrustedForAMomentIsAskedAnewThen(t *testing.T) {
	g := &group{members: []kafka.MemberDescription{described(peerA), owner(described(peerB))}}
	inBubble(t, g, func(t *testing.T, r *Replica) {
		g.set(nil, described(peerA), described(peerB), owner(described(peerC)))
		if p, err := r.Leader(t.Context(), false); err != nil || p != peerB {
			t.Errorf("at once: %v, %v, want %v as it was a moment ago", p, err, peerB)
		}
		if p, err := r.Leader(t.Context(), true); err != nil || p != peerC {
			t.Errorf("asked anew: %v, %v, want %v", p, err, peerC)
		}
		g.set(nil, described(peerA), owner(described(peerB)), described(peerB)) // b was killed and is back
		time.Sleep(trusted + time.Millisecond)
		if p, err := r.Leader(t.Context(), false); err != nil || p != peerB {
			t.Errorf("after %v: %v, %v, want %v", trusted, p, err, peerB)
		}
		others, err := r.Others(t.Context())
		if err != nil || len(others) != 1 || others[0] != peerB {
			t.Errorf("Others = %v, %v, want b alone, and once", others, err)
		}
	})
}

// A broker that is away costs one caller the timeout, not each of them.
func TestAFailureIsRememberedForAMoment(t *testing.T) {
	g := &group{takes: describeTimeout, err: errors.New("timed out")}
	inBubble(t, g, func(t *testing.T, r *Replica) {
		time.Sleep(describeTimeout + 2*failureTrusted)
		began, before := time.Now(), g.count()
		var callers sync.WaitGroup
		for range 50 {
			callers.Go(func() {
				if _, err := r.Leader(t.Context(), true); !errors.Is(err, ErrNoLeader) {
					t.Errorf("Leader: %v, want ErrNoLeader", err)
				}
			})
		}
		callers.Wait()
		if n, took := g.count()-before, time.Since(began); n != 1 || took != describeTimeout {
			t.Errorf("50 callers asked %d times and waited %v, want once and %v", n, took, describeTimeout)
		}
		if _, err := r.Others(t.Context()); err == nil || time.Since(began) != describeTimeout {
			t.Errorf("the next one waited again, or was told that nobody is there: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		time.Sleep(2 * failureTrusted)
		if _, err := r.Leader(ctx, false); !errors.Is(err, ErrNoLeader) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Leader with a context of a second: %v, want ErrNoLeader and the context's", err)
		}
	})
}

func TestAReplicaThatLeftIsFoundForAWhile(t *testing.T) {
	g := &group{members: []kafka.MemberDescription{owner(described(peerA)), described(peerB)}}
	inBubble(t, g, func(t *testing.T, r *Replica) {
		g.set(nil, owner(described(peerA)))
		time.Sleep(remembered - 2*glance)
		if p, err := r.Find(t.Context(), "b"); err != nil || p != peerB {
			t.Errorf("Find(b) = %v, %v, want it remembered", p, err)
		}
		if others, err := r.Others(t.Context()); err != nil || len(others) != 0 {
			t.Errorf("Others = %v, %v, want none", others, err)
		}
		g.set(errors.New("away"))
		time.Sleep(glance)
		if p, err := r.Find(t.Context(), "b"); err != nil || p != peerB {
			t.Errorf("Find(b) = %v, %v while Kafka is away, want it remembered", p, err)
		}
		time.Sleep(2 * glance)
		if p, err := r.Find(t.Context(), "b"); !errors.Is(err, ErrUnknownPeer) {
			t.Errorf("Find(b) = %v, %v, want ErrUnknownPeer", p, err)
		}
		g.set(nil, owner(described(peerA)), described(Peer{ID: "b", URL: "http://elsewhere:1"}))
		time.Sleep(2 * time.Second)
		if p, err := r.Find(t.Context(), "b"); err != nil || p.URL != "http://elsewhere:1" {
			t.Errorf("Find(b) = %v, %v, want it where it is now", p, err)
		}
	})
}

func TestAReplicaThatHasJustComeIsFound(t *testing.T) {
	g := &group{members: []kafka.MemberDescription{described(peerA)}}
	inBubble(t, g, func(t *testing.T, r *Replica) {
		g.set(nil, described(peerA), described(peerC))
		if p, err := r.Find(t.Context(), "c"); err != nil || p != peerC {
			t.Errorf("Find(c) = %v, %v, want %v", p, err, peerC)
		}
		if _, err := r.Find(t.Context(), "d"); !errors.Is(err, ErrUnknownPeer) {
			t.Errorf("Find(d): %v, want ErrUnknownPeer", err)
		}
		if p, err := r.Find(t.Context(), "a"); err != nil || p != peerA {
			t.Errorf("Find(a) = %v, %v, want itself", p, err)
		}
	})
}

// After a crash the former process of this replica is in the group until its
// session runs out. That this one does not lead, it knows itself.
func TestAFormerProcessOfThisReplicaDoesNotMakeItTheLeader(t *testing.T) {
	g := &group{members: []kafka.MemberDescription{owner(described(peerA)), described(peerA)}}
	inBubble(t, g, func(t *testing.T, r *Replica) {
		if p, err := r.Leader(t.Context(), true); !errors.Is(err, ErrNoLeader) {
			t.Errorf("Leader = %v, %v, want ErrNoLeader", p, err)
		}
		if others, err := r.Others(t.Context()); err != nil || len(others) != 0 {
			t.Errorf("Others = %v, %v, want none", others, err)
		}
		r.leads.Store(true)
		for _, fresh := range []bool{false, true} {
			if p, err := r.Leader(t.Context(), fresh); err != nil || p != peerA {
				t.Errorf("Leader(fresh %v) = %v, %v, want itself", fresh, p, err)
			}
		}
	})
}

func TestALeaderIsFoundDuringARebalance(t *testing.T) {
	g := &group{members: []kafka.MemberDescription{described(peerA), described(peerB)}} // no owners are told then
	inBubble(t, g, func(t *testing.T, r *Replica) {
		r.leads.Store(true)
		if p, err := r.Leader(t.Context(), true); err != nil || p != peerA {
			t.Errorf("Leader = %v, %v, want itself, which has not been told otherwise", p, err)
		}
		g.set(nil, described(peerA), owner(described(peerB)))
		if p, err := r.Leader(t.Context(), true); err != nil || p != peerB {
			t.Errorf("Leader = %v, %v, want the one that Kafka tells", p, err)
		}
	})
}

func TestForeignMembersAreIgnoredWithOneWarning(t *testing.T) {
	var log bytes.Buffer
	g := &group{members: []kafka.MemberDescription{described(peerB), owner(kafka.MemberDescription{ClientID: "rdkafka"}), {ClientID: "kpush-x"}}}
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(t, Config{ID: peerA.ID, URL: peerA.URL, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		go r.directory.answer(ctx, g.describe)
		synctest.Wait()
		for range 5 {
			if p, err := r.Leader(t.Context(), true); !errors.Is(err, ErrNoLeader) {
				t.Errorf("Leader = %v, %v, want ErrNoLeader", p, err)
			}
		}
		others, err := r.Others(t.Context())
		if err != nil || fmt.Sprint(others) != fmt.Sprint([]Peer{peerB}) {
			t.Errorf("Others = %v, %v, want b alone", others, err)
		}
		cancel()
	})
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings, want one:\n%s", n, &log)
	}
}

func TestNobodyIsFoundBeforeTheReplicaRuns(t *testing.T) {
	r := newReplica(t, Config{ID: peerA.ID, URL: peerA.URL})
	if _, err := r.Leader(t.Context(), false); !errors.Is(err, ErrNoLeader) {
		t.Errorf("Leader: %v, want ErrNoLeader at once", err)
	}
	if _, err := r.Find(t.Context(), "b"); !errors.Is(err, ErrUnknownPeer) {
		t.Errorf("Find: %v, want ErrUnknownPeer at once", err)
	}
	if _, err := r.Others(t.Context()); err == nil {
		t.Error("Others: no error, want one: who else is there is not known")
	}
}
