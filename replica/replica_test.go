package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/kpush/kpush/internal/devbroker"
	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/internal/kafkaconf"
	"github.com/kpush/kpush/internal/kafkanode"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// node is the real Kafka of the tests, if there is Java.
var node kafkanode.Shared

// TestMain fails if anything that a replica started outlives it.
func TestMain(m *testing.M) {
	code := m.Run()
	node.Stop()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// onEachBroker runs a test on the embedded broker and on Apache Kafka.
func onEachBroker(t *testing.T, test func(t *testing.T, h *hall)) {
	t.Run("embedded", func(t *testing.T) { test(t, onEmbedded(t)) })
	t.Run("Apache Kafka", func(t *testing.T) { test(t, newHall(t, node.Node(t).Brokers())) })
}

func onEmbedded(t *testing.T) *hall {
	t.Helper()
	broker, err := devbroker.Start(devbroker.Options{Listen: "127.0.0.1:0", Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Close() })
	return newHall(t, broker.Addr())
}

// hall is where replicas meet: a registry topic of its own on a broker.
type hall struct {
	brokers, topic string
	kafka          *gatewaytest.Kafka
	leading        atomic.Int64 // calls of Lead that have not returned
	most           atomic.Int64 // of them at one time
}

func newHall(t *testing.T, brokers string) *hall {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()))
	h := &hall{brokers: brokers, topic: "registry-" + name[:min(len(name), 80)], kafka: gatewaytest.DialKafka(t, brokers)}
	h.kafka.CreateTopic(t, h.topic, 1)
	return h
}

// guest is a replica of a test.
type guest struct {
	*Replica
	stop func() error // ends Run and waits; returns its error
}

// enter runs a replica until stop, or the end of the test.
func (h *hall) enter(t *testing.T, id string, change ...func(*Config)) *guest {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	if os.Getenv("KPUSH_TEST_LOG") != "" {
		logger = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("replica", id)
	}
	server := httptest.NewUnstartedServer(nil)
	cfg := Config{
		Kafka: kafkaconf.Config{Brokers: []string{h.brokers}, Logger: logger, Properties: map[string]string{
			"session.timeout.ms": "6000", "heartbeat.interval.ms": "500", "max.poll.interval.ms": "10000",
		}},
		Topic: h.topic, ID: id, URL: "http://" + server.Listener.Addr().String(), Keys: testKeys, Logger: logger,
		Lead: h.lead,
	}
	for _, c := range change {
		c(&cfg)
	}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Handle("name", func(context.Context, []byte) (any, error) { return id, nil })
	server.Config.Handler = r
	server.Start()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	g := &guest{Replica: r, stop: sync.OnceValue(func() error {
		cancel()
		return <-ended
	})}
	t.Cleanup(func() {
		if err := g.stop(); err != nil {
			t.Errorf("replica %s ended with %v", id, err)
		}
		server.Close()
	})
	return g
}

// lead counts who leads.
func (h *hall) lead(ctx context.Context) error {
	n := h.leading.Add(1)
	defer h.leading.Add(-1)
	for most := h.most.Load(); n > most && !h.most.CompareAndSwap(most, n); most = h.most.Load() {
	}
	<-ctx.Done()
	return nil
}

// awaitLeader waits until all of them know the same leader, who is one of them, and
// returns it.
func awaitLeader(t *testing.T, guests ...*guest) *guest {
	t.Helper()
	var leader *guest
	gatewaytest.Await(t, patience, func() error {
		leader = nil
		for _, g := range guests {
			p, err := g.Leader(t.Context(), true)
			if err != nil {
				return fmt.Errorf("at %s: %w", g.Self().ID, err)
			}
			i := slices.IndexFunc(guests, func(o *guest) bool { return o.Self() == p })
			if i < 0 || leader != nil && leader != guests[i] {
				return fmt.Errorf("at %s %s leads", g.Self().ID, p.ID)
			}
			leader = guests[i]
		}
		return nil
	})
	return leader
}

// awaitOthers waits until g knows of exactly those.
func awaitOthers(t *testing.T, g *guest, others ...*guest) {
	t.Helper()
	var want []string
	for _, o := range others {
		want = append(want, o.Self().ID+"="+o.Self().URL)
	}
	slices.Sort(want)
	gatewaytest.Await(t, patience, func() error {
		peers, err := g.Others(t.Context())
		if err != nil {
			return err
		}
		var got []string
		for _, p := range peers {
			got = append(got, p.ID+"="+p.URL)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("%s knows of %q, want %q", g.Self().ID, got, want)
		}
		return nil
	})
}

