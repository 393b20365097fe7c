package faults

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/gatewaytest"
)

// object is a JSON object.
type object = map[string]any

// The load and the times that every fault meets unless it says otherwise.
const (
	partitions = 6
	replicas   = 3
	rate       = 2000 // records per second
	recordSize = 1024
	answerTime = 5 * time.Millisecond

	session = 6 * time.Second // of gatewaytest.NewConfig
)

// Bounds of what is measured.
const (
	// takeOverKilled is from the death of an owner to the first delivery by another.
	takeOverKilled = session + 2500*time.Millisecond

	// takeOverAsked is the same from SIGTERM on.
	takeOverAsked = 3 * time.Second

	// maxGap is the longest time a partition may get nothing while replicas come and go in order.
	maxGap = 5 * time.Second

	// window is how many records of one partition may come again after a kill: the
	// delivery under way, and what a lively receiver takes of a backlog until the next
	// commit is due and confirmed.
	window = batch + batch*int(150*time.Millisecond/answerTime)
	batch  = 100
)

// Patience with things that take no time when all is well.
const (
	soon  = 20 * time.Second
	later = 90 * time.Second
)

// lively answers as a receiver that works a little.
func lively(*gatewaytest.Delivery) gatewaytest.Answer { return gatewaytest.Answer{Delay: answerTime} }

// taking is a receiver that takes so long.
func taking(d time.Duration) gatewaytest.Script {
	return func(*gatewaytest.Delivery) gatewaytest.Answer { return gatewaytest.Answer{Delay: d} }
}

// field is what a fault strikes: one webhook on a topic, and the gateways that
// share its partitions.
type field struct {
	kafka    *gatewaytest.Kafka
	configs  map[string]gatewaytest.Config // by the gateway's name
	gateways map[string]*gatewaytest.Gateway
	launched []*gatewaytest.Gateway // all there ever were
	newest   string                 // the gateway started last
	receiver *gatewaytest.Receiver
	produced *gatewaytest.Produced
	flow     *gatewaytest.Flow // nil: nothing is being produced
	topic    string
	id       string
	group    string
	count    int32  // partitions
	spec     object // of the webhook, as it was registered
	epochs   bool   // the group is one of KIP-848, of which the broker keeps no generations

	// known is what the test knows beside the ledgers; finish adds those.
	known gatewaytest.Evidence
}

// names of the gateways that most faults need.
var names = []string{"a", "b", "c"}

// newField makes a topic, with no partitions none, and no gateway yet; change may
// alter how all of them will be started.
func newField(t *testing.T, brokers string, count int32, script gatewaytest.Script, change ...func(*gatewaytest.Config)) *field {
	t.Helper()
	f := &field{
		kafka:    gatewaytest.DialKafka(t, brokers),
		configs:  map[string]gatewaytest.Config{},
		gateways: map[string]*gatewaytest.Gateway{},
		receiver: gatewaytest.NewReceiver(t, script),
		produced: new(gatewaytest.Produced),
		topic:    gatewaytest.Name(t),
		id:       gatewaytest.Name(t),
		count:    count,
	}
	base := gatewaytest.NewConfig(t, brokers)
	for _, c := range change {
		c(&base)
	}
	for _, name := range names {
		f.configs[name] = base.Replica(t, name)
	}
	if count > 0 {
		f.kafka.CreateTopic(t, f.topic, count)
	}
	return f
}

// underLoad is a field on which everything runs: three gateways share a webhook's
// partitions, and records come at the usual rate.
func underLoad(t *testing.T, brokers string, script gatewaytest.Script, change ...func(*gatewaytest.Config)) *field {
	t.Helper()
	f := newField(t, brokers, partitions, script, change...)
	f.run(t, nil)
	return f
}

// run starts all gateways, registers the webhook with some fields, and begins the load.
func (f *field) run(t *testing.T, fields object) {
	t.Helper()
	f.start(t, names...)
	f.register(t, fields)
	f.produce(t)
	f.settle(t)
}

// start runs gateways, all at once, and waits until they are ready.
func (f *field) start(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		f.launch(t, name)
	}
	for _, name := range names {
		f.gateways[name].AwaitReady(t)
	}
}

// launch runs a gateway and does not wait.
func (f *field) launch(t *testing.T, name string) {
	t.Helper()
	f.gateways[name] = gatewaytest.LaunchGateway(t, f.configs[name])
	f.launched = append(f.launched, f.gateways[name])
	f.newest = name
}

// api is the API of the gateway that was started last.
func (f *field) api() *gatewaytest.API { return f.gateways[f.newest].API }

// register creates the webhook on its topic, from the earliest record on; fields
// are those that differ from the defaults.
func (f *field) register(t *testing.T, fields object) {
	t.Helper()
	f.spec = object{"url": f.receiver.URL(f.id), "topics": []string{f.topic}, "start": "earliest"}
	maps.Copy(f.spec, fields)
	webhook := f.api().Register(t, f.id, f.spec)
	f.receiver.Verify(t, f.id, webhook.Secret)
	f.group = webhook.GroupID
}

