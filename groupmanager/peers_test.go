package groupmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kpush/kpush/replica"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/egress"
)

// network joins replicas in one process: each call of an operation is a call of the
// other's handler, with all that is said made JSON and read again.
type network struct {
	leader string // id; empty for none

	mu    sync.Mutex
	seats map[string]*seat
	calls []string // "<operation> at <id>", in order
	fresh int      // look-ups of the leader that were to be fresh
}

// seat is one replica in a network.
type seat struct {
	*network
	id       string
	instance string
	fault    error // of every call to it
	handlers map[string]func(context.Context, []byte) (any, error)
}

func newNetwork(leader string, ids ...string) *network {
	n := &network{leader: leader, seats: map[string]*seat{}}
	for _, id := range ids {
		n.seats[id] = &seat{network: n, id: id, handlers: map[string]func(context.Context, []byte) (any, error){}}
	}
	return n
}

func peerOf(id string) replica.Peer { return replica.Peer{ID: id, URL: "http://" + id + ".test"} }

func (s *seat) Self() replica.Peer {
	p := peerOf(s.id)
	p.Instance = s.instance
	return p
}

func (s *seat) Leader(_ context.Context, fresh bool) (replica.Peer, error) {
	if fresh {
		s.fresh++
	}
	if s.leader == "" {
		return replica.Peer{}, replica.ErrNoLeader
	}
	return peerOf(s.leader), nil
}

func (s *seat) Others(context.Context) ([]replica.Peer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var others []replica.Peer
	for id, other := range s.seats {
		if id != s.id {
			others = append(others, other.Self())
		}
	}
	slices.SortFunc(others, func(a, b replica.Peer) int { return strings.Compare(a.ID, b.ID) })
	return others, nil
}

func (s *seat) Find(_ context.Context, id string) (replica.Peer, error) {
	if s.seats[id] == nil {
		return replica.Peer{}, replica.ErrUnknownPeer
	}
	return peerOf(id), nil
}

func (s *seat) Handle(operation string, do func(context.Context, []byte) (any, error)) {
	s.handlers[operation] = do
}

func (s *seat) Call(ctx context.Context, to replica.Peer, operation string, in, out any) error {
	s.mu.Lock()
	s.calls = append(s.calls, operation+" at "+to.ID)
	there := s.seats[to.ID]
	s.mu.Unlock()
	if there == nil {
		return replica.ErrUnreachable
	}
	if there.fault != nil {
		return there.fault
	}
	asked, err := json.Marshal(in)
	if err != nil {
		return err
	}
	done, err := there.handlers[operation](ctx, asked)
	var refusal *replica.Refusal
	if errors.As(err, &refusal) {
		return refusal
	}
	if err != nil {
		return fmt.Errorf("%w: it failed over the call", replica.ErrUnreachable)
	}
	answer, err := json.Marshal(done)
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(answer, out)
}

