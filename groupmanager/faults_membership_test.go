package groupmanager_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/internal/gatewaytest"
)

// quick makes the client give itself up soon when it is not polled.
var quick = map[string]string{"session.timeout.ms": "2000", "heartbeat.interval.ms": "200", "max.poll.interval.ms": "2500"}

// stall stops the member's poll loop for as long as it takes to be given up, with
// its heartbeats alive: it has to ask where a new partition begins, and the
// partition's leader takes its time. The coordinator is on another connection.
func (s *scene) stall(t *testing.T) (stalled <-chan struct{}) {
	t.Helper()
	reached := make(chan struct{})
	var once atomic.Bool
	s.broker.ControlKey(int16(kmsg.ListOffsets), func(r kmsg.Request) (kmsg.Response, error, bool) {
		for _, topic := range r.(*kmsg.ListOffsetsRequest).Topics {
			for _, p := range topic.Partitions {
				if topic.Topic == faultTopic && p.Partition == 1 && !once.Swap(true) {
					close(reached)
					s.broker.SleepControl(func() { time.Sleep(stallFor) })
				}
			}
		}
		return nil, nil, false
	})
	if _, err := s.kafka.Admin().CreatePartitions(t.Context(), 1, faultTopic); err != nil {
		t.Fatal(err)
	}
	s.kafka = gatewaytest.DialKafka(t, s.brokers) // which knows the new partition
	return reached
}

// stallFor is longer than quick's max.poll.interval.ms, and less than the client
// waits for the answer.
const stallFor = 4 * time.Second

// givenUp waits until the group has that many members.
func (s *scene) givenUp(t *testing.T, left int) {
	t.Helper()
	gatewaytest.Await(t, patience, func() error {
		if g := s.broker.GroupInfo(faultGroup); len(g.Members) != left {
			return fmt.Errorf("the group is %s with %d members, want %d", g.State, len(g.Members), left)
		}
		return nil
	})
}

func TestM6_AMemberWhosePollStallsIsAZombieAndRejoins(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1, promised, quick)
	s.produce(t, 1, 10)
	d := s.deliveryOf(t, 0, 0)
	await(t, s.stall(t))
	s.givenUp(t, 0)
	// The partition still runs, and nobody is in the group that it commits to.
	for _, r := range []groupmanager.AckRequest{byToken(d), byFields(d)} {
		if a, err := s.Ack(t.Context(), r); err == nil {
			t.Errorf("the zombie's ack: %+v, want a refusal", a)
		}
	}
	if got := s.at(t, 0); got != 0 {
		t.Errorf("committed offset %d, want it left at 0", got)
	}
	left, generation := time.Now(), s.broker.GroupInfo(faultGroup).Epoch
	s.receiver.SetScript(gatewaytest.OK)
	s.produce(t, 2, 100)
	s.caughtUp(t)
	late := map[gatewaytest.Partition]int{}
	for _, d := range s.receiver.Deliveries(faultHook) {
		if d.Generation <= generation && d.Arrived.After(left) {
			late[d.Partition]++
		}
	}
	for p, n := range late {
		if n > 1 {
			t.Errorf("%d deliveries of %s after the member had been given up, want one at most", n, p)
		}
	}
}

// The member is given up while its poll loop stalls, and another one takes its
// partitions before it hears of it.
func TestM7_AStallAndAJoinAtOnceCommitNothingOfWhatWasLost(t *testing.T) {
	t.Parallel()
	var zombie atomic.Bool
	s := newScene(t, 1, func(d *gatewaytest.Delivery) gatewaytest.Answer {
		if zombie.Load() { // acked by the receiver when it is not ours any more
			return gatewaytest.Answer{Delay: stallFor}
		}
		return gatewaytest.Answer{}
	}, quick)
	s.produce(t, 1, 10)
	s.caughtUp(t)
	generation := s.row(t, 0).Generation
	zombie.Store(true)
	s.produce(t, 1, 10)
	d := s.deliveryOf(t, 0, generation)
	await(t, s.stall(t))
	s.givenUp(t, 0)
	zombie.Store(false)
	other := s.join(t)
	s.givenUp(t, 1)
	taken := s.at(t, 0)
	if a, err := s.Ack(t.Context(), byToken(d)); err == nil {
		t.Errorf("the zombie's ack: %+v, want a refusal", a)
	}
	s.givenUp(t, 2) // its poll loop goes on
	if got := s.at(t, 0); got != taken {
		t.Errorf("committed offset went from %d to %d, and the owner commits nothing", taken, got)
	}
	other.Close()
	s.owned(t, 0, generation)
	s.owned(t, 1, generation)
	s.produce(t, 2, 10)
	s.caughtUp(t)
}

func await(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("it did not come about")
	}
}

