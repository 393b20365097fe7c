package groupmanager_test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kpush/kpush/internal/gatewaytest"
)

// A commit is refused for a while, each time for another reason. What was acked
// meanwhile is committed when the reason has gone, by tenures that still stand.
func TestK7_ACommitThatIsRefusedForAWhileIsMadeAgain(t *testing.T) {
	for _, code := range []*kerr.Error{
		kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable, kerr.NotCoordinator,
		kerr.RequestTimedOut, kerr.RebalanceInProgress, kerr.UnknownServerError,
	} {
		t.Run(code.Message, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, 2, gatewaytest.OK, longSession)
			s.produce(t, 2, 20)
			s.caughtUp(t)
			before := s.row(t, 0).Generation
			fault := s.failing(kfake.Fault{Err: code}, kmsg.OffsetCommit)
			s.produce(t, 2, 20)
			hit(t, fault, 2)
			// A commit that timed out was carried out all the same, for all we know.
			if got := s.at(t, 0) + s.at(t, 1); got != 20 && code != kerr.RequestTimedOut {
				t.Errorf("%d records committed while commits fail, want the 20 of before", got)
			}
			fault.Remove()
			if r := s.caughtUp(t); r.Repeats != 0 {
				t.Errorf("%d records came twice, want none", r.Repeats)
			}
			if after := s.row(t, 0).Generation; after != before {
				t.Errorf("generation %d after %d, want the tenure to stand", after, before)
			}
		})
	}
}

// longSession outlives every pause the client makes after a bad answer.
var longSession = map[string]string{"session.timeout.ms": "45000"}

// The coordinator says that the member is not of the group any more, or that it is
// at another generation. What was not committed comes again, at a new generation.
func TestK7_ACommitByAMemberThatIsOutDropsTheTenure(t *testing.T) {
	for _, test := range []struct {
		code  *kerr.Error
		told  kmsg.Key
		expel bool // or the group would wait for the member that was told it is unknown
	}{
		{kerr.IllegalGeneration, kmsg.OffsetCommit, false},
		{kerr.IllegalGeneration, kmsg.Heartbeat, false},
		{kerr.UnknownMemberID, kmsg.OffsetCommit, true},
	} {
		t.Run(test.code.Message+" told to "+test.told.Name(), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, 2, gatewaytest.OK, longSession)
			s.produce(t, 2, 20)
			s.caughtUp(t)
			before := s.row(t, 0).Generation
			fault := s.failing(kfake.Fault{Err: test.code, Count: 1}, test.told)
			if test.expel {
				s.broker.Expel(t, faultGroup)
			}
			s.produce(t, 2, 20)
			hit(t, fault, 1)
			s.owned(t, 0, before)
			s.owned(t, 1, before)
			s.caughtUp(t)
		})
	}
}

func TestK7_ACommitRefusedForOnePartitionHoldsUpThatOneOnly(t *testing.T) {
	t.Parallel()
	for _, code := range []*kerr.Error{kerr.UnknownTopicOrPartition, kerr.OffsetMetadataTooLarge, kerr.TopicAuthorizationFailed} {
		t.Run(code.Message, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, 2, gatewaytest.OK, longSession)
			s.produce(t, 2, 20)
			s.caughtUp(t)
			fault := s.failing(kfake.Fault{Err: code, Topic: faultTopic, Partitions: []int32{1}}, kmsg.OffsetCommit)
			s.produce(t, 2, 20)
			hit(t, fault, 2)
			gatewaytest.Await(t, patience, func() error {
				if got := s.at(t, 0); got != 20 {
					return fmt.Errorf("committed offset %d of the other partition, want 20", got)
				}
				return nil
			})
			if got := s.at(t, 1); got != 10 {
				t.Errorf("committed offset %d, want 10", got)
			}
			fault.Remove()
			if r := s.caughtUp(t); r.Repeats != 0 {
				t.Errorf("%d records came twice, want none", r.Repeats)
			}
		})
	}
}

// The broker has the commit, we do not know it: it is made again, and means the same.
func TestK8_ACommitWhoseAnswerIsLostIsRepeated(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1, promised, longSession)
	s.produce(t, 1, 10)
	d := s.deliveryOf(t, 0, 0)
	lost := s.broker.LoseAnswer(t, faultGroup)
	s.receiver.Acked(gatewaytest.Ack{Webhook: faultHook, Partition: d.Partition, First: d.First(), Last: d.Last(), At: time.Now()})
	a, err := s.Ack(t.Context(), byToken(d))
	if err != nil || a.Result != "committed" || *a.CommittedOffset != d.Last()+1 {
		t.Errorf("the ack: %+v, %v, want committed up to %d", a, err, d.Last()+1)
	}
	if got := lost(); got != 1 {
		t.Fatalf("%d answers were lost, want one", got)
	}
	var asked []int64
	for _, c := range s.broker.CommitRequests(faultGroup)[s.pinned:] {
		asked = append(asked, c.Offsets[d.Partition])
	}
	if len(asked) < 2 {
		t.Errorf("commits %v, want it repeated", asked)
	}
	s.receiver.SetScript(gatewaytest.OK)
	s.produce(t, 1, 10)
	if r := s.caughtUp(t); r.Duplicates != 0 {
		t.Errorf("%d records came again after they had been acked, want none", r.Duplicates)
	}
}

