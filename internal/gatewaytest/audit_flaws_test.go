package gatewaytest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The flaws that a gateway of the simulation may have.
type flaws struct {
	beyondAcks bool // commits what was delivered, acked or not
	unfenced   bool // a former owner commits what it has, whoever holds the partition now
	backwards  bool // does not mind whether a commit is lower than the one before
	hasty      bool // gives the partition up with a request under way
}

// simulation is a small gateway of two replicas that take turns at one partition,
// and the ledgers of what it did. Its clock is its own.
type simulation struct {
	flaws
	random *rand.Rand
	now    time.Time
	place  int64
	e      Evidence

	owner     string
	number    int32 // of the generation
	committed int64
	safe      map[string]int64 // what each replica thinks may be committed
}

const simulated = 400 // records

func newSimulation(seed uint64, f flaws) *simulation {
	s := &simulation{
		flaws: f, random: rand.New(rand.NewPCG(seed, seed)), now: time.Now(), safe: map[string]int64{},
		e: Evidence{Webhook: "w", Produced: new(Produced), Clean: true},
	}
	for offset := range int64(simulated) {
		s.e.Produced.Add(&kgo.Record{Topic: orders.Topic, Offset: offset, Timestamp: s.now})
	}
	s.generation(member("a", orders), member("b"))
	s.owner = "a"
	return s
}

// pass lets time go by.
func (s *simulation) pass(d time.Duration) time.Time {
	s.now = s.now.Add(d)
	return s.now
}

func (s *simulation) generation(members ...Member) {
	s.number++
	s.place++
	s.e.Generations = append(s.e.Generations, Generation{Number: s.number, Members: members, At: s.pass(10 * time.Millisecond), Place: s.place})
	s.pass(10 * time.Millisecond)
}

// send delivers the next batch, which the receiver answers with a status.
func (s *simulation) send(status int) (first, last int64) {
	first = min(s.safe[s.owner], simulated-1)
	last = min(first+s.random.Int64N(10), simulated-1)
	d := Delivery{
		Webhook: "w", Partition: orders, ID: fmt.Sprint("dl", first, "-", last), Generation: s.number,
		Arrived: s.pass(time.Millisecond), Answered: s.pass(5 * time.Millisecond), Status: status,
	}
	for offset := first; offset <= last; offset++ {
		r := kgo.Record{Topic: orders.Topic, Offset: offset, Timestamp: s.e.Generations[0].At.Add(-10 * time.Millisecond)}
		d.Records = append(d.Records, Record{Offset: offset, Timestamp: r.Timestamp.UnixMilli(), Digest: DigestOf(&r)})
	}
	s.e.Deliveries = append(s.e.Deliveries, d)
	return first, last
}

// ack enters an ack of records in the ledger and in a replica's books.
func (s *simulation) ack(replica string, first, last int64) {
	s.e.Acks = append(s.e.Acks, Ack{Webhook: "w", Partition: orders, First: first, Last: last, At: s.now})
	s.safe[replica] = last + 1
}

// deliver sends the next batch, which fails now and then.
func (s *simulation) deliver() {
	if s.random.IntN(5) > 0 {
		first, last := s.send(200)
		s.ack(s.owner, first, last)
	} else if _, last := s.send(500); s.beyondAcks {
		s.write(last + 1)
	}
}

// commit commits what a replica has; the broker does not know who may.
func (s *simulation) commit(replica string) {
	if s.owner != replica && !s.unfenced {
		return
	}
	if s.safe[replica] < s.committed && !s.backwards || s.safe[replica] == s.committed {
		return
	}
	s.write(s.safe[replica])
}

func (s *simulation) write(offset int64) {
	s.place++
	s.committed = offset
	s.e.Commits = append(s.e.Commits, Commit{Partition: orders, Offset: offset, At: s.pass(5 * time.Millisecond), Place: s.place})
}

// handOver gives the partition to the other replica in the cooperative way.
func (s *simulation) handOver() {
	former, next := s.owner, "a"
	if former == "a" {
		next = "b"
	}
	s.commit(former)
	first, last := s.send(202) // the ack will come
	if s.hasty {
		s.ack(former, first, last) // and nobody commits it
	}
	s.generation(member(former), member(next))
	s.owner = next
	s.generation(member(former), member(next, orders))
	s.safe[next] = s.committed
	if s.unfenced {
		s.ack(former, first, last)
		s.commit(former)
	}
	if s.backwards {
		s.deliver()
		s.commit(next)
		s.commit(former)
	}
}

// run plays until most of the partition is done, and audits.
func (s *simulation) run() Report {
	for s.safe[s.owner] < simulated-20 && len(s.e.Deliveries) < simulated {
		switch n := s.random.IntN(20); {
		case n == 0:
			s.handOver()
		case n < 6:
			s.commit(s.owner)
		default:
			s.deliver()
		}
	}
	return Audit(s.e)
}

func TestAuditFindsFlaws(t *testing.T) {
	const seeds = 50
	for _, test := range []struct {
		name  string
		flaws flaws
		rule  string
	}{
		{"a gateway without a flaw", flaws{}, ""},
		{"commits beyond acks", flaws{beyondAcks: true}, "S1"},
		{"commits of a former owner", flaws{unfenced: true}, "S2"},
		{"commits that go down", flaws{unfenced: true, backwards: true}, "S5"},
		{"a hand-over with a request under way", flaws{hasty: true}, "D1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			found := 0
			for seed := range uint64(seeds) {
				report := newSimulation(seed, test.flaws).run()
				if test.rule == "" && len(report.Anomalies) > 0 {
					t.Fatalf("seed %d: found %v, want nothing", seed, report.Anomalies)
				}
				if slices.ContainsFunc(report.Anomalies, func(a Anomaly) bool { return a.Rule == test.rule }) {
					found++
				}
			}
			if test.rule != "" && found < seeds/2 {
				t.Errorf("%s was found in %d of %d runs, want it in most", test.rule, found, seeds)
			}
			t.Logf("%s found in %d of %d runs", test.rule, found, seeds)
		})
	}
}
