package groupmanager

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/internal/partitionqueue"
	"github.com/kpush/kpush/webhooks"
)

const (
	interleavings = 100_000 // of acks, commits and a revoke: one in each tenure
	tenures       = 2       // of each schedule
	perBubble     = 250
	logEnd        = 12 // records of the partition
)

// TestM14_AnAckIsWhollyBeforeARevokeOrWhollyRefused lets acks, commits and a revoke
// come at random moments, over the real committer, tenures, lanes and ledgers and a
// coordinator of our own.
func TestM14_AnAckIsWhollyBeforeARevokeOrWhollyRefused(t *testing.T) {
	t.Parallel()
	schedules := interleavings / tenures
	if raceDetector || testing.Short() {
		schedules /= 20
	}
	for first := 0; first < schedules; first += perBubble {
		bubble(t, func(t *testing.T) {
			r := newRig(t, received, func(w *webhooks.Webhook) {
				w.Ordering, w.MaxInFlight, w.Batch.MaxRecords = webhooks.OrderingNone, logEnd, 2
			})
			defer r.receiver.Close()
			r.partition.end() // tenures get partitions of their own
			for seed := first; seed < first+perBubble; seed++ {
				if err := newSchedule(t, r, uint64(seed)).play(); err != nil {
					t.Fatalf("schedule of seed %d: %v", seed, err)
				}
			}
		})
	}
}

// How a tenure of a schedule ends.
const (
	revoked = iota // and every commit succeeds
	flaky          // revoked, and commits fail, before or after they were carried out
	lost           // the coordinator fences the member before the member knows
	endings
)

// coordinator keeps the committed offset of one partition.
type coordinator struct {
	mu        sync.Mutex
	random    *rand.Rand
	committed int64
	ending    int
	fenced    bool // the member is not of the group any more
	over      bool // the tenure has ended: nothing may begin to be committed
	wrong     error
}

// while is a random time that the caller holding mu lets pass.
func (c *coordinator) while(most time.Duration) time.Duration {
	return time.Duration(c.random.Int64N(int64(most)))
}

// assign tells the committed offset to a member that gets the partition.
func (c *coordinator) assign(ending int) (committed int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ending, c.fenced, c.over = ending, false, false
	return c.committed
}

// commit is a commitFunc.
func (c *coordinator) commit(due map[topicPartition]position) (map[topicPartition]bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		c.wrong = errors.New("a commit began after the revoke had returned")
	}
	c.pass(20 * time.Millisecond)
	if c.fenced {
		return nil, kafka.NewError(kafka.ErrIllegalGeneration, "", false)
	}
	if c.ending == flaky && c.random.IntN(4) == 0 {
		return nil, errors.New("not carried out")
	}
	confirmed := make(map[topicPartition]bool)
	for tp, p := range due {
		if p.offset < c.committed {
			c.wrong = fmt.Errorf("the committed offset went from %d to %d", c.committed, p.offset)
		}
		c.committed, confirmed[tp] = p.offset, true
	}
	c.pass(20 * time.Millisecond)
	if c.ending == flaky && c.random.IntN(4) == 0 {
		return nil, errors.New("carried out, and the answer lost")
	}
	return confirmed, nil
}

// pass lets time pass without mu.
func (c *coordinator) pass(most time.Duration) {
	d := c.while(most)
	c.mu.Unlock()
	time.Sleep(d)
	c.mu.Lock()
}

// schedule is one random life of a partition at one replica.
type schedule struct {
	t      *testing.T
	random *rand.Rand
	broker *coordinator
	group  *group
	member *member
	rig    *rig

	mu      sync.Mutex
	acked   [logEnd]bool // answered positively
	unsure  [logEnd]bool // or refused because the owner went away
	replays []target     // acks of the tenure before
}

var orders = topicPartition{"orders", 3}

func newSchedule(t *testing.T, r *rig, seed uint64) *schedule {
	s := &schedule{
		t: t, rig: r, random: rand.New(rand.NewPCG(14, seed)),
		broker: &coordinator{random: rand.New(rand.NewPCG(41, seed))},
		member: &member{held: make(map[topicPartition]held), logger: r.lane.logger, drain: testDrain},
	}
	r.receiver.requests = nil
	c := newCommitter(s.broker.commit, s.member.current.Load, r.lane.metrics, r.lane.logger)
	lane := *r.lane.laneConfig
	lane.generation, lane.publish, lane.note = s.member.current.Load, c.publish, c.note
	lane.webhook.Batch.MaxRecords = 1 + s.random.IntN(3)
	s.member.committer, s.member.lane = c, &lane
	s.group = &group{member: s.member}
	return s
}

func (s *schedule) play() error {
	ctx, stop := context.WithCancel(context.Background())
	var committing sync.WaitGroup
	committing.Go(func() { s.member.committer.run(ctx) })
	defer committing.Wait()
	defer stop()
	generation := int32(7)
	for range tenures {
		if err := s.tenure(generation, s.random.IntN(endings)); err != nil {
			return err
		}
		generation += s.random.Int32N(2) // a partition may begin anew within a generation
	}
	return nil
}