// refused makes an ack and wants it refused without anything moved.
func (s *scene) refused(t *testing.T, what string, r groupmanager.AckRequest, want error) {
	t.Helper()
	a, err := s.Ack(t.Context(), r)
	var stale *groupmanager.StaleError
	if want == nil && !errors.As(err, &stale) {
		t.Errorf("%s: %+v, %v, want it stale", what, a, err)
	} else if want != nil && !errors.Is(err, want) {
		t.Errorf("%s: %+v, %v, want %v", what, a, err, want)
	}
}

// An empty group takes a commit at generation -1 from anybody, and -1 is what a
// client has before it has joined. So an ack must not become a commit then.
func TestM8_AnAckBeforeTheJoin(t *testing.T) {
	t.Run("after a restart", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, 1, promised, nil)
		s.produce(t, 1, 10)
		d := s.deliveryOf(t, 0, 0)
		s.stop()
		s.givenUp(t, 0)
		fault := s.failing(kfake.Fault{Err: kerr.CoordinatorLoadInProgress}, kmsg.JoinGroup)
		s.start(t)
		hit(t, fault, 1)
		s.refusedBeforeJoining(t, d)
		fault.Remove()
		s.owned(t, 0, 0)
		// A group that was empty counts on from where it was: only the tenure tells.
		s.refused(t, "the old token once it has joined", byToken(d), nil)
		s.receiver.SetScript(gatewaytest.OK)
		s.caughtUp(t)
	})
	for name, expel := range map[string]bool{"after an illegal generation": false, "after it was taken out of the group": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, 1, promised, nil)
			s.produce(t, 1, 10)
			d := s.deliveryOf(t, 0, 0)
			joining := s.failing(kfake.Fault{Err: kerr.CoordinatorLoadInProgress}, kmsg.JoinGroup)
			if expel {
				s.broker.Expel(t, faultGroup)
			} else {
				s.failing(kfake.Fault{Err: kerr.IllegalGeneration, Count: 1}, kmsg.Heartbeat)
			}
			hit(t, joining, 1)
			s.refusedBeforeJoining(t, d)
			joining.Remove()
			s.owned(t, 0, d.Generation)
			s.refused(t, "the old token once it has joined", byToken(d), nil)
			s.refused(t, "the old fields once it has joined", byFields(d), nil)
			s.receiver.SetScript(gatewaytest.OK)
			s.caughtUp(t)
		})
	}
}

// refusedBeforeJoining wants acks of a delivery refused while the replica is not in
// the group; nothing is committed.
func (s *scene) refusedBeforeJoining(t *testing.T, d gatewaytest.Delivery) {
	t.Helper()
	for range 3 {
		s.refused(t, "the token before it has joined", byToken(d), groupmanager.ErrNoOwner)
		s.refused(t, "the fields before it has joined", byFields(d), groupmanager.ErrNoOwner)
	}
	if got := s.at(t, 0); got != 0 {
		t.Errorf("committed offset %d, want it left at 0", got)
	}
}

// The partition moves away and comes back. What the receiver was told the first
// time says nothing about the second.
func TestM12_AnAckOfAnEarlierTenureIsStaleAndTheSecondStands(t *testing.T) {
	t.Parallel()
	s := newScene(t, 2, promised, nil)
	s.produce(t, 2, 20)
	first := []gatewaytest.Delivery{s.deliveryOf(t, 0, 0), s.deliveryOf(t, 1, 0)}
	since := max(first[0].Generation, first[1].Generation)
	other := s.join(t)
	p, _ := s.moved(t, since)
	s.refused(t, "the token while another has it", byToken(first[p]), groupmanager.ErrNoOwner)
	other.Close()
	now := s.owned(t, p, since)
	second := s.deliveryOf(t, p, now)
	if second.Token == first[p].Token || second.First() != first[p].First() {
		t.Fatalf("second delivery from %d, want it again from %d with a token of its own", second.First(), first[p].First())
	}
	s.refused(t, "the token of the first tenure", byToken(first[p]), nil)
	s.refused(t, "the fields of the first tenure", byFields(first[p]), nil)
	if got := s.at(t, p); got != 0 {
		t.Errorf("committed offset %d after acks of the first tenure, want 0", got)
	}
	s.receiver.Acked(gatewaytest.Ack{Webhook: faultHook, Partition: second.Partition, First: second.First(), Last: second.Last(), At: time.Now()})
	if a, err := s.Ack(t.Context(), byToken(second)); err != nil || a.Result != "committed" {
		t.Errorf("the ack of the second tenure: %+v, %v, want committed", a, err)
	}
	s.receiver.SetScript(gatewaytest.OK)
	s.caughtUp(t)
}