// TestCredentialsGoToTheLeaderSealed: calls between replicas are not encrypted.
func TestCredentialsGoToTheLeaderSealed(t *testing.T) {
	keys, err := webhooks.NewKeys("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
	if err != nil {
		t.Fatal(err)
	}
	const plain = `{"url": "https://billing.example.com/hooks", "topics": ["orders"]`
	for body, sealed := range map[string]bool{
		plain + `}`: false,
		plain + `, "auth": {"type": "bearer", "token": "hunter2"}, "request": {"headers": {"X-Api-Key": "hunter2"}}}`: true,
	} {
		w, err := webhooks.Decode([]byte(body), "billing")
		if err != nil {
			t.Fatal(err)
		}
		n := newNetwork("b", "a", "b")
		m := &Manager{shared: &shared{cfg: Config{Keys: keys, Guard: egress.New(egress.Policy{}, egress.Options{})}}, peers: n.seats["a"]}
		there := &Manager{shared: m.shared}
		var got []webhooks.Webhook
		take := func(_ context.Context, w webhooks.Webhook) (change, error) {
			got = append(got, w)
			return change{}, webhooks.ErrExists
		}
		for _, operation := range []string{operationCreate, operationCreateSealed} {
			register(n.seats["b"], operation, func(ctx context.Context, r createRequest) (change, error) {
				return there.opened(ctx, r.Webhook, r.Credentials, take)
			})
		}
		for _, operation := range []string{operationPut, operationPutSealed} {
			register(n.seats["b"], operation, func(ctx context.Context, r putRequest) (change, error) {
				return there.opened(ctx, r.Webhook, r.Credentials, take)
			})
		}
		var said []string
		for operation, do := range n.seats["b"].handlers {
			n.seats["b"].handlers[operation] = func(ctx context.Context, in []byte) (any, error) {
				said = append(said, string(in))
				return do(ctx, in)
			}
		}
		_, created := m.Create(t.Context(), w)
		_, _, put := m.Put(t.Context(), w, nil)
		if !errors.Is(created, webhooks.ErrExists) || !errors.Is(put, webhooks.ErrExists) || cmp.Diff([]webhooks.Webhook{w, w}, got) != "" {
			t.Errorf("%s: %v, %v and to the leader %+v", body, created, put, got)
		}
		if text := strings.Join(said, ""); strings.Contains(text, "hunter2") {
			t.Errorf("said to the leader: %s", text)
		}
		want := []string{operationCreate + " at b", operationPut + " at b"}
		if sealed { // which a former build would not open
			want = []string{operationCreateSealed + " at b", operationPutSealed + " at b"}
		}
		if diff := cmp.Diff(want, n.calls); diff != "" {
			t.Errorf("%s: calls (-want +got):\n%s", body, diff)
		}
	}
}

func TestErrorsComeBackFromAnotherReplicaAsTheyWere(t *testing.T) {
	notValid := &webhooks.ValidationError{Fields: []webhooks.FieldError{{Pointer: "/url", Detail: "is required"}, {Pointer: "/id", Detail: "is no id"}}}
	for _, err := range []error{
		webhooks.ErrNotLeader, webhooks.ErrNotFound, webhooks.ErrExists, webhooks.ErrGroupInUse, webhooks.ErrPrecondition,
		webhooks.ErrUnreadable, webhooks.ErrUnavailable,
		ErrTokenInvalid, ErrWebhookNotFound, ErrPartitionNotFound, ErrOutcomeConflict, ErrOffsetOutOfRange, ErrNoOwner,
		notValid, &TopicError{Topic: "orders"}, &StaleError{Current: 42},
	} {
		there := refusal(fmt.Errorf("doing something: %w", err))
		if _, ok := errors.AsType[*replica.Refusal](there); !ok {
			t.Errorf("%v: told as %v, want a refusal", err, there)
			continue
		}
		back := meaning(there)
		if !errors.Is(back, err) && cmp.Diff(err, back) != "" {
			t.Errorf("%v came back as %v", err, back)
		}
	}
	if err := errors.New("a broken disk"); refusal(err) != err || meaning(err) != err {
		t.Error("an error without a word for it was changed on its way")
	}
	if _, ok := errors.AsType[*replica.Refusal](meaning(&replica.Refusal{Code: "of_another_version"})); !ok {
		t.Error("a refusal that is not known became something else")
	}
	if got := meaning(&replica.Refusal{Code: codeTopicNotFound, Data: []byte("{")}); got == nil {
		t.Error("a refusal with damaged data is no error any more")
	}
}

func TestAChangeGoesToTheLeader(t *testing.T) {
	done := errors.New("done by b")
	cases := []struct {
		name  string
		set   func(n *network)
		here  error // what this replica, a, comes to
		want  error
		calls []string
		took  time.Duration
	}{
		{name: "which is this replica", set: func(n *network) { n.leader = "a" }, here: done, want: done},
		{name: "by one call", set: func(*network) {}, here: done, calls: []string{"create at b"}},
		{name: "and a refusal is an answer", set: func(n *network) { n.seats["b"].refuse(webhooks.ErrExists) },
			want: webhooks.ErrExists, calls: []string{"create at b"}},
		{name: "again, if it leads no more", set: func(n *network) { n.seats["b"].refuse(webhooks.ErrNotLeader); n.seats["b"].thenLeads("c") },
			calls: []string{"create at b", "create at c"}, took: leaderPause},
		{name: "again, if nothing was sent", set: func(n *network) { n.seats["b"].fault = replica.ErrNotSent },
			want: webhooks.ErrUnavailable, took: leaderPatience},
		{name: "once, if nobody knows whether it was done", set: func(n *network) { n.seats["b"].fault = fmt.Errorf("%w: cut", replica.ErrUnreachable) },
			want: webhooks.ErrUnavailable, calls: []string{"create at b"}},
		{name: "once, if it says what nobody understands", set: func(n *network) { n.seats["b"].fault = &replica.Refusal{Code: "unknown_operation"} },
			want: webhooks.ErrUnavailable, calls: []string{"create at b"}},
		{name: "when there is one", set: func(n *network) { n.leader = "" }, want: webhooks.ErrNotLeader, took: leaderPatience},
		{name: "when this replica, which believes to lead, does", set: func(n *network) { n.leader = "a" }, here: webhooks.ErrNotLeader,
			want: webhooks.ErrUnavailable, took: leaderPatience},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork("b", "a", "b", "c")
				for _, id := range []string{"b", "c"} {
					register(n.seats[id], operationCreate, func(context.Context, webhookTarget) (string, error) { return id, nil })
				}
				c.set(n)
				m := &Manager{peers: n.seats["a"]}
				start := time.Now()
				got, err := lead(t.Context(), m, operationCreate, webhookTarget{ID: "x"}, func(context.Context) (string, error) { return "a", c.here })
				if !errors.Is(err, c.want) {
					t.Errorf("got %q, %v, want error %v", got, err, c.want)
				}
				if c.calls != nil && cmp.Diff(c.calls, n.calls) != "" {
					t.Errorf("calls %v, want %v", n.calls, c.calls)
				}
				if took := time.Since(start); took != c.took {
					t.Errorf("took %v, want %v", took, c.took)
				}
				if c.took > 0 && n.fresh == 0 {
					t.Error("the leader was looked up again without asking Kafka anew")
				}
			})
		})
	}
}