func TestOneOfThreeLeadsAndAllFindEachOther(t *testing.T) {
	onEachBroker(t, func(t *testing.T, h *hall) {
		a := h.enter(t, "a")
		awaitLeader(t, a)
		b, c := h.enter(t, "b"), h.enter(t, "c")
		for _, x := range [][3]*guest{{a, b, c}, {b, a, c}, {c, a, b}} {
			awaitOthers(t, x[0], x[1], x[2])
			for _, other := range x[1:] {
				p, err := x[0].Find(t.Context(), other.Self().ID)
				if err != nil || p != other.Self() {
					t.Fatalf("%s finds %v, %v, want %v", x[0].Self().ID, p, err, other.Self())
				}
				var name string
				if err := x[0].Call(t.Context(), p, "name", nil, &name); err != nil || name != p.ID {
					t.Errorf("%s calls %s: %q, %v", x[0].Self().ID, p.ID, name, err)
				}
			}
		}
		// Who comes later does not take the leadership from the one that has it.
		if leader := awaitLeader(t, a, b, c); leader != a {
			t.Errorf("%s leads, want a, which was there first", leader.Self().ID)
		}
		if n := h.leading.Load(); n != 1 {
			t.Errorf("%d lead, want 1", n)
		}

		// The leadership moves when the leader stops, every time.
		for rest := []*guest{a, b, c}; len(rest) > 1; {
			former := awaitLeader(t, rest...)
			began := time.Now()
			if err := former.stop(); err != nil {
				t.Errorf("%s stopped with %v", former.Self().ID, err)
			}
			rest = slices.DeleteFunc(rest, func(g *guest) bool { return g == former })
			leader := awaitLeader(t, rest...)
			t.Logf("%s leads %v after %s was stopped", leader.Self().ID, time.Since(began), former.Self().ID)
			awaitOthers(t, leader, slices.DeleteFunc(slices.Clone(rest), func(g *guest) bool { return g == leader })...)
			if p, err := leader.Find(t.Context(), former.Self().ID); err != nil || p != former.Self() {
				t.Errorf("who left is found as %v, %v, want %v for a while", p, err, former.Self())
			}
		}
		if n := h.most.Load(); n != 1 {
			t.Errorf("up to %d led at one time, want 1", n)
		}
	})
}

// TestALeaderThatVanishesIsSucceeded lets nothing through of the signs of life of a
// leader, as if its machine had gone. It notices by itself that it leads no more.
func TestALeaderThatVanishesIsSucceeded(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	var vanished atomic.Bool
	cluster.ControlKey(int16(kmsg.Heartbeat), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if vanished.Load() && strings.HasPrefix(req.(*kmsg.HeartbeatRequest).MemberID, "kpush-a|") {
			return nil, errors.New("cut"), true
		}
		return nil, nil, false
	})
	h := newHall(t, cluster.ListenAddrs()[0])
	a := h.enter(t, "a")
	awaitLeader(t, a)
	b := h.enter(t, "b")
	awaitOthers(t, a, b)

	vanished.Store(true)
	began := time.Now()
	gatewaytest.Await(t, patience, func() error {
		if p, err := b.Leader(t.Context(), true); err != nil || p != b.Self() {
			return fmt.Errorf("%v leads, %v", p, err)
		}
		return nil
	})
	t.Logf("b leads %v after a vanished", time.Since(began))
	vanished.Store(false)
	// It comes back, and stands behind.
	awaitOthers(t, b, a)
	if leader := awaitLeader(t, a, b); leader != b {
		t.Errorf("%s leads, want b", leader.Self().ID)
	}
	gatewaytest.Await(t, patience, func() error {
		if n := h.leading.Load(); n != 1 {
			return fmt.Errorf("%d lead, want 1", n)
		}
		return nil
	})
}

func TestWhoLeavesLeadsNoMoreAndIsStillAnswered(t *testing.T) {
	h := onEmbedded(t)
	a, b := h.enter(t, "a"), h.enter(t, "b")
	awaitOthers(t, a, b)
	awaitOthers(t, b, a)
	leader := awaitLeader(t, a, b)
	other := map[*guest]*guest{a: b, b: a}[leader]
	leader.Leave()
	leader.Leave()
	gatewaytest.Await(t, patience, func() error {
		if p, err := leader.Leader(t.Context(), true); err != nil || p != other.Self() {
			return fmt.Errorf("to the one who left %v leads, %v", p, err)
		}
		return nil
	})
	for from, to := range map[*guest]*guest{leader: other, other: leader} {
		p, err := from.Find(t.Context(), to.Self().ID)
		if err == nil {
			err = from.Call(t.Context(), p, "name", nil, nil)
		}
		if err != nil {
			t.Errorf("%s calls %s: %v", from.Self().ID, to.Self().ID, err)
		}
	}
}