// tenure plays one assignment from its beginning to its end.
func (s *schedule) tenure(generation int32, ending int) error {
	begin := s.broker.assign(ending)
	s.acked, s.unsure = [logEnd]bool{}, [logEnd]bool{}
	s.assign(generation, begin)
	synctest.Wait()

	targets := s.targets()
	var acks sync.WaitGroup
	for range 1 + s.random.IntN(6) {
		t := targets[s.random.IntN(len(targets))]
		after, accept := time.Duration(s.random.Int64N(int64(300*time.Millisecond))), s.random.IntN(3) == 0
		acks.Go(func() {
			time.Sleep(after)
			s.say(t, accept)
		})
	}
	time.Sleep(time.Duration(s.random.Int64N(int64(300 * time.Millisecond))))
	if ending == lost {
		s.broker.mu.Lock()
		s.broker.fenced = true
		s.broker.mu.Unlock()
		time.Sleep(time.Duration(s.random.Int64N(int64(50 * time.Millisecond))))
	}
	s.member.release([]topicPartition{orders}, ending == lost)
	s.broker.mu.Lock()
	s.broker.over = true
	s.broker.mu.Unlock()
	acks.Wait()
	time.Sleep(time.Second) // for what may still come
	s.replays = append(s.replays, targets...)
	return s.judge(begin, ending)
}

// assign begins a tenure at the committed offset, and delivers all that is left.
func (s *schedule) assign(generation int32, committed int64) {
	s.member.current.Store(generation)
	q := newQueue()
	for offset := committed; offset < logEnd; offset++ {
		q.put(offset)
	}
	tn := newTenure(orders, [16]byte{}, generation, position{offset: committed})
	p := newPartition(s.member.lane, tn, q, &s.rig.paused, s.member.fault)
	ctx, cancel := context.WithCancelCause(context.Background())
	s.member.held[orders] = held{partition: p, queue: &partitionqueue.Queue{}, cancel: cancel}
	s.member.committer.begin(tn)
	go p.run(ctx, testDrain) // release waits for it
}

// targets are the acks that a receiver may make now: by token, whole or in part, by
// fields, and of a tenure that has ended.
func (s *schedule) targets() []target {
	h := s.member.held[orders]
	generation := s.member.current.Load()
	list := slices.Clone(s.replays)
	for _, q := range s.rig.receiver.seen() {
		if q.token.Tenure != h.tenure.id {
			continue
		}
		whole := target{topicPartition: orders, generation: generation, tenure: h.tenure.id,
			ask: ask{statement: acker.Statement{First: q.first, Last: q.last, UpTo: q.last}}}
		head := whole
		head.statement.UpTo = q.first
		fields := whole
		fields.tenure, fields.statement.First = 0, acker.Everything
		list = append(list, whole, whole, head, fields)
	}
	return append(list, target{topicPartition: orders, generation: generation,
		ask: ask{statement: acker.Statement{First: acker.Everything, Last: logEnd, UpTo: logEnd}}})
}

// say makes an ack and notes what its answer promises.
func (s *schedule) say(t target, accept bool) {
	answer, err := s.group.ack(s.t.Context(), t, AckRequest{WaitAccept: accept})
	s.broker.mu.Lock()
	committed := s.broker.committed
	s.broker.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	first := max(t.statement.First, 0)
	switch {
	case err == nil && t.statement.UpTo >= logEnd:
		s.fail("an ack of what was never delivered: %+v", answer)
	case err == nil && slices.ContainsFunc(s.replays, func(r target) bool { return r.tenure != 0 && r.tenure == t.tenure }):
		s.fail("an ack of an earlier tenure: %+v", answer)
	case err == nil:
		if answer.CommittedOffset != nil && committed <= t.statement.UpTo {
			s.fail("answered %s at %d, the coordinator has %d", answer.Result, *answer.CommittedOffset, committed)
		}
		for o := first; o <= t.statement.UpTo; o++ {
			s.acked[o], s.unsure[o] = true, true
		}
	case errors.Is(err, ErrNoOwner):
		for o := first; o <= t.statement.UpTo; o++ {
			s.unsure[min(o, logEnd-1)] = true
		}
	}
}

func (s *schedule) fail(format string, args ...any) {
	s.broker.mu.Lock()
	defer s.broker.mu.Unlock()
	s.broker.wrong = fmt.Errorf(format, args...)
}

// judge compares what is committed with what was answered. Where nothing failed
// they are the same: every ack was wholly before the revoke, or wholly refused.
func (s *schedule) judge(begin int64, ending int) error {
	upTo := func(done [logEnd]bool) int64 {
		n := begin
		for n < logEnd && done[n] {
			n++
		}
		return n
	}
	s.broker.mu.Lock()
	defer s.broker.mu.Unlock()
	got, acked, unsure := s.broker.committed, upTo(s.acked), upTo(s.unsure)
	switch {
	case s.broker.wrong != nil:
		return s.broker.wrong
	case ending == revoked && got != acked:
		return fmt.Errorf("committed %d, want what was acked: %d", got, acked)
	case got > unsure:
		return fmt.Errorf("committed %d, at most %d was ever acked", got, unsure)
	}
	return nil
}