// A restart while nobody can tell where the group stands: what is not known is not
// guessed, neither as the beginning nor as the end.
func TestK9_CommittedOffsetsThatCannotBeReadAreWaitedFor(t *testing.T) {
	for _, code := range []*kerr.Error{
		kerr.NotCoordinator, kerr.CoordinatorNotAvailable, kerr.CoordinatorLoadInProgress, kerr.StaleMemberEpoch,
		kerr.UnstableOffsetCommit, kerr.UnknownServerError,
	} {
		t.Run(code.Message, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, 1, gatewaytest.OK, longSession)
			s.produce(t, 1, 50)
			s.caughtUp(t)
			s.stop()
			s.produce(t, 1, 50)
			before := len(s.receiver.Deliveries(faultHook))

			fault := s.failing(kfake.Fault{Err: code}, kmsg.OffsetFetch)
			s.start(t)
			hit(t, fault, 3)
			time.Sleep(unreadable)
			if got := len(s.receiver.Deliveries(faultHook)); got != before {
				t.Errorf("%d deliveries while nobody knows where the group stands", got-before)
			}
			fault.Remove()
			r := s.caughtUp(t)
			if d := s.receiver.Deliveries(faultHook)[before]; d.First() != 50 || r.Repeats != 0 {
				t.Errorf("delivered from offset %d, %d records twice: want 50 and none", d.First(), r.Repeats)
			}
		})
	}
}

// unreadable is how long the committed offsets stay so after they were asked for
// as often as one assignment does.
const unreadable = 2 * time.Second

// The broker forgets what it had confirmed. The first answer of a process that has
// not seen better has to be believed; here the same process saw the commit.
func TestK10_ACommittedOffsetThatWentBackIsNotBelieved(t *testing.T) {
	for name, spurious := range map[string]int64{"zero": 0, "none": -1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, 2, gatewaytest.OK, nil)
			s.produce(t, 2, 100)
			s.caughtUp(t)
			generation := s.row(t, 0).Generation
			before := len(s.receiver.Deliveries(faultHook))
			commits := len(s.broker.CommitRequests(faultGroup))

			heal := s.forgetful(spurious)
			s.broker.Expel(t, faultGroup) // it comes back and asks where it stands
			s.failed(t, "committed_offset_went_back")
			s.produce(t, 2, 100)
			time.Sleep(time.Second)
			if got := len(s.receiver.Deliveries(faultHook)); got != before {
				t.Errorf("%d deliveries while the broker's word is not believed", got-before)
			}
			for _, c := range s.broker.CommitRequests(faultGroup)[commits:] {
				t.Errorf("commit of %v while the broker's word is not believed", c.Offsets)
			}
			heal()
			s.owned(t, 0, generation)
			if r := s.caughtUp(t); r.Repeats != 0 {
				t.Errorf("%d records came twice, want none", r.Repeats)
			}
		})
	}
}

// forgetful has the broker tell the offset for every partition of the group that
// is asked about, until heal.
func (s *scene) forgetful(offset int64) (heal func()) {
	var healed atomic.Bool
	s.broker.ControlKey(int16(kmsg.OffsetFetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		q := r.(*kmsg.OffsetFetchRequest)
		if healed.Load() || (q.Group != faultGroup && !slices.ContainsFunc(q.Groups, func(g kmsg.OffsetFetchRequestGroup) bool { return g.Group == faultGroup })) {
			return nil, nil, false
		}
		s.broker.KeepControl()
		a := q.ResponseKind().(*kmsg.OffsetFetchResponse)
		for _, topic := range q.Topics {
			told := kmsg.NewOffsetFetchResponseTopic()
			told.Topic = topic.Topic
			for _, p := range topic.Partitions {
				one := kmsg.NewOffsetFetchResponseTopicPartition()
				one.Partition, one.Offset = p, offset
				told.Partitions = append(told.Partitions, one)
			}
			a.Topics = append(a.Topics, told)
		}
		for _, group := range q.Groups {
			g := kmsg.NewOffsetFetchResponseGroup()
			g.Group = group.Group
			for _, topic := range group.Topics {
				told := kmsg.NewOffsetFetchResponseGroupTopic()
				told.Topic, told.TopicID = topic.Topic, topic.TopicID
				for _, p := range topic.Partitions {
					one := kmsg.NewOffsetFetchResponseGroupTopicPartition()
					one.Partition, one.Offset = p, offset
					told.Partitions = append(told.Partitions, one)
				}
				g.Topics = append(g.Topics, told)
			}
			a.Groups = append(a.Groups, g)
		}
		return a, nil, true
	})
	return func() { healed.Store(true) }
}

// The coordinator is away for longer than the session while a commit waits for it.
// The client keeps such a commit until the coordinator is back, and by then it is of
// a tenure that was lost.
func TestK6_ACommitThatWaitedForTheCoordinatorMovesNothingAfterTheLoss(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1, promised, quick)
	s.produce(t, 1, 10)
	d := s.deliveryOf(t, 0, 0)
	away := s.failing(kfake.Fault{Err: kerr.CoordinatorNotAvailable}, kmsg.OffsetCommit, kmsg.Heartbeat, kmsg.JoinGroup, kmsg.FindCoordinator)
	if a, err := s.Ack(t.Context(), byToken(d)); err == nil {
		t.Errorf("the ack: %+v while the coordinator is away, want a refusal", a)
	}
	s.givenUp(t, 0)
	away.Remove()
	s.owned(t, 0, d.Generation)
	again := s.deliveryOf(t, 0, d.Generation+1)
	if got := s.at(t, 0); got != 0 || again.First() != d.First() {
		t.Errorf("committed offset %d and a delivery from %d, want 0 and from %d again", got, again.First(), d.First())
	}
	s.receiver.SetScript(gatewaytest.OK)
	s.caughtUp(t)
}