// Lead that fails is called again; one that does not end is left behind, so that
// another replica can lead.
func TestLeadIsCalledAgainAndHoldsNobodyUp(t *testing.T) {
	h := onEmbedded(t)
	var calls atomic.Int64
	release := make(chan struct{})
	a := h.enter(t, "a", func(c *Config) {
		c.Lead = func(ctx context.Context) error {
			if calls.Add(1) < 3 {
				return errors.New("not yet")
			}
			<-ctx.Done()
			<-release
			return nil
		}
	})
	gatewaytest.Await(t, patience, func() error {
		if n := calls.Load(); n != 3 {
			return fmt.Errorf("%d calls, want 3", n)
		}
		return nil
	})
	b := h.enter(t, "b")
	awaitOthers(t, a, b)
	a.Leave() // its Lead goes on
	gatewaytest.Await(t, patience, func() error {
		if p, err := b.Leader(t.Context(), true); err != nil || p != b.Self() {
			return fmt.Errorf("%v leads, %v", p, err)
		}
		return nil
	})
	close(release)
}

// A reign that begins while something of the one before is left behind waits for it.
func TestLeadIsNeverCalledTwiceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var leading atomic.Bool
		r := newReplica(t, Config{ID: peerA.ID, URL: peerA.URL, Lead: func(ctx context.Context) error {
			leading.Store(true)
			<-ctx.Done()
			return nil
		}})
		former, done := make(chan struct{}), make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go r.rule(ctx, done, former)
		synctest.Wait()
		if leading.Load() {
			t.Error("Lead was called while a former call went on")
		}
		close(former)
		synctest.Wait()
		if !leading.Load() {
			t.Error("Lead was not called after the former call had ended")
		}
		cancel()
		<-done
	})
}

// The control group stays a group without offsets, and nothing of the topic is
// fetched for it.
func TestNothingIsReadOrCommittedByWayOfTheControlGroup(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	var unwanted atomic.Int64
	for _, key := range []kmsg.Key{kmsg.Fetch, kmsg.OffsetCommit, kmsg.OffsetFetch, kmsg.ListOffsets} {
		cluster.ControlKey(int16(key), func(kmsg.Request) (kmsg.Response, error, bool) {
			cluster.KeepControl()
			unwanted.Add(1)
			return nil, nil, false
		})
	}
	h := newHall(t, cluster.ListenAddrs()[0])
	produced := &gatewaytest.Produced{}
	a := h.enter(t, "a")
	awaitLeader(t, a)
	h.kafka.ProduceLoad(t, produced, gatewaytest.Load{Topic: h.topic, Partitions: 1, Records: 100, Size: 20})
	b := h.enter(t, "b")
	awaitOthers(t, a, b)
	if leader := awaitLeader(t, a, b); leader != a {
		t.Errorf("%s leads, want a", leader.Self().ID)
	}
	a.stop()
	awaitLeader(t, b)
	b.stop()
	if n := unwanted.Load(); n != 0 {
		t.Errorf("%d requests were made for records or offsets, want none", n)
	}
}

// A static member of a classic group that comes back within its session keeps, for
// the coordinator, the client.id it had before, for as long as it lives. The table of
// peers is read from client.ids: so nobody is a static member of the control group.
func TestAReplicaWithAnInstanceIDThatComesBackIsFoundWhereItIsNow(t *testing.T) {
	onEachBroker(t, func(t *testing.T, h *hall) {
		long := func(c *Config) {
			c.Kafka.Properties = map[string]string{"session.timeout.ms": "30000", "heartbeat.interval.ms": "500"}
		}
		static := func(c *Config) {
			long(c)
			c.Kafka.InstanceID = "node-1"
		}
		a, b := h.enter(t, "a", long), h.enter(t, "b", static)
		awaitOthers(t, a, b)
		b.stop()
		again := h.enter(t, "b-again", static)
		awaitOthers(t, a, again)
		awaitOthers(t, again, a)
		awaitLeader(t, a, again)
		p, err := a.Find(t.Context(), "b-again")
		if err != nil || p != again.Self() || p.Instance != "node-1" {
			t.Fatalf("it is found as %+v, %v, want %+v", p, err, again.Self())
		}
		var name string
		if err := a.Call(t.Context(), p, "name", nil, &name); err != nil || name != "b-again" {
			t.Errorf("calling it: %q, %v", name, err)
		}
	})
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	lead := func(context.Context) error { return nil }
	good := Config{Topic: "t", ID: "a", URL: "http://a:1", Keys: testKeys, Lead: lead}
	for name, change := range map[string]func(*Config){
		"no topic": func(c *Config) { c.Topic = "" },
		"no id":    func(c *Config) { c.ID = "" },
		"no url":   func(c *Config) { c.URL = "" },
		"no keys":  func(c *Config) { c.Keys = nil },
		"no lead":  func(c *Config) { c.Lead = nil },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	good.URL += "/"
	r, err := New(good)
	if err != nil || r.Self().URL != "http://a:1" {
		t.Errorf("New: %v, %v, want http://a:1 without the slash", r, err)
	}
}
