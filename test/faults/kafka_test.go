package faults

import (
	"context"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/internal/kafkanode"
)

// longSession has members outlive an election among the brokers, which takes up
// to a short session by itself.
func longSession(c *gatewaytest.Config) {
	c.Properties["session.timeout.ms"], c.Properties["heartbeat.interval.ms"] = "30000", "3000"
	c.Properties["max.poll.interval.ms"] = "60000"
}

// clusterPatience bounds what a cluster takes to be whole again.
const clusterPatience = 4 * time.Minute

// mend starts a node again and waits until the cluster is whole.
func mend(t *testing.T, c *kafkanode.Cluster, node *kafkanode.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), clusterPatience)
	defer cancel()
	start := time.Now()
	node.Shutdown()
	ended := time.Since(start)
	if err := node.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	back := time.Since(start)
	if err := c.AwaitInSync(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("node %d ended after %v, was back after %v, in sync after %v", node.ID(), ended, back, time.Since(start))
}

// coordinatorOf is the node that coordinates the groups now.
func coordinatorOf(t *testing.T, c *kafkanode.Cluster) *kafkanode.Node {
	t.Helper()
	node, err := c.Coordinator(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return node
}

func TestK1_LeaderKilled(t *testing.T) {
	c, _ := clusterOf(t)
	f := underLoad(t, c.Brokers(), lively)
	f.known.Clean = true
	calm := f.generation(t)
	coordinator := coordinatorOf(t, c)
	var struck *kafkanode.Node
	for p := range int32(partitions) {
		leader, err := c.Leader(t.Context(), f.topic, p)
		if err != nil {
			t.Fatal(err)
		}
		if leader != coordinator {
			struck = leader
		}
	}
	struck.Kill()
	pass(t, 8*time.Second)
	mend(t, c, struck)
	report := f.finish(t)
	t.Logf("longest gap %v", report.Gap.Length)
	f.checkCalm(t, calm)
}

func TestK2_CoordinatorKilled(t *testing.T) {
	c, _ := clusterOf(t)
	f := underLoad(t, c.Brokers(), lively, longSession)
	f.known.Clean = true
	calm := f.generation(t)
	coordinator := coordinatorOf(t, c)
	coordinator.Kill()
	pass(t, 10*time.Second)
	if next := coordinatorOf(t, c); next == coordinator {
		t.Errorf("node %d still coordinates, though it is dead", next.ID())
	}
	mend(t, c, coordinator)
	f.finish(t)
	f.checkCalm(t, calm)
}

func TestK3_RollingBrokerBounce(t *testing.T) {
	c, _ := clusterOf(t)
	f := underLoad(t, c.Brokers(), lively, longSession)
	f.known.Clean = true
	calm := f.generation(t)
	for i := range c.Size() {
		mend(t, c, c.Node(i))
	}
	report := f.finish(t)
	t.Logf("longest gap %v", report.Gap.Length)
	f.checkCalm(t, calm)
}

// backlogged are settings and a receiver that leave enough fetched ahead to go on
// delivering for longer than a session.
var (
	backlogged = object{"batch": object{"max_records": 10}}
	plodding   = taking(100 * time.Millisecond)
)

// leaseSlack is how long after the end of a session a request may still arrive
// that was sent before.
const leaseSlack = 500 * time.Millisecond

// underBacklog is a field whose gateways have fetched ahead what takes them longer
// than a session.
func underBacklog(t *testing.T, f *field) {
	t.Helper()
	f.run(t, backlogged)
	pass(t, 3*time.Second)
}

// checkSilence checks that partitions got nothing from tenures that were there at a
// moment, once a session and a little more has passed since.
func (f *field) checkSilence(t *testing.T, silent []int32, since time.Time) {
	t.Helper()
	newest, after, last := map[int32]int32{}, 0, since
	for _, d := range f.receiver.Deliveries(f.id) {
		for _, p := range silent {
			switch {
			case d.Partition.ID != p:
			case d.Arrived.Before(since):
				newest[p] = max(newest[p], d.Generation)
			case d.Generation <= newest[p]:
				last = d.Arrived
				if d.Arrived.After(since.Add(session + leaseSlack)) {
					after++
				}
			}
		}
	}
	t.Logf("the last delivery of an old tenure came %v after the cut, %d of them after the lease", last.Sub(since).Round(time.Millisecond), after)
	if after > 0 {
		t.Errorf("%d deliveries of old tenures came later than %v, want none", after, session+leaseSlack)
	}
}

func TestK4_AllBrokersDown(t *testing.T) {
	const down = 20 * time.Second
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, plodding)
	underBacklog(t, f)
	node.Kill()
	killed := time.Now()
	for _, name := range names {
		f.known.Hard = append(f.known.Hard, gatewaytest.HardEnd{Client: f.configs[name].Client(), At: killed})
	}
	pass(t, down)
	f.checkSilence(t, []int32{0, 1, 2, 3, 4, 5}, killed)
	f.checkMemory(t)
	if err := node.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.receiver.SetScript(lively)
	f.known.Clean, f.known.Window = true, 1000
	f.finish(t)
}

