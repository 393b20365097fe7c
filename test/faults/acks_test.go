package faults

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/gatewaytest"
)

// received answers every delivery with 202: the ack will come.
func received(*gatewaytest.Delivery) gatewaytest.Answer {
	return gatewaytest.Answer{Status: http.StatusAccepted}
}

// openOf waits until a partition has a delivery that is still to be acked, the
// latest one, and returns it.
func (f *field) openOf(t *testing.T, partition int32) *gatewaytest.Delivery {
	t.Helper()
	var open *gatewaytest.Delivery
	gatewaytest.Await(t, soon, func() error {
		if open = f.newestOpen(partition); open == nil {
			return fmt.Errorf("nothing came from partition %d; complaints %v", partition, f.receiver.Complaints())
		}
		return nil
	})
	return open
}

// newestOpen is the newest delivery of a partition that was answered 202; nil for none.
func (f *field) newestOpen(partition int32) (open *gatewaytest.Delivery) {
	for _, d := range f.receiver.Deliveries(f.id) {
		if d.Partition.ID == partition && d.Status == http.StatusAccepted {
			open = &d
		}
	}
	return open
}

// ownerOf is the name of the gateway that holds a partition, and of one that does not.
func (f *field) ownerOf(t *testing.T, partition int32) (owner, other string) {
	t.Helper()
	gatewaytest.Await(t, soon, func() error {
		owner, other = "", ""
		for name, own := range f.members(t) {
			if slices.Contains(own, partition) {
				owner = name
			} else {
				other = name
			}
		}
		if owner == "" || other == "" {
			return fmt.Errorf("partition %d has the owner %q, %q is another", partition, owner, other)
		}
		return nil
	})
	return owner, other
}

func TestM15_AckToTheWrongReplica(t *testing.T) {
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, received)
	f.start(t, names...)
	f.register(t, object{"ack": object{"timeout_ms": 60_000}})
	f.known.Clean = true
	f.settleIdle(t)
	f.some(t, 60)
	for p := range int32(partitions) {
		open := f.openOf(t, p)
		_, other := f.ownerOf(t, p)
		api := f.gateways[other].API
		ack := func() (gatewaytest.AckReply, error) {
			return api.AckDelivery(t.Context(), f.receiver, open, open.Last(), "")
		}
		if p%2 == 1 {
			ack = func() (gatewaytest.AckReply, error) { return api.AckFields(t.Context(), f.receiver, open, "") }
		}
		reply, err := ack()
		if err != nil {
			t.Fatal(err)
		}
		if reply.Status != http.StatusOK || reply.Result != "committed" {
			t.Errorf("an ack for partition %d at %s, which does not own it: %d %s%s, want 200 committed", p, other, reply.Status, reply.Result, reply.Code)
		}
		if got := f.kafka.Committed(t, f.group)[open.Partition]; got <= open.Last() {
			t.Errorf("committed of partition %d is %d after the answer, want more than %d", p, got, open.Last())
		}
	}
	f.receiver.SetScript(lively)
	f.ackOpen(t)
	f.finish(t)
}

// ackOpen acks the latest delivery of every partition that was left open with 202. On a
// busy machine that may still be one of the tenure before, which is told so: then the
// records are to come again.
func (f *field) ackOpen(t *testing.T) {
	t.Helper()
	committed := f.kafka.Committed(t, f.group)
	latest := map[int32]gatewaytest.Delivery{}
	for _, d := range f.receiver.Deliveries(f.id) {
		latest[d.Partition.ID] = d
	}
	for p, d := range latest {
		if d.Status != http.StatusAccepted || d.Last() < committed[d.Partition] {
			continue
		}
		owner, _ := f.ownerOf(t, p)
		reply, err := f.gateways[owner].API.AckDelivery(t.Context(), f.receiver, &d, d.Last(), "")
		if err != nil || reply.Status != http.StatusOK && reply.Code != "generation_stale" {
			t.Errorf("ack of %s %d..%d: %+v, %v; want 200, or generation_stale", d.Partition, d.First(), d.Last(), reply, err)
		}
	}
}

