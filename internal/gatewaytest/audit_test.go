package gatewaytest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

var orders = Partition{"orders", 0}

// clean is the evidence of a faultless run: ten records with a hole at 4 (a
// transaction marker), delivered in three batches, each acked, all committed.
func clean() Evidence {
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	produced := new(Produced)
	digests := map[int64]Digest{}
	for offset := range int64(10) {
		if offset == 4 {
			continue
		}
		r := &kgo.Record{Topic: orders.Topic, Offset: offset, Value: []byte{byte(offset)}, Timestamp: start}
		produced.Add(r)
		digests[offset] = DigestOf(r)
	}
	e := Evidence{
		Webhook: "w", Produced: produced,
		Committed: map[Partition]int64{orders: 10}, Ends: map[Partition]int64{orders: 10},
		Start: map[Partition]int64{},
	}
	for i, offsets := range [][]int64{{0, 1, 2}, {3, 5, 6}, {7, 8, 9}} {
		d := Delivery{
			Webhook: "w", Partition: orders, ID: "dl_" + string(rune('a'+i)), Attempt: 1, Status: 200,
			Arrived: at(100 * i), Answered: at(100*i + 10),
		}
		for _, o := range offsets {
			d.Records = append(d.Records, Record{Offset: o, Digest: digests[o], Timestamp: start.UnixMilli()})
		}
		e.Deliveries = append(e.Deliveries, d)
		e.Acks = append(e.Acks, Ack{Webhook: "w", Partition: orders, First: d.First(), Last: d.Last(), At: d.Answered})
		e.Commits = append(e.Commits, Commit{Partition: orders, Offset: d.Last() + 1, At: at(100*i + 20)})
	}
	return e
}

// again is the evidence with one more arrival of a delivery at its end.
func again(e *Evidence, i int) *Delivery {
	d := e.Deliveries[i]
	d.Records = slices.Clone(d.Records)
	d.Arrived = e.Deliveries[len(e.Deliveries)-1].Answered.Add(time.Second)
	d.Answered = d.Arrived.Add(time.Millisecond)
	e.Deliveries = append(e.Deliveries, d)
	return &e.Deliveries[len(e.Deliveries)-1]
}

// checkFound compares what an audit found with how one of its anomalies has to begin.
func checkFound(t *testing.T, report Report, want string) {
	t.Helper()
	begins := func(a Anomaly) bool { return strings.HasPrefix(a.String(), want) }
	switch {
	case want == "" && len(report.Anomalies) > 0:
		t.Errorf("found %v, want nothing", report.Anomalies)
	case want != "" && !slices.ContainsFunc(report.Anomalies, begins):
		t.Errorf("found %v, want %q", report.Anomalies, want)
	}
}