// refuse makes a replica refuse a change.
func (s *seat) refuse(err error) {
	register(s, operationCreate, func(context.Context, webhookTarget) (string, error) { return "", err })
}

// thenLeads makes another replica lead once this one was called.
func (s *seat) thenLeads(id string) {
	do := s.handlers[operationCreate]
	s.Handle(operationCreate, func(ctx context.Context, in []byte) (any, error) {
		s.leader = id
		return do(ctx, in)
	})
}

func TestAChangeEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork("", "a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := lead(ctx, &Manager{peers: n.seats["a"]}, operationCreate, nil, func(context.Context) (int, error) { return 0, nil })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the end of the caller's context", err)
		}
	})
}

func TestAProcessWithoutPeersLeads(t *testing.T) {
	m := &Manager{peers: alone{replica.Peer{ID: "a"}}}
	got, err := lead(t.Context(), m, operationCreate, nil, func(context.Context) (string, error) { return "done", nil })
	if got != "done" || err != nil {
		t.Errorf("got %q, %v, want it done here", got, err)
	}
	if others, err := m.others(t.Context()); len(others) != 0 || err != nil {
		t.Errorf("others %v, %v, want none", others, err)
	}
}

func TestAllLiveReplicasConfirmThatTheyHaveStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork("a", "a", "b", "c", "d")
		failures := 2
		for _, id := range []string{"b", "c", "d"} {
			register(n.seats[id], operationQuiesce, func(context.Context, quiesceRequest) (any, error) {
				if id == "c" && failures > 0 {
					failures--
					return nil, webhooks.ErrUnavailable
				}
				return nil, nil
			})
		}
		n.seats["d"].fault = replica.ErrUnreachable
		const gone = 3 * time.Second
		time.AfterFunc(gone, func() { // its session is over
			n.mu.Lock()
			defer n.mu.Unlock()
			delete(n.seats, "d")
		})
		m := &Manager{peers: n.seats["a"], registry: webhooks.NewRegistry(nil, nil, nil)}
		start := time.Now()
		if err := m.quiesceAll(t.Context(), "", quiesceRequest{Revision: -1}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < gone || took > gone+confirmPause {
			t.Errorf("confirmed after %v, want right after %v, when the silent replica is no live one any more", took, gone)
		}
		asked := map[string]int{}
		for _, call := range n.calls {
			asked[call]++
		}
		if asked["quiesce at b"] != 1 || asked["quiesce at c"] != 3 {
			t.Errorf("asked %v, want b once and c until it confirmed the third time", asked)
		}

		n.seats["b"].fault = replica.ErrUnreachable
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := m.quiesceAll(ctx, "", quiesceRequest{Revision: -1}); !errors.Is(err, webhooks.ErrUnavailable) || ctx.Err() == nil {
			t.Errorf("with a live replica that is silent: %v, want to wait and then not to know", err)
		}
	})
}