// TestA11_KillBetweenAckAndCommit acks what is open, kills the owner as soon as the
// answer is there, and does so again with the next owner. What was answered with
// "committed" may never come again, which the audit looks for; what was answered
// with "accepted" may.
func TestA11_KillBetweenAckAndCommit(t *testing.T) {
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, received)
	f.start(t, names...)
	f.register(t, object{"ack": object{"timeout_ms": 60_000}, "batch": object{"max_records": 5}})
	f.settleIdle(t)
	f.some(t, 120)
	for _, wait := range []string{"accept", "commit"} {
		owner, _ := f.ownerOf(t, 0)
		own := f.members(t)[owner]
		var acks sync.WaitGroup
		for _, p := range own {
			acks.Go(func() { f.ackNewest(t, owner, p, wait) })
		}
		acks.Wait()
		killed := f.kill(owner)
		checkWithin(t, "take-over after "+wait, f.takenOver(t, own, killed), takeOverKilled)
		f.start(t, owner)
		f.settleIdle(t)
	}
	f.receiver.SetScript(lively)
	f.ackOpen(t)
	f.finish(t)
}

// ackNewest acks the newest open delivery of a partition at its owner. Until the owner
// has taken up what the group has given it, that is one of the owner before: such an ack
// is answered no_owner or generation_stale, and the next delivery is on its way.
func (f *field) ackNewest(t *testing.T, owner string, partition int32, wait string) {
	var last string
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); pass(t, 100*time.Millisecond) {
		open := f.newestOpen(partition)
		if open == nil {
			continue
		}
		reply, err := f.gateways[owner].API.AckDelivery(t.Context(), f.receiver, open, open.Last(), wait)
		last = fmt.Sprintf("%d..%d of generation %d: %+v, %v", open.First(), open.Last(), open.Generation, reply, err)
		switch {
		case err == nil && reply.Status/100 == 2:
			return
		case err != nil || reply.Code != "no_owner" && reply.Code != "generation_stale":
			t.Errorf("ack of partition %d, %s; want 2xx", partition, last)
			return
		}
	}
	t.Errorf("no delivery of partition %d could be acked in %v; the last: %s", partition, soon, last)
}

// settleIdle waits until the running gateways share the partitions evenly, and have
// taken them up: the group is stable before its last member has heard of it.
func (f *field) settleIdle(t *testing.T) {
	t.Helper()
	gatewaytest.Await(t, later, func() error {
		if err := f.shared(t); err != nil {
			return err
		}
		for name, own := range f.members(t) {
			held := 0
			for _, row := range f.gateways[name].API.Partitions(t, f.id) {
				if row.Generation >= 0 && row.Owner != nil && *row.Owner == f.configs[name].ReplicaID() {
					held++
				}
			}
			if held != len(own) {
				return fmt.Errorf("%s holds %d partitions, and the group has given it %d", name, held, len(own))
			}
		}
		return nil
	})
}

// TestX8_ConcurrentRegistration has all replicas create one webhook at once, then
// change it at once on the condition that nobody else has.
func TestX8_ConcurrentRegistration(t *testing.T) {
	const rounds = 10
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, lively)
	f.start(t, names...)
	for round := range rounds {
		id := fmt.Sprintf("%s-%d", f.id, round)
		spec := func(name string) object {
			return object{"url": f.receiver.URL(id), "topics": []string{f.topic}, "description": name}
		}
		created := f.atOnce(t, func(name string) (*gatewaytest.Reply, error) {
			return f.gateways[name].API.Call(t.Context(), http.MethodPut, "/v1/webhooks/"+id, spec(name))
		})
		if got := count(created, http.StatusCreated); got != 1 || count(created, http.StatusOK) != len(names)-1 {
			t.Errorf("round %d: answers %v, want one 201 and the others 200", round, statuses(created))
		}
		tag := f.agreed(t, id)
		changed := f.atOnce(t, func(name string) (*gatewaytest.Reply, error) {
			return f.gateways[name].API.Call(t.Context(), http.MethodPut, "/v1/webhooks/"+id, spec("changed by "+name), "If-Match", tag)
		})
		if got := count(changed, http.StatusOK); got != 1 || count(changed, http.StatusPreconditionFailed) != len(names)-1 {
			t.Errorf("round %d: conditional answers %v, want one 200 and the others 412", round, statuses(changed))
		}
		if next := f.agreed(t, id); next == tag {
			t.Errorf("round %d: the tag is %s still", round, tag)
		}
	}
}