// The member goes on, the partition is another's: the broker would take its commit.
func TestM13_AnAckAfterACooperativeRevokeIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t, 2, promised, nil)
	s.produce(t, 2, 20)
	first := []gatewaytest.Delivery{s.deliveryOf(t, 0, 0), s.deliveryOf(t, 1, 0)}
	other := s.join(t)
	p, kept := s.moved(t, max(first[0].Generation, first[1].Generation))
	commits := len(s.broker.CommitRequests(faultGroup))
	for range 10 {
		s.refused(t, "the token after the revoke", byToken(first[p]), groupmanager.ErrNoOwner)
		s.refused(t, "the fields after the revoke", byFields(first[p]), groupmanager.ErrNoOwner)
	}
	s.receiver.Acked(gatewaytest.Ack{Webhook: faultHook, Partition: first[kept].Partition, First: first[kept].First(), Last: first[kept].Last(), At: time.Now()})
	if a, err := s.Ack(t.Context(), byToken(first[kept])); err != nil || a.Result != "committed" {
		t.Errorf("the ack of the partition that was kept: %+v, %v, want committed", a, err)
	}
	for _, c := range s.broker.CommitRequests(faultGroup)[commits:] {
		if offset, ok := c.Offsets[first[p].Partition]; ok {
			t.Errorf("commit of %d for the partition that was given up", offset)
		}
	}
	other.Close()
	s.receiver.SetScript(gatewaytest.OK)
	s.caughtUp(t)
}

// The same between replicas: whichever of them is asked, an ack of a tenure that has
// ended is stale, and says so as soon as somebody holds the partition.
func TestM12_AnAckThatComesByWayOfAnotherReplicaIsStaleThere(t *testing.T) {
	t.Parallel()
	s := newScene(t, 2, promised, nil)
	s.produce(t, 2, 20)
	first := []gatewaytest.Delivery{s.deliveryOf(t, 0, 0), s.deliveryOf(t, 1, 0)}
	since := max(first[0].Generation, first[1].Generation)
	other := s.another(t)
	var p int32
	gatewaytest.Await(t, patience, func() error {
		rows, err := s.Partitions(t.Context(), "default", faultHook)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.Owner == other.id {
				p = r.Partition
				return nil
			}
		}
		return fmt.Errorf("%s holds nothing yet: %+v", other.id, rows)
	})
	theirs := s.deliveryOf(t, p, since+1)
	everywhere := func(when string, d gatewaytest.Delivery, replicas ...*house) {
		t.Helper()
		for _, h := range replicas {
			at := &scene{house: h}
			at.refused(t, "the token "+when+", at "+h.id, byToken(d), nil)
			at.refused(t, "the fields "+when+", at "+h.id, byFields(d), nil)
		}
	}
	everywhere("of the first tenure", first[p], s.house, other)
	other.stop()
	now := s.owned(t, p, theirs.Generation)
	third := s.deliveryOf(t, p, now)
	everywhere("of the first tenure, after it came back", first[p], s.house)
	everywhere("of the other's tenure, after it came back", theirs, s.house)
	if got := s.at(t, p); got != 0 {
		t.Errorf("committed offset %d after acks of tenures that have ended, want 0", got)
	}
	s.receiver.Acked(gatewaytest.Ack{Webhook: faultHook, Partition: third.Partition, First: third.First(), Last: third.Last(), At: time.Now()})
	if a, err := s.Ack(t.Context(), byToken(third)); err != nil || a.Result != "committed" {
		t.Errorf("the ack of the tenure that stands: %+v, %v, want committed", a, err)
	}
	s.receiver.SetScript(gatewaytest.OK)
	s.caughtUp(t)
}

// TestAMemberThatEndsWhileItIsAssignedMoreLeavesItsGroup: what comes while a member
// drains for the last time is not taken, so it cannot be taken away either. The
// client was told to, refused, and neither left the group nor closed.
func TestAMemberThatEndsWhileItIsAssignedMoreLeavesItsGroup(t *testing.T) {
	const drains = time.Second
	s := newScene(t, 1, func(*gatewaytest.Delivery) gatewaytest.Answer { return gatewaytest.Answer{Delay: drains} }, nil)
	s.produce(t, 1, 1)
	gatewaytest.Await(t, patience, func() error {
		if row := s.row(t, 0); row.InFlight != 1 {
			return fmt.Errorf("%d requests are under way, want one", row.InFlight)
		}
		return nil
	})
	synced, assign := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	s.broker.ControlKey(int16(kmsg.SyncGroup), func(r kmsg.Request) (kmsg.Response, error, bool) {
		if r.(*kmsg.SyncGroupRequest).Group == faultGroup && !once.Swap(true) {
			close(synced)
			s.broker.SleepControl(func() { <-assign })
		}
		return nil, nil, false
	})
	if _, err := s.kafka.Admin().CreatePartitions(t.Context(), 1, faultTopic); err != nil {
		t.Fatal(err)
	}
	<-synced
	time.AfterFunc(drains/4, func() { close(assign) })
	began := time.Now()
	s.stop()
	if took := time.Since(began); took > 2*drains {
		t.Errorf("the end took %v, want little more than the drain of %v", took, drains)
	}
	s.givenUp(t, 0)
}