func TestALockByNameIsHeldByOneAndGivenUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var locks keyLocks
		unlock, err := locks.lock(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		other, err := locks.lock(t.Context(), "b")
		if err != nil {
			t.Fatalf("the lock of another name: %v", err)
		}
		other()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := locks.lock(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a lock that is held: %v, want to wait for as long as the context lasts", err)
		}
		inside := 0
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				unlock, err := locks.lock(t.Context(), "a")
				if err != nil {
					t.Error(err)
					return
				}
				defer unlock()
				if inside++; inside != 1 {
					t.Errorf("%d hold the lock", inside)
				}
				time.Sleep(time.Millisecond)
				inside--
			})
		}
		synctest.Wait()
		unlock()
		all.Wait()
		if len(locks.held) != 0 {
			t.Errorf("%d locks are kept that nobody holds", len(locks.held))
		}
	})
}

func TestTheDescriptionOfAGroupIsSharedAndBelievedForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o owners
		asked := 0
		ask := func(context.Context, string) (groupState, error) {
			asked++
			time.Sleep(10 * time.Millisecond)
			return groupState{members: []groupMember{
				{replica: fmt.Sprint("r", asked), holds: []topicPartition{{"orders", 0}}},
				{holds: []topicPartition{{"orders", 1}}},
			}}, nil
		}
		look := func(age time.Duration, want string) {
			t.Helper()
			got, err := o.look(t.Context(), "g", age, ask)
			if err != nil || got.holders[topicPartition{"orders", 0}] != want || got.vague {
				t.Errorf("got %+v, %v, want partition 0 with %s", got, err, want)
			}
			if got := got.holders[topicPartition{"orders", 1}]; got != "" {
				t.Errorf("the partition of a member that is none of ours is with %q", got)
			}
		}
		for range 5 {
			go look(ownersTrusted, "r1")
		}
		time.Sleep(20 * time.Millisecond)
		look(ownersTrusted, "r1")
		look(ownersFresh, "r1")
		time.Sleep(2 * ownersFresh)
		look(ownersTrusted, "r1")
		look(ownersFresh, "r2")
		time.Sleep(ownersTrusted)
		look(ownersTrusted, "r3")
		if _, err := o.look(t.Context(), "other", ownersTrusted, ask); err != nil || len(o.groups) != 2 {
			t.Errorf("%d groups remembered (%v), want 2", len(o.groups), err)
		}
		time.Sleep(2 * ownersTrusted)
		look(ownersTrusted, "r5")
		if len(o.groups) != 1 {
			t.Errorf("%d groups remembered, want the one that is asked about", len(o.groups))
		}
	})
}

func TestADescriptionThatDoesNotTellTheOwnerIsKnownAsSuch(t *testing.T) {
	named := []groupMember{{replica: "r", holds: []topicPartition{{"orders", 0}}}}
	for name, c := range map[string]struct {
		state groupState
		vague bool
	}{
		"a settled group":              {groupState{members: named}, false},
		"no group":                     {groupState{}, false},
		"a group that rebalances":      {groupState{members: []groupMember{{replica: "r"}}, rebalancing: true}, true},
		"a broker without topic names": {groupState{members: []groupMember{{replica: "r", holds: []topicPartition{{"", 0}}}}}, true},
	} {
		if got := ownershipOf(c.state); got.vague != c.vague {
			t.Errorf("%s: vague %v, want %v", name, got.vague, c.vague)
		}
	}
}

func TestAllWhoAreNotTheLeaderAreAskedForFailures(t *testing.T) {
	n := newNetwork("a", "a", "b", "c")
	register(n.seats["b"], operationFailures, func(context.Context, struct{}) (failures, error) {
		return failures{"default": {"billing": "topic_not_found"}}, nil
	})
	n.seats["c"].fault = replica.ErrUnreachable
	m := &Manager{peers: n.seats["a"], shared: &shared{logger: slog.New(slog.DiscardHandler)}}
	active := webhooks.Entry{Webhook: webhooks.Webhook{ID: "billing", Tenant: "default", State: webhooks.Active}}
	paused := webhooks.Entry{Webhook: webhooks.Webhook{ID: "billing", Tenant: "default", State: webhooks.Paused}}
	for range 3 {
		got := m.withFailures([]webhooks.Entry{active, paused})
		if got[0].Webhook.State != webhooks.Failed || *got[0].Webhook.StateReason != "topic_not_found" {
			t.Errorf("an active webhook that fails at another replica is %s", got[0].Webhook.State)
		}
		if got[1].Webhook.State != webhooks.Paused {
			t.Errorf("a paused webhook is %s", got[1].Webhook.State)
		}
	}
	if len(n.calls) != 2 {
		t.Errorf("calls %v, want one of each replica for three looks", n.calls)
	}
}