// atOnce makes a call at every gateway at the same time.
func (f *field) atOnce(t *testing.T, call func(name string) (*gatewaytest.Reply, error)) map[string]*gatewaytest.Reply {
	t.Helper()
	var (
		wait sync.WaitGroup
		mu   sync.Mutex
		out  = map[string]*gatewaytest.Reply{}
	)
	for _, name := range names {
		wait.Go(func() {
			reply, err := call(name)
			if err != nil {
				t.Errorf("a call at %s: %v", name, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[name] = reply
		})
	}
	wait.Wait()
	return out
}

func count(replies map[string]*gatewaytest.Reply, status int) int {
	n := 0
	for _, r := range replies {
		if r.Status == status {
			n++
		}
	}
	return n
}

func statuses(replies map[string]*gatewaytest.Reply) map[string]int {
	out := map[string]int{}
	for name, r := range replies {
		out[name] = r.Status
	}
	return out
}

// visibleWithin is when a write has to be seen at every replica.
const visibleWithin = time.Second

// agreed waits until all replicas tell the same of a webhook, and returns its tag.
func (f *field) agreed(t *testing.T, id string) string {
	t.Helper()
	var tag string
	gatewaytest.Await(t, visibleWithin, func() error {
		tag = ""
		for _, name := range f.running() {
			reply, err := f.gateways[name].API.Call(t.Context(), http.MethodGet, "/v1/webhooks/"+id, nil)
			if err != nil || reply.Status != http.StatusOK {
				return fmt.Errorf("%s does not know the webhook: %+v, %v", name, reply, err)
			}
			if own := reply.Header.Get("ETag"); tag != "" && own != tag {
				return fmt.Errorf("%s has the tag %s, another %s", name, own, tag)
			} else {
				tag = own
			}
		}
		return nil
	})
	return tag
}

// TestX9_DeletedAndRecreatedWhileDelivering deletes the webhook at one replica and
// creates it again at another, under load. It goes on where the group stands.
func TestX9_DeletedAndRecreatedWhileDelivering(t *testing.T) {
	const rounds, absence = 3, 2 * time.Second
	node, _ := nodeOf(t)
	f := underLoad(t, node.Brokers(), lively)
	f.known.Clean = true
	path := "/v1/webhooks/" + f.id
	for round := range rounds {
		f.gateways[names[round%len(names)]].API.Must(t, http.StatusNoContent, http.MethodDelete, path, nil)
		span := gatewaytest.Span{From: time.Now()}
		pass(t, absence)
		span.To = time.Now()
		f.known.Absent = append(f.known.Absent, span)
		f.newest = names[(round+1)%len(names)]
		f.register(t, nil)
		f.settle(t)
	}
	f.known.Registered, f.known.Listed = true, f.agreed(t, f.id) != ""
	f.finish(t)
}

// TestS10_RegistrationSurvivesAnyKill registers at each replica in turn and kills
// it as soon as it has answered: the others must know the webhook within a second.
func TestS10_RegistrationSurvivesAnyKill(t *testing.T) {
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, lively)
	f.start(t, names...)
	for _, name := range names {
		id := f.id + "-" + name
		f.registerAt(t, name, id)
		f.kill(name)
		f.agreed(t, id)
		f.start(t, name)
		f.agreed(t, id)
	}
}

// registerAt registers a webhook as clients do: while no replica leads, because the
// one killed before did, they are answered 503 and try again.
func (f *field) registerAt(t *testing.T, name, id string) {
	t.Helper()
	spec := object{"url": f.receiver.URL(id), "topics": []string{f.topic}}
	gatewaytest.Await(t, later, func() error {
		reply, err := f.gateways[name].API.Call(t.Context(), http.MethodPut, "/v1/webhooks/"+id, spec)
		switch {
		case err != nil:
			return err
		case reply.Status == http.StatusCreated || reply.Status == http.StatusOK:
			return nil
		case reply.Status != http.StatusServiceUnavailable:
			t.Fatalf("registering at %s was answered %d: %s", name, reply.Status, reply.Body)
		}
		return fmt.Errorf("registering at %s was answered %d: %s", name, reply.Status, reply.Body)
	})
}
