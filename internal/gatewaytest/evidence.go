package gatewaytest

import (
	"fmt"
	"testing"
	"time"
)

// Evidence is what is known of one webhook when a test has come to its end.
type Evidence struct {
	Webhook    string
	Produced   *Produced
	Deliveries []Delivery // in order of arrival
	Acks       []Ack
	Answers    []AckAnswer // what POST /ack answered
	Complaints []string

	// Settled are the records that need no ack: dead-lettered with a confirmed
	// write, or skipped because the webhook's policy says so.
	Settled map[Partition][]int64

	Committed map[Partition]int64 // what the group has committed at the end
	Commits   []Commit            // every commit of the group in order, where it was read

	// Generations of the group in order, where they were read together with
	// Commits. With them each commit and each delivery is held against its owner.
	Generations []Generation

	// Holdings are the times in which gateways held partitions, as their logs tell.
	Holdings []Holding

	// Resets are the offsets that somebody has set by hand, from outside or by a seek.
	Resets []Reset

	// Start is where the group began; a partition without an entry began at 0.
	Start map[Partition]int64

	// Ends, when set, says that the webhook had the time to deliver everything:
	// all of Produced must have been acked and every end committed.
	Ends map[Partition]int64

	// Unordered says that the webhook's ordering is not by partition.
	Unordered bool

	// Clean says that no answer was lost and nobody ended the hard way but those in
	// Hard: no other record may have come after it was acked.
	Clean bool

	// Hard are the replicas that ended, or lost their partitions, without being asked to.
	Hard []HardEnd

	// Window, when above 0, is the most records that may come again after their ack
	// when one partition changes hands in the hard way.
	Window int

	// Zombies is the number of requests per tenure that may still arrive after the
	// tenure's successor has begun: the one a stopped replica had under way.
	Zombies int

	// MaxGap, when above 0, is the longest time in which a partition may get nothing
	// while it has records to deliver.
	MaxGap time.Duration

	// Absent are the times in which the webhook did not exist: from the answer to a
	// DELETE to the beginning of the call that created it again.
	Absent []Span

	// Registered says that a call answered 2xx has left the webhook existing;
	// Listed whether it was there when the registry was read at the end.
	Registered, Listed bool
}

// Reset is one committed offset set on purpose.
type Reset struct {
	Partition Partition
	Offset    int64
}

// Holding is a time in which a gateway held a partition, by its own word.
type Holding struct {
	Client    string // client.id of its members, see Config.Client
	Partition Partition
	From, To  time.Time // a zero To has not come, or the gateway ended without a word
}

// HardEnd is the moment at which a replica was killed, stopped or cut off.
type HardEnd struct {
	Client string // client.id of its members, see Config.Client
	At     time.Time
}

// Span is a time; a zero To has not come yet.
type Span struct{ From, To time.Time }

// Anomaly is one thing that must not be, with the offsets it concerns.
type Anomaly struct {
	Rule        string // S1, O1, ...: what was broken
	Partition   Partition
	First, Last int64 // inclusive
	Text        string
}

func (a Anomaly) String() string {
	return fmt.Sprintf("%s %s %d..%d: %s", a.Rule, a.Partition, a.First, a.Last, a.Text)
}

// Report is what an audit found.
type Report struct {
	Anomalies  []Anomaly
	Deliveries int // requests that arrived
	Records    int // different records that arrived
	Repeats    int // arrivals of a record that had arrived before, whatever the reason
	Duplicates int // arrivals of a record after it had been acked
	Rebalances int // generations of the group after the first with members
	Gap        Gap // the longest
}

// Gap is a time in which a partition got nothing though it had records to deliver.
type Gap struct {
	Partition Partition
	Until     time.Time // when the next delivery came
	Length    time.Duration
}

// maxPrinted bounds how many anomalies a failing test prints.
const maxPrinted = 40

// Check fails the test if anything was found.
func (r Report) Check(t testing.TB) {
	t.Helper()
	t.Logf("audit: %d records in %d deliveries, %d repeats, %d duplicates, %d rebalances, longest gap %v of %s",
		r.Records, r.Deliveries, r.Repeats, r.Duplicates, r.Rebalances, r.Gap.Length.Round(time.Millisecond), r.Gap.Partition)
	for i, a := range r.Anomalies {
		if i == maxPrinted {
			t.Errorf("audit: and %d more", len(r.Anomalies)-i)
			break
		}
		t.Errorf("audit: %s", a)
	}
}

// Rules is how many anomalies of each rule there are.
func (r Report) Rules() map[string]int {
	out := map[string]int{}
	for _, a := range r.Anomalies {
		out[a.Rule]++
	}
	return out
}
