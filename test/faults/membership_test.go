package faults

import (
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/gatewaytest"
)

func TestM1_SIGKILLMidBatch(t *testing.T) {
	node, _ := nodeOf(t)
	var slow atomic.Bool
	f := underLoad(t, node.Brokers(), func(*gatewaytest.Delivery) gatewaytest.Answer {
		if slow.Load() {
			return gatewaytest.Answer{Delay: time.Second}
		}
		return gatewaytest.Answer{Delay: 4 * answerTime}
	})
	taken := f.members(t)["a"]
	slow.Store(true)
	f.awaitUnderWay(t, taken, time.Now())
	killed := f.kill("a")
	slow.Store(false)
	f.known.Clean, f.known.Window = true, window
	checkWithin(t, "take-over after SIGKILL", f.takenOver(t, taken, killed), takeOverKilled)
	midBatch := 0
	for _, d := range f.receiver.Deliveries(f.id) {
		if slices.Contains(taken, d.Partition.ID) && d.Arrived.Before(killed) && (d.Answered.IsZero() || d.Answered.After(killed)) {
			midBatch++
		}
	}
	if midBatch == 0 {
		t.Error("no request was under way at the kill: it proved nothing")
	}
	f.finish(t)
}

// awaitUnderWay waits until a request from one of the partitions is under way that began
// after a moment.
func (f *field) awaitUnderWay(t *testing.T, partitions []int32, since time.Time) {
	t.Helper()
	gatewaytest.Await(t, soon, func() error {
		for _, d := range f.receiver.Deliveries(f.id) {
			if slices.Contains(partitions, d.Partition.ID) && d.Arrived.After(since) && d.Answered.IsZero() {
				return nil
			}
		}
		return fmt.Errorf("no request from partitions %v is under way; complaints %v", partitions, f.receiver.Complaints())
	})
}

func TestM2_DrainOnSIGTERM(t *testing.T) {
	node, _ := nodeOf(t)
	f := underLoad(t, node.Brokers(), taking(200*time.Millisecond))
	f.known.Clean = true
	taken := f.members(t)["a"]
	asked := time.Now()
	code, took := f.gateways["a"].Terminate(t)
	if code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	t.Logf("ended %v after SIGTERM", took)
	checkWithin(t, "take-over after SIGTERM", f.takenOver(t, taken, asked), takeOverAsked)
	f.finish(t)
}

func TestM3_DrainWithHungReceiver(t *testing.T) {
	const drain, grace = 3 * time.Second, 5 * time.Second
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, lively, func(c *gatewaytest.Config) {
		c.Env = append(c.Env, "KPUSH_SHUTDOWN_DRAIN_TIMEOUT="+drain.String())
	})
	f.run(t, object{"request": object{"timeout_ms": 5000}})
	f.known.Clean = true
	f.receiver.SetScript(func(*gatewaytest.Delivery) gatewaytest.Answer { return gatewaytest.Answer{Hang: true} })
	pass(t, time.Second) // every partition has a request that hangs
	code, took := f.gateways["a"].Terminate(t)
	if code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	checkWithin(t, "end after SIGTERM", took, drain+grace)
	f.receiver.SetScript(lively)
	f.finish(t)
}

func TestM4_AllKilledAndRestarted(t *testing.T) {
	node, _ := nodeOf(t)
	f := underLoad(t, node.Brokers(), lively)
	f.known.Clean, f.known.Window = true, window
	var killed time.Time
	for _, name := range names {
		killed = f.kill(name)
	}
	f.start(t, names...)
	all := []int32{0, 1, 2, 3, 4, 5}
	checkWithin(t, "take-over after the death of all", f.takenOver(t, all, killed), takeOverKilled)
	f.finish(t)
}

// TestM5_ZombieByPause stops a gateway for three sessions. One of its partitions
// has a delivery still to be acked; that ack lies in the stopped gateway's socket
// when it wakes.
func TestM5_ZombieByPause(t *testing.T) {
	node, _ := nodeOf(t)
	f := underLoad(t, node.Brokers(), lively)
	f.known.Clean, f.known.Window = true, window
	taken := f.members(t)["a"]
	open := f.leaveOpen(t, taken[0])
	paused := f.pause(t, "a")
	f.receiver.SetScript(lively)
	checkWithin(t, "take-over from a stopped owner", f.takenOver(t, taken, paused), takeOverKilled)

	late := make(chan gatewaytest.AckReply, 1)
	go func() {
		reply, err := f.gateways["a"].API.AckDelivery(t.Context(), f.receiver, open, open.Last(), "")
		if err != nil {
			t.Errorf("the late ack got no answer: %v", err)
		}
		late <- reply
	}()
	pass(t, time.Until(paused.Add(3*session)))
	f.gateways["a"].Continue(t)
	switch reply := <-late; reply.Status {
	case http.StatusConflict, http.StatusServiceUnavailable:
		t.Logf("the late ack was answered %d %s", reply.Status, reply.Code)
	default:
		t.Errorf("the late ack was answered %d %s%s, want it refused", reply.Status, reply.Result, reply.Code)
	}
	f.settle(t) // it is a member again, without a restart
	f.finish(t)
}

