package faults

import (
	"net/http"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/gatewaytest"
)

func TestM1_SIGKILLMidBatch(t *testing.T) {
	node, _ := nodeOf(t)
	f := underLoad(t, node.Brokers(), taking(4*answerTime))
	taken := f.members(t)["a"]
	killed := f.kill("a")
	f.known.Clean, f.known.Window = true, window
	checkWithin(t, "take-over after SIGKILL", f.takenOver(t, taken, killed), takeOverKilled)
	midBatch := 0
	for _, d := range f.receiver.Deliveries(f.id) {
		if d.Arrived.Before(killed) && (d.Answered.IsZero() || d.Answered.After(killed)) {
			midBatch++
		}
	}
	if midBatch == 0 {
		t.Error("no request was under way at the kill: it proved nothing")
	}
	f.finish(t)
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