func TestK5_CutFromAllBrokers(t *testing.T) {
	node, way := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, plodding)
	f.reachBy(t, "a", way.Addr())
	underBacklog(t, f)
	taken := f.members(t)["a"]
	way.Cut()
	cut := time.Now()
	f.known.Hard = append(f.known.Hard, gatewaytest.HardEnd{Client: f.configs["a"].Client(), At: cut})
	f.known.Clean, f.known.Window = true, 1000
	checkWithin(t, "take-over from an owner that is cut off", f.takenOver(t, taken, cut), takeOverKilled)
	pass(t, time.Until(cut.Add(2*session)))
	f.checkSilence(t, taken, cut)
	if err := f.gateways["a"].Ready(t.Context()); err == nil {
		t.Error("a gateway without any broker says that it is ready")
	}
	way.Heal()
	f.receiver.SetScript(lively)
	f.settle(t)
	f.finish(t)
}

// reachBy has one gateway come to the brokers by another way.
func (f *field) reachBy(t *testing.T, name, brokers string) {
	t.Helper()
	c := f.configs[name]
	c.Brokers = brokers
	f.configs[name] = c
}

func TestK6_CutFromTheCoordinator(t *testing.T) {
	for _, protocol := range []string{"classic", "consumer"} {
		t.Run(protocol, func(t *testing.T) {
			c, ways := clusterOf(t)
			f := newField(t, c.Brokers(), partitions, plodding, func(c *gatewaytest.Config) {
				if protocol == "consumer" {
					c.Env = append(c.Env, "KPUSH_KAFKA_GROUP_PROTOCOL=consumer")
					c.Properties = map[string]string{}
				}
			})
			f.epochs = protocol == "consumer"
			addresses := ""
			for _, way := range ways {
				addresses += "," + way.Addr()
			}
			f.reachBy(t, "a", addresses[1:])
			underBacklog(t, f)
			taken := f.members(t)["a"]
			ways[coordinatorOf(t, c).ID()-1].Cut()
			cut := time.Now()
			f.known.Hard = append(f.known.Hard, gatewaytest.HardEnd{Client: f.configs["a"].Client(), At: cut})
			checkWithin(t, "take-over from an owner that is cut off", f.takenOver(t, taken, cut), takeOverKilled+session)
			f.checkSilence(t, taken, cut)
			for _, way := range ways {
				way.Heal()
			}
			f.receiver.SetScript(lively)
			f.settle(t)
			f.finish(t)
		})
	}
}

func TestK11_LatestIsPinnedBeforeTheFirstCommit(t *testing.T) {
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, lively)
	f.kafka.ProduceLoad(t, new(gatewaytest.Produced), gatewaytest.Load{Topic: f.topic, Partitions: partitions, Records: 60, Size: recordSize})
	f.start(t, names...)
	f.register(t, object{"start": "latest"})
	for _, name := range names {
		f.kill(name) // before anything can have been assigned, or soon after
	}
	f.kafka.ProduceLoad(t, f.produced, gatewaytest.Load{Topic: f.topic, Partitions: partitions, Records: 120, Size: recordSize})
	f.start(t, names...)
	f.known.Start = map[gatewaytest.Partition]int64{}
	for p := range int32(partitions) {
		f.known.Start[gatewaytest.Partition{Topic: f.topic, ID: p}] = 10
	}
	f.awaitMore(t, 120)
	f.finish(t)
}