// TestM6_ZombieByPollStall stops the poll loop of one gateway for longer than
// max.poll.interval.ms, while the client's own threads go on with their heartbeats.
func TestM6_ZombieByPollStall(t *testing.T) {
	const pollInterval = 10 * time.Second // of gatewaytest.NewConfig; the client looks twice a second
	node, _ := nodeOf(t)
	f := underLoad(t, node.Brokers(), lively, broken("poll"))
	f.known.Clean, f.known.Window = true, window
	taken := f.members(t)["a"]
	stalled := time.Now()
	f.known.Hard = append(f.known.Hard, gatewaytest.HardEnd{Client: f.configs["a"].Client(), At: stalled})
	f.known.Zombies = 1
	if err := syscall.Kill(f.gateways["a"].Pid(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	checkWithin(t, "take-over from an owner that polls no more", f.takenOver(t, taken, stalled), pollInterval+takeOverKilled)
	f.checkSilence(t, taken, stalled)
	f.settle(t) // it is a member again, without a restart
	f.finish(t)
}

// leaveOpen has the next delivery of a partition answered with 202 and returns it.
func (f *field) leaveOpen(t *testing.T, partition int32) *gatewaytest.Delivery {
	t.Helper()
	caught := make(chan *gatewaytest.Delivery, 1)
	f.receiver.SetScript(func(d *gatewaytest.Delivery) gatewaytest.Answer {
		if d.Partition.ID != partition {
			return lively(d)
		}
		select {
		case caught <- d:
		default:
		}
		return gatewaytest.Answer{Status: http.StatusAccepted}
	})
	select {
	case d := <-caught:
		return d
	case <-time.After(soon):
		t.Fatalf("nothing came from partition %d", partition)
		return nil
	}
}

func TestM9_RollingRestart(t *testing.T) {
	const rounds = 2
	node, _ := nodeOf(t)
	f := underLoad(t, node.Brokers(), lively)
	f.known.Clean, f.known.MaxGap = true, maxGap
	var longest time.Duration
	for range rounds {
		for _, name := range names {
			code, took := f.gateways[name].Terminate(t)
			if code != 0 {
				t.Errorf("%s: exit code %d, want 0", name, code)
			}
			longest = max(longest, took)
			f.start(t, name)
			f.settle(t)
		}
	}
	t.Logf("ended at most %v after SIGTERM", longest)
	f.finish(t)
}

func TestM10_BounceOfAll(t *testing.T) {
	const rounds = 5
	for _, test := range []struct {
		name string
		end  func(f *field)
	}{
		{"clean", func(f *field) {
			for _, name := range names {
				f.gateways[name].Signal(t)
			}
			for _, name := range names {
				if code := f.gateways[name].AwaitExit(t); code != 0 {
					t.Errorf("%s: exit code %d, want 0", name, code)
				}
			}
		}},
		{"hard", func(f *field) {
			for _, name := range names {
				f.kill(name)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			node, _ := nodeOf(t)
			f := underLoad(t, node.Brokers(), lively)
			f.known.Clean, f.known.Window = true, window
			for range rounds {
				test.end(f)
				f.start(t, names...)
				f.awaitMore(t, f.receiver.Distinct(f.id)+rate)
			}
			f.finish(t)
		})
	}
}

func TestM11_RebalanceStorm(t *testing.T) {
	const (
		storm = 40 * time.Second
		pause = 2 * time.Second
		watch = 10 * time.Second
	)
	node, _ := nodeOf(t)
	f := underLoad(t, node.Brokers(), lively)
	f.known.Clean, f.known.MaxGap = true, takeOverKilled
	arrived, looked := f.receiver.Distinct(f.id), time.Now()
	for begin := time.Now(); time.Since(begin) < storm; {
		if code, _ := f.gateways["c"].Terminate(t); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
		pass(t, pause)
		f.start(t, "c")
		pass(t, pause)
		if time.Since(looked) >= watch {
			now := f.receiver.Distinct(f.id)
			if now == arrived {
				t.Errorf("nothing arrived for %v", time.Since(looked))
			}
			arrived, looked = now, time.Now()
		}
	}
	f.finish(t)
}

// TestX2_Suspended stops all gateways for longer than their sessions, as a machine
// that sleeps does, and lets them go on.
func TestX2_Suspended(t *testing.T) {
	const asleep = 3 * session
	node, _ := nodeOf(t)
	f := underLoad(t, node.Brokers(), lively)
	f.known.Clean, f.known.Window = true, window
	for _, name := range names {
		f.pause(t, name)
	}
	pass(t, asleep)
	for _, name := range names {
		f.gateways[name].Continue(t)
	}
	woken := time.Now()
	all := []int32{0, 1, 2, 3, 4, 5}
	checkWithin(t, "deliveries after the sleep", f.takenOver(t, all, woken), takeOverKilled)
	f.settle(t)
	f.finish(t)
}

// static gives each gateway an instance id of its own.
func (f *field) static(t *testing.T) {
	t.Helper()
	for _, name := range names {
		c := f.configs[name]
		c.Env = append(c.Env, "KPUSH_KAFKA_GROUP_INSTANCE_ID=instance-"+name)
		f.configs[name] = c
	}
}

func TestM16_StaticMemberRestarts(t *testing.T) {
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, lively)
	f.static(t)
	f.known.Clean = true
	f.run(t, nil)
	calm := f.generation(t)
	own := f.members(t)["a"]
	asked := time.Now()
	if code, _ := f.gateways["a"].Terminate(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	f.start(t, "a")
	if took := time.Since(asked); took > session {
		t.Fatalf("the restart took %v, longer than a session: it proves nothing", took)
	}
	f.settle(t)
	f.checkCalm(t, calm)
	if again := f.members(t)["a"]; !slices.Equal(own, again) {
		t.Errorf("after its restart a has partitions %v, want %v as before", again, own)
	}
	f.finish(t)
}

// TestM16_StaticMemberUnderAnotherName restarts a static member within its session as
// a replica of another id at another address, of which the broker does not hear: it
// keeps the client.id that it had. The others have to find it all the same.
func TestM16_StaticMemberUnderAnotherName(t *testing.T) {
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, lively)
	f.static(t)
	f.run(t, nil)
	own := f.members(t)["a"]
	asked := time.Now()
	if code, _ := f.gateways["a"].Terminate(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	f.configs["a"] = f.configs["a"].Replica(t, "again")
	f.start(t, "a")
	if took := time.Since(asked); took > session {
		t.Fatalf("the restart took %v, longer than a session: it proves nothing", took)
	}
	f.awaitMore(t, f.receiver.Distinct(f.id)+rate)
	open := f.leaveOpen(t, own[0])
	api := f.gateways["b"].API
	if reply, err := api.AckFields(t.Context(), f.receiver, open, ""); err != nil || reply.Status != http.StatusOK {
		t.Errorf("an ack by fields, by way of b: %+v, %v, want it counted", reply, err)
	}
	f.receiver.SetScript(lively)
	for _, call := range []struct {
		status       int
		method, path string
	}{
		{http.StatusOK, http.MethodPost, "/pause"},
		{http.StatusOK, http.MethodPost, "/resume"},
		{http.StatusNoContent, http.MethodDelete, ""},
	} {
		began := time.Now()
		api.Must(t, call.status, call.method, "/v1/webhooks/"+f.id+call.path, nil)
		checkWithin(t, call.method+call.path, time.Since(began), soon)
	}
	f.flow.Stop(t)
}

// TestM17_DuplicateStaticID starts a second gateway with the instance id of
// another: the first one has to say so and end, and the group has to come to rest.
func TestM17_DuplicateStaticID(t *testing.T) {
	const loud, rest = 10 * time.Second, 5 * time.Second
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, lively)
	f.static(t)
	c := f.configs["b"]
	c.Env[len(c.Env)-1] = "KPUSH_KAFKA_GROUP_INSTANCE_ID=instance-a"
	f.configs["b"] = c
	f.start(t, "a")
	f.register(t, nil)
	f.produce(t)
	f.settle(t)
	f.start(t, "b")
	f.logged(t, "a", "another process has this one's kafka.group_instance_id", loud)
	if code := f.gateways["a"].AwaitExit(t); code == 0 {
		t.Error("exit code 0 of the gateway whose instance id was taken, want a failure")
	}
	f.awaitMore(t, f.receiver.Distinct(f.id)+rate) // the broker still shows the first one's client.id
	calm := f.generation(t)
	pass(t, rest)
	f.checkCalm(t, calm)

	// Until its next heartbeat or commit the first one does not know that it was
	// replaced, and the broker keeps one generation for both: for that while both
	// deliver. Nothing may be lost by it, or committed that was not acked.
	f.flow.Stop(t)
	f.awaitEnd(t)
	f.known.Ends = f.kafka.Ends(t, f.topic)
	report := f.judge(t)
	report.Anomalies = slices.DeleteFunc(report.Anomalies, func(a gatewaytest.Anomaly) bool { return a.Rule == "O3" || a.Rule == "O4" })
	report.Check(t)
}
