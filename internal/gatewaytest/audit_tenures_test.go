package gatewaytest

import (
	"testing"
	"time"
)

// member of the group in hand-made evidence.
func member(name string, assigned ...Partition) Member {
	return Member{ID: name + "-1", Client: "kpush-" + name, Assigned: assigned}
}

// handedOver is the evidence of a faultless hand-over: a held the partition in
// generation 1 and delivered the first two batches, b held it in generation 3 and
// delivered the third. In generation 2, a gave it up in the cooperative way and
// committed its second batch. Every ack came by POST /ack.
func handedOver() Evidence {
	e := clean()
	begin := e.Deliveries[0].Arrived
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	e.Generations = []Generation{
		{Number: 1, At: at(-10), Place: 0, Members: []Member{member("a", orders)}},
		{Number: 2, At: at(115), Place: 20, Members: []Member{member("a"), member("b")}},
		{Number: 3, At: at(130), Place: 40, Members: []Member{member("a"), member("b", orders)}},
	}
	for i, place := range []int64{10, 30, 50} {
		e.Commits[i].Place = place
		d := &e.Deliveries[i]
		d.Generation = []int32{1, 1, 3}[i]
		e.Answers = append(e.Answers, AckAnswer{
			Webhook: "w", Partition: orders, First: d.First(), Last: d.Last(), Generation: d.Generation,
			Sent: d.Answered.Add(time.Millisecond), At: d.Answered.Add(11 * time.Millisecond), Status: 200, Result: "committed",
		})
	}
	return e
}

// killed has a die after its second batch was acked and before it was committed:
// b begins with that batch again.
func killed(e *Evidence) {
	e.Generations[1].Members = nil
	e.Generations[2].Members = []Member{member("b", orders)}
	e.Commits = append(e.Commits[:1], e.Commits[2:]...)
	e.Answers = append(e.Answers[:1], e.Answers[2:]...)
	d := e.Deliveries[1]
	d.Generation, d.Arrived, d.Answered = 3, e.Generations[2].At.Add(time.Millisecond), e.Generations[2].At.Add(2*time.Millisecond)
	e.Deliveries = append(e.Deliveries[:2], append([]Delivery{d}, e.Deliveries[2])...)
	e.Clean, e.Hard = true, []HardEnd{{"kpush-a", e.Generations[1].At.Add(-time.Millisecond)}}
}

// unheard has generation 2 take the partition from a without a knowing, and a go on
// through generation 3, which again gives it to nobody.
func unheard(e *Evidence) {
	e.Generations[2].Members[1].Assigned = nil
	e.Holdings = []Holding{{Client: "kpush-a", Partition: orders, From: e.Generations[0].At}}
}