func TestAudit(t *testing.T) {
	for _, test := range []struct {
		name       string
		doctor     func(e *Evidence)
		want       string // how an anomaly begins; empty: there is none
		repeats    int
		duplicates int
	}{
		{name: "a faultless run is clean", doctor: func(*Evidence) {}},
		{name: "a record that was never acked and is committed", doctor: func(e *Evidence) {
			e.Acks, e.Ends = e.Acks[:2], nil
		}, want: "S1 orders/0 7..9: committed and never acked"},
		{name: "without the history the last commit is enough to see it", doctor: func(e *Evidence) {
			e.Acks, e.Commits, e.Ends = e.Acks[1:], nil, nil
		}, want: "S1 orders/0 0..2: committed and never acked"},
		{name: "a commit that came before the ack", doctor: func(e *Evidence) {
			e.Acks[1].At = e.Commits[1].At.Add(time.Second)
		}, want: "S1 orders/0 3..3: committed before it was acked"},
		{name: "an ack of the head does not cover the rest", doctor: func(e *Evidence) {
			e.Acks[2].Last, e.Ends = 8, nil
		}, want: "S1 orders/0 9..9: committed and never acked"},
		{name: "a dead-lettered record needs no ack", doctor: func(e *Evidence) {
			e.Acks[2].Last = 8
			e.Settled = map[Partition][]int64{orders: {9}}
		}},
		{name: "a commit that goes down", doctor: func(e *Evidence) {
			e.Commits = append(e.Commits, Commit{Partition: orders, Offset: 7, At: e.Commits[2].At})
		}, want: "S5 orders/0 7..10"},
		{name: "a last commit below an earlier one", doctor: func(e *Evidence) {
			e.Committed[orders], e.Ends = 7, nil
		}, want: "S5 orders/0 7..10"},
		{name: "a transaction marker delivered", doctor: func(e *Evidence) {
			e.Deliveries[1].Records[0].Offset = 4
			e.Acks[1].First, e.Settled = 4, map[Partition][]int64{orders: {3}}
			e.Unordered = true
		}, want: "S6 orders/0 4..4"},
		{name: "other bytes", doctor: func(e *Evidence) {
			e.Deliveries[2].Records[1].Digest++
		}, want: "S7 orders/0 8..8: delivered with other bytes"},
		{name: "one delivery id for other records", doctor: func(e *Evidence) {
			e.Deliveries[2].ID = e.Deliveries[0].ID
		}, want: "S7 orders/0 7..9: delivery dl_a held orders/0 0..2 before"},
		{name: "a skipped record", doctor: func(e *Evidence) {
			e.Deliveries[1].Records = e.Deliveries[1].Records[1:]
		}, want: "O1 orders/0 3..3: passed over"},
		{name: "a batch that was not acked and is passed over", doctor: func(e *Evidence) {
			e.Acks[1].At = e.Deliveries[2].Arrived.Add(time.Millisecond)
			e.Commits = nil
		}, want: "O2 orders/0 3..3: still to be acked when 7..9 was delivered"},
		{name: "a partition left alone", doctor: func(e *Evidence) {
			e.MaxGap = 80 * time.Millisecond
		}, want: "L5 orders/0 3..9: nothing was delivered for 90ms"},
		{name: "a partition left alone for no longer than it may be", doctor: func(e *Evidence) {
			e.MaxGap = 110 * time.Millisecond
		}},
		{name: "a webhook that is gone", doctor: func(e *Evidence) {
			e.Registered = true
		}, want: "S10 /0 0..0: webhook w was registered and is gone"},
		{name: "a deleted webhook gets the one request under way", doctor: func(e *Evidence) {
			e.Absent = []Span{{From: e.Deliveries[2].Arrived.Add(-time.Millisecond)}}
		}},
		{name: "a deleted webhook gets more than that", doctor: func(e *Evidence) {
			e.Absent = []Span{{From: e.Deliveries[1].Arrived.Add(-time.Millisecond)}}
		}, want: "S10 orders/0 7..9: delivered although the webhook was deleted"},
		{name: "a webhook created again gets deliveries again", doctor: func(e *Evidence) {
			e.Absent = []Span{{From: e.Deliveries[0].Answered, To: e.Deliveries[1].Arrived.Add(-time.Millisecond)}}
		}},
		{name: "first deliveries out of order", doctor: func(e *Evidence) {
			e.Deliveries[1].Records[1], e.Deliveries[1].Records[2] = e.Deliveries[1].Records[2], e.Deliveries[1].Records[1]
			e.Deliveries = e.Deliveries[:2]
		}, want: "O1 orders/0 5..5: passed over"},
		{name: "two requests under way at once", doctor: func(e *Evidence) {
			e.Deliveries[0].Answered = e.Deliveries[1].Arrived.Add(time.Millisecond)
		}, want: "O4 orders/0 3..6"},
		{name: "two requests at once are fine without order", doctor: func(e *Evidence) {
			e.Deliveries[0].Answered, e.Unordered = e.Deliveries[1].Arrived.Add(time.Millisecond), true
		}},
		{name: "records that were never delivered", doctor: func(e *Evidence) {
			e.Deliveries, e.Acks, e.Commits = e.Deliveries[:2], e.Acks[:2], e.Commits[:2]
			e.Committed[orders] = 7
		}, want: "L1 orders/0 7..9: never acked"},
		{name: "a lag that stays", doctor: func(e *Evidence) {
			e.Ends[orders] = 11
		}, want: "L2 orders/0 10..11"},
		{name: "nothing committed at all", doctor: func(e *Evidence) {
			e.Committed, e.Commits = nil, nil
		}, want: "L2 orders/0 0..10: nothing is committed"},
		{name: "a complaint of the receiver", doctor: func(e *Evidence) {
			e.Complaints = []string{"bad signature"}
		}, want: "S9 /0 0..0: bad signature"},
		{name: "records before the start are not missed", doctor: func(e *Evidence) {
			e.Deliveries, e.Acks, e.Commits = e.Deliveries[1:], e.Acks[1:], e.Commits[1:]
			e.Start[orders] = 3
		}},
		{name: "a repeat after a failure is no duplicate", doctor: func(e *Evidence) {
			again(e, 2)
			e.Acks[2].At = e.Deliveries[3].Answered
			e.Commits[2].At = e.Acks[2].At
		}, repeats: 3},
		{name: "a repeat after an ack is a duplicate", doctor: func(e *Evidence) {
			again(e, 1)
		}, repeats: 3, duplicates: 3},
		{name: "a duplicate where there may be none", doctor: func(e *Evidence) {
			again(e, 1)
			e.Clean = true
			e.Deliveries[3].Arrived, e.Deliveries[3].Answered = e.Deliveries[1].Answered, e.Deliveries[1].Answered
			e.Deliveries[2], e.Deliveries[3] = e.Deliveries[3], e.Deliveries[2]
			e.Acks[1].At = e.Acks[1].At.Add(-time.Millisecond)
		}, want: "D1 orders/0 3..3: came again", repeats: 3, duplicates: 3},
		{name: "a repeat with other bytes", doctor: func(e *Evidence) {
			d := again(e, 0)
			d.ID = "dl_z"
			d.Records[2].Digest++
		}, want: "S7 orders/0 2..2", repeats: 3, duplicates: 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := clean()
			test.doctor(&e)
			report := Audit(e)
			checkFound(t, report, test.want)
			if report.Repeats != test.repeats || report.Duplicates != test.duplicates {
				t.Errorf("counted %d repeats and %d duplicates, want %d and %d",
					report.Repeats, report.Duplicates, test.repeats, test.duplicates)
			}
		})
	}
}