// update changes fields of the webhook.
func (f *field) update(t *testing.T, fields object) {
	t.Helper()
	maps.Copy(f.spec, fields)
	f.api().Must(t, http.StatusOK, http.MethodPut, "/v1/webhooks/"+f.id, f.spec)
}

// produce begins the usual load.
func (f *field) produce(t *testing.T) {
	t.Helper()
	f.flow = f.kafka.StartLoad(t, f.produced, gatewaytest.Load{Topic: f.topic, Partitions: f.count, Size: recordSize, Rate: rate})
}

// members are the partitions of each member of the group, by the gateway's name.
// Empty while the group is not stable.
func (f *field) members(t *testing.T) map[string][]int32 {
	t.Helper()
	out := map[string][]int32{}
	if f.epochs {
		described, err := f.kafka.Admin().DescribeConsumerGroups(t.Context(), f.group)
		if group := described[f.group]; err == nil && group.State == "Stable" {
			for _, m := range group.Members {
				out[f.nameOf(m.ClientID)] = slices.Collect(maps.Keys(m.Assignment[f.topic]))
			}
		}
		return out
	}
	described, err := f.kafka.Admin().DescribeGroups(t.Context(), f.group)
	if group := described[f.group]; err == nil && group.State == "Stable" {
		for _, m := range group.Members {
			name := f.nameOf(m.ClientID)
			out[name] = []int32{}
			if assigned, ok := m.Assigned.AsConsumer(); ok {
				for _, topic := range assigned.Topics {
					out[name] = append(out[name], topic.Partitions...)
				}
			}
		}
	}
	return out
}

// nameOf is the name of the gateway whose members have a client.id.
func (f *field) nameOf(client string) string {
	for name, c := range f.configs {
		if c.Client() == client {
			return name
		}
	}
	return client
}

// shared tells whether the running gateways share the partitions evenly; nil: they do.
func (f *field) shared(t *testing.T) error {
	members, running := f.members(t), f.running()
	for _, name := range running {
		if own, fair := len(members[name]), int(f.count)/len(running); own < fair {
			return fmt.Errorf("%s has %d partitions of %v, want %d", name, own, members, fair)
		}
	}
	if len(members) != len(running) {
		return fmt.Errorf("the group has members %v, want %v", members, running)
	}
	return nil
}

// settle waits until the running gateways share the partitions evenly and records arrive.
func (f *field) settle(t *testing.T) {
	t.Helper()
	gatewaytest.Await(t, later, func() error { return f.shared(t) })
	f.awaitMore(t, f.receiver.Distinct(f.id)+int(f.count)*10)
}

// awaitMore waits until so many different records have arrived.
func (f *field) awaitMore(t *testing.T, records int) {
	t.Helper()
	gatewaytest.Await(t, later, func() error {
		if got := f.receiver.Distinct(f.id); got < records {
			return fmt.Errorf("%d of %d records arrived; complaints %v", got, records, f.receiver.Complaints())
		}
		return nil
	})
}

// partition of the field's topic.
func (f *field) partition(id int32) gatewaytest.Partition {
	return gatewaytest.Partition{Topic: f.topic, ID: id}
}

// some produces so many records, spread over the partitions, at once.
func (f *field) some(t *testing.T, records int) {
	t.Helper()
	f.kafka.ProduceLoad(t, f.produced, gatewaytest.Load{Topic: f.topic, Partitions: f.count, Records: records, Size: recordSize})
}