func TestAuditOfHandOvers(t *testing.T) {
	for _, test := range []struct {
		name   string
		doctor func(e *Evidence)
		want   string
	}{
		{name: "a faultless hand-over is clean", doctor: func(e *Evidence) { e.Clean = true }},
		{name: "a former owner that commits two generations later", doctor: func(e *Evidence) {
			e.Generations[2].Members[1].Assigned = nil
			e.Deliveries, e.Acks, e.Answers, e.Ends, e.Committed = e.Deliveries[:2], e.Acks[:2], e.Answers[:2], nil, nil
			e.Commits = e.Commits[:2]
			e.Commits[1].Place = 50
		}, want: "S2 orders/0 7..7: committed in generation 3, in which nobody held the partition"},
		{name: "a former owner that was thrown out and commits", doctor: func(e *Evidence) {
			e.Generations[1].Members = []Member{member("b")}
		}, want: "S2 orders/0 7..7: committed in generation 2, in which nobody held the partition"},
		{name: "a commit by somebody who was a member once", doctor: func(e *Evidence) {
			e.Generations[1].Members = nil
		}, want: "S2 orders/0 7..7: committed in generation 2, while the group was empty"},
		{name: "a commit of what its owner had not delivered yet", doctor: func(e *Evidence) {
			e.Commits[2].At = e.Generations[2].At.Add(time.Millisecond)
		}, want: "S2 orders/0 9..9: committed in the tenure of kpush-b, which had not delivered it"},
		{name: "an offset set by hand while the group was empty", doctor: func(e *Evidence) {
			e.Generations[1].Members = nil
			e.Resets = []Reset{{orders, 7}}
		}},
		{name: "an offset set by hand may go down", doctor: func(e *Evidence) {
			e.Commits = append(e.Commits, Commit{Partition: orders, Offset: 0, Place: 60, At: e.Commits[2].At})
			e.Resets, e.Committed, e.Ends = []Reset{{orders, 0}}, map[Partition]int64{orders: 0}, nil
		}},
		{name: "the first commit of all, before there were members", doctor: func(e *Evidence) {
			e.Commits = append([]Commit{{Partition: orders, Offset: 0, Place: -5, At: e.Generations[0].At}}, e.Commits...)
		}},
		{name: "a new owner that begins beyond what was committed", doctor: func(e *Evidence) {
			e.Commits[1].Place = 45 // as if b itself had committed it
		}, want: "O3 orders/0 7..9: kpush-b began here, though 3 was committed"},
		{name: "a new owner that begins before what was committed", doctor: func(e *Evidence) {
			e.Deliveries[2].Records = append([]Record{e.Deliveries[1].Records[2]}, e.Deliveries[2].Records...)
		}, want: "O3 orders/0 6..9: kpush-b began here, though 7 was committed"},
		{name: "a delivery in a generation that gave the partition to nobody", doctor: func(e *Evidence) {
			e.Generations[2].Members[1].Assigned = nil
		}, want: "O4 orders/0 7..9: delivered in generation 3, in which nobody held the partition"},
		{name: "an owner that never heard of the generation that takes the partition away", doctor: func(e *Evidence) {
			unheard(e)
		}},
		{name: "a former owner that says itself that it gave the partition up before", doctor: func(e *Evidence) {
			unheard(e)
			e.Holdings[0].To = e.Generations[1].At.Add(-time.Millisecond)
		}, want: "S2 orders/0 10..10: committed in generation 3, in which nobody held the partition"},
		{name: "a generation that is known before it is written down, and given once more", doctor: func(e *Evidence) {
			e.Deliveries[1].Generation = 3
		}},
		{name: "a tenure that goes on after it ended", doctor: func(e *Evidence) {
			again(e, 1)
		}, want: "O4 orders/0 3..6: delivered in generation 1 after a later tenure had begun"},
		{name: "the one request that a stopped replica had under way", doctor: func(e *Evidence) {
			again(e, 1)
			e.Zombies = 1
		}},
		{name: "a stopped replica that sends another request", doctor: func(e *Evidence) {
			again(e, 1)
			again(e, 1)
			e.Zombies = 1
		}, want: "O4 orders/0 3..6: delivered in generation 1 after a later tenure had begun"},
		{name: "two owners at once", doctor: func(e *Evidence) {
			e.Deliveries[1].Answered = e.Deliveries[2].Arrived.Add(time.Millisecond)
		}, want: "O4 orders/0 7..9: arrived while 3..6 was still to be answered"},
		{name: "an ack of a tenure that was succeeded counts", doctor: func(e *Evidence) {
			late := e.Answers[1]
			late.Sent, late.At, late.Result = e.Deliveries[2].Answered.Add(time.Second), e.Deliveries[2].Answered.Add(2*time.Second), "accepted"
			e.Answers = append(e.Answers, late)
		}, want: "S3 orders/0 3..6: an ack of generation 1 was answered with \"accepted\" after generation 3 had delivered"},
		{name: "acks of two tenures in turns", doctor: func(e *Evidence) {
			e.Answers[1].Sent, e.Answers[1].At = e.Answers[2].At.Add(time.Millisecond), e.Answers[2].At.Add(2*time.Millisecond)
		}, want: "S4 orders/0 3..6: an ack of generation 1 counted after one of generation 3"},
		{name: "an ack of an old tenure that moves nothing", doctor: func(e *Evidence) {
			late := e.Answers[1]
			late.Sent, late.At, late.Result = e.Deliveries[2].Answered.Add(time.Second), e.Deliveries[2].Answered.Add(2*time.Second), "already_committed"
			e.Answers = append(e.Answers, late)
		}},
		{name: "a refused ack is nobody's concern", doctor: func(e *Evidence) {
			late := e.Answers[1]
			late.Sent, late.Result, late.Code, late.Status = e.Deliveries[2].Answered.Add(time.Second), "", "generation_stale", 409
			e.Answers = append(e.Answers, late)
		}},
		{name: "a record that comes again after its ack was committed", doctor: func(e *Evidence) {
			again(e, 2)
		}, want: "S8 orders/0 7..9: delivered again after its ack was answered with \"committed\""},
		{name: "a record that comes again after its ack was accepted", doctor: func(e *Evidence) {
			again(e, 2)
			e.Answers[2].Result = "accepted"
		}},
		{name: "records come again after a kill", doctor: killed},
		{name: "fewer records may come again after a kill", doctor: func(e *Evidence) {
			killed(e)
			e.Window = 2
		}, want: "D2 orders/0 6..6: came again, beyond the 2 that may after a hard end"},
		{name: "records come again and nobody was killed", doctor: func(e *Evidence) {
			killed(e)
			e.Hard = nil
		}, want: "D1 orders/0 3..3: came again after it was acked"},
		{name: "the kill was before the tenure", doctor: func(e *Evidence) {
			killed(e)
			e.Hard[0].At = e.Generations[0].At.Add(-time.Second)
		}, want: "D1 orders/0 3..3: came again after it was acked"},
		{name: "somebody else was killed", doctor: func(e *Evidence) {
			killed(e)
			e.Hard[0].Client = "kpush-b"
		}, want: "D1 orders/0 3..3: came again after it was acked"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := handedOver()
			test.doctor(&e)
			checkFound(t, Audit(e), test.want)
		})
	}
}

func TestTenuresOfAStaticMember(t *testing.T) {
	begin := time.Now()
	before, after := member("a", orders), member("a", orders)
	after.ID = "a-2" // the same instance after a restart
	e := Evidence{Produced: new(Produced), Generations: []Generation{
		{Number: 1, At: begin, Place: 1, Members: []Member{before}},
		{Number: 1, At: begin.Add(time.Second), Place: 2, Members: []Member{after}},
	}}
	l := &ledger{auditor: &auditor{e: e}, p: orders, tenures: tenuresOf(orders, e.Generations, nil)}
	if len(l.tenures) != 2 {
		t.Fatalf("%d tenures, want one of each process: %+v", len(l.tenures), l.tenures)
	}
	for want, at := range []time.Time{begin.Add(time.Millisecond), begin.Add(2 * time.Second)} {
		if got := l.holder(1, at); got != want {
			t.Errorf("generation 1 at %v belongs to tenure %d, want %d", at.Sub(begin), got, want)
		}
	}
	if got := rebalances(e.Generations); got != 0 {
		t.Errorf("%d rebalances, want none: the generation is the same", got)
	}
}
