package groupmanager

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpush/kpush/replica"
	"github.com/kpush/kpush/webhooks"
)

// Of two replicas with one kafka.group_instance_id Kafka keeps the later one in each
// webhook's group. The one that has lost ends, and not both.
func TestM17_OfTwoReplicasWithOneInstanceIDTheOneThatWasFencedEnds(t *testing.T) {
	fencedToo := func(context.Context, struct{}) (failures, error) {
		return failures{"default": {"shipping": reasonFenced}}, nil
	}
	cases := []struct {
		name  string
		self  string
		rival string // instance id of b
		say   func(context.Context, struct{}) (failures, error)
		fault error
		ends  bool
	}{
		{name: "it ends when the other holds all", self: "c", rival: "node-1", ends: true},
		{name: "of two that were fenced the lesser ends", self: "a", rival: "node-1", say: fencedToo, ends: true},
		{name: "and the greater stays", self: "c", rival: "node-1", say: fencedToo},
		{name: "it ends when the other does not answer", self: "c", rival: "node-1", fault: replica.ErrUnreachable, ends: true},
		{name: "it stays when no replica has its id: somebody else has it, in one group", self: "c", rival: "node-2"},
		{name: "it stays beside dynamic replicas", self: "c"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork("b", c.self, "b")
				n.seats[c.self].instance, n.seats["b"].instance, n.seats["b"].fault = "node-1", c.rival, c.fault
				if c.say == nil {
					c.say = func(context.Context, struct{}) (failures, error) { return failures{}, nil }
				}
				register(n.seats["b"], operationFailures, c.say)
				s := &shared{logger: slog.New(slog.DiscardHandler)}
				m := &Manager{peers: n.seats[c.self], shared: s, groups: map[webhookKey]*group{}}
				g := newGroup(s, webhooks.Entry{Webhook: webhooks.Webhook{ID: "billing", Tenant: "default"}})
				m.groups[webhookKey{"default", "billing"}] = g
				ctx, end := context.WithCancelCause(t.Context())
				watching := make(chan struct{})
				go func() {
					defer close(watching)
					m.watchReplaced(ctx, end)
				}()
				time.Sleep(time.Minute)
				if len(n.calls) > 0 || ctx.Err() != nil {
					t.Errorf("without having been fenced it made calls %v and ended with %v", n.calls, context.Cause(ctx))
				}
				g.failed(errInstanceFenced)
				time.Sleep(2 * replacedInterval)
				if got := errors.Is(context.Cause(ctx), ErrReplaced); got != c.ends {
					t.Errorf("ended: %v, want %v", got, c.ends)
				}
				if !c.ends && c.rival == "node-1" {
					n.mu.Lock()
					delete(n.seats, "b") // which has ended
					n.mu.Unlock()
					time.Sleep(2 * replacedInterval)
				}
				if again, want := len(g.retry) > 0, !c.ends && c.rival == "node-1"; again != want {
					t.Errorf("its groups are tried again: %v, want %v", again, want)
				}
				end(nil)
				<-watching
			})
		})
	}
}

// A classic coordinator keeps the client.id of a static member that comes back.
func TestAStaticMemberIsTheReplicaThatHasItsInstanceIDNow(t *testing.T) {
	members := []groupMember{
		{replica: "a-1a2b3c", instance: "node-1"}, // of before the restart
		{replica: "b", instance: "node-2"},
		{replica: "", instance: "node-3"}, // of a former installation, say
		{replica: "d"},
		{replica: "e", instance: "node-5"}, // has ended, and its session has not
		{},
	}
	rename(members, []replica.Peer{
		{ID: "a-4d5e6f", Instance: "node-1"}, {ID: "b", Instance: "node-2"}, {ID: "c", Instance: "node-3"}, {ID: "d"},
	})
	for i, want := range []string{"a-4d5e6f", "b", "c", "d", "e", ""} {
		if got := members[i].replica; got != want {
			t.Errorf("member %d is %q, want %q", i, got, want)
		}
	}
}