// running are the names of the gateways that have not ended, sorted.
func (f *field) running() []string {
	var out []string
	for name, g := range f.gateways {
		select {
		case <-g.Done():
		default:
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// kill ends a gateway as kill -9 does and returns the moment.
func (f *field) kill(name string) time.Time {
	end := f.gateways[name].HardEnd()
	f.known.Hard = append(f.known.Hard, end)
	return end.At
}

// pause stops a gateway where it stands and returns the moment.
func (f *field) pause(t *testing.T, name string) time.Time {
	t.Helper()
	f.gateways[name].Pause(t)
	at := time.Now()
	f.known.Hard = append(f.known.Hard, gatewaytest.HardEnd{Client: f.configs[name].Client(), At: at})
	f.known.Zombies = 1
	return at
}

// takenOver waits until partitions are delivered by somebody else than before a
// moment, and returns how long after it the last of them was.
func (f *field) takenOver(t *testing.T, taken []int32, since time.Time) time.Duration {
	t.Helper()
	var longest time.Duration
	gatewaytest.Await(t, later, func() error {
		before, first := map[int32]int32{}, map[int32]time.Time{}
		for _, d := range f.receiver.Deliveries(f.id) {
			p := d.Partition.ID
			if d.Arrived.Before(since) {
				before[p] = max(before[p], d.Generation)
			} else if _, ok := first[p]; !ok && d.Generation > before[p] {
				first[p] = d.Arrived
			}
		}
		longest = 0
		for _, p := range taken {
			at, ok := first[p]
			if !ok {
				return fmt.Errorf("partition %d was not taken over", p)
			}
			longest = max(longest, at.Sub(since))
		}
		return nil
	})
	return longest
}

// checkWithin logs a time that was measured, and fails the test if it is too long.
func checkWithin(t *testing.T, what string, got, bound time.Duration) {
	t.Helper()
	t.Logf("%s: %v (bound %v)", what, got.Round(time.Millisecond), bound)
	if got > bound {
		t.Errorf("%s took %v, want at most %v", what, got, bound)
	}
}

// awaitEnd waits until the group has committed the end of the topic, which may
// still move: a transaction has ended before its markers are written.
func (f *field) awaitEnd(t *testing.T) {
	t.Helper()
	gatewaytest.Await(t, later, func() error {
		committed := f.kafka.Committed(t, f.group)
		if ends := f.kafka.Ends(t, f.topic); !maps.Equal(committed, ends) {
			return fmt.Errorf("committed is %v, the ends are %v; complaints %v", committed, ends, f.receiver.Complaints())
		}
		return nil
	})
}

// audit judges what was done so far and fails the test if anything was wrong.
func (f *field) audit(t *testing.T) gatewaytest.Report {
	t.Helper()
	report := f.judge(t)
	report.Check(t)
	if len(report.Anomalies) > 0 {
		f.explain(t)
	}
	return report
}

// explain prints who was given which partitions when: by the broker's log, and by
// the gateways' own.
func (f *field) explain(t *testing.T) {
	t.Helper()
	for _, g := range f.kafka.History(t, f.group).Generations {
		t.Logf("%s  generation %d at %d", g.At.UTC().Format(time.RFC3339Nano), g.Number, g.Place)
		for _, m := range g.Members {
			t.Logf("    %s: %v", m.ID, m.Assigned)
		}
	}
	for _, g := range f.launched {
		for _, h := range g.Holdings() {
			t.Logf("%s held %v from %v to %v", h.Client, h.Partition, h.From.UTC(), h.To.UTC())
		}
	}
}

// judge joins the ledgers as they stand now with what the test knows.
func (f *field) judge(t *testing.T) gatewaytest.Report {
	t.Helper()
	e := f.known
	history := f.kafka.History(t, f.group)
	e.Webhook, e.Produced = f.id, f.produced
	e.Deliveries, e.Acks, e.Answers = f.receiver.Deliveries(f.id), f.receiver.Acks(f.id), f.receiver.Answers(f.id)
	e.Complaints = f.receiver.Complaints()
	for _, g := range f.launched {
		e.Holdings = append(e.Holdings, g.Holdings()...)
	}
	e.Committed, e.Commits, e.Generations = f.kafka.Committed(t, f.group), history.Commits, history.Generations
	return gatewaytest.Audit(e)
}

// finish ends the load, waits until everything is delivered and committed, and audits.
func (f *field) finish(t *testing.T) gatewaytest.Report {
	t.Helper()
	if f.flow != nil {
		f.flow.Stop(t)
	}
	f.awaitEnd(t)
	f.known.Ends = f.kafka.Ends(t, f.topic)
	return f.audit(t)
}

// generation is the latest of the group, as the broker keeps it.
func (f *field) generation(t *testing.T) int32 {
	t.Helper()
	generations := f.kafka.History(t, f.group).Generations
	if len(generations) == 0 {
		t.Fatalf("group %s has no generation yet", f.group)
	}
	return generations[len(generations)-1].Number
}

// checkCalm checks that the group had no rebalance since a generation.
func (f *field) checkCalm(t *testing.T, since int32) {
	t.Helper()
	now := f.generation(t)
	t.Logf("rebalances: %d", now-since)
	if now != since {
		t.Errorf("the group went from generation %d to %d, want no rebalance", since, now)
	}
}

// pass lets time go by under load.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal("the test ended")
	}
}

// logged fails the test unless a gateway's log has a text within a time.
func (f *field) logged(t *testing.T, name, text string, patience time.Duration) {
	t.Helper()
	gatewaytest.Await(t, patience, func() error {
		if !strings.Contains(f.gateways[name].Log(), text) {
			return fmt.Errorf("the log of %s does not say %q", name, text)
		}
		return nil
	})
}

// maxMemory bounds what a gateway of these tests holds in memory: its base, and the
// byte budgets of a few partitions.
const maxMemory = 256 << 20

// checkMemory checks that no running gateway holds too much.
func (f *field) checkMemory(t *testing.T) {
	t.Helper()
	for _, name := range f.running() {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.gateways[name].Pid()))
		if err != nil {
			t.Skipf("no /proc to read memory from: %v", err)
		}
		var kilobytes int
		_, after, _ := strings.Cut(string(status), "VmRSS:")
		fmt.Sscan(after, &kilobytes)
		t.Logf("%s holds %d MiB", name, kilobytes>>10)
		if kilobytes<<10 > maxMemory {
			t.Errorf("%s holds %d MiB, want at most %d", name, kilobytes>>10, maxMemory>>20)
		}
	}
}
