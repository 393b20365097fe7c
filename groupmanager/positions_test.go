package groupmanager

import (
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/internal/partitionqueue"
)

func TestALowerCommittedOffsetIsNotBelieved(t *testing.T) {
	tp := topicPartition{"orders", 0}
	old, anew := [16]byte{1}, [16]byte{2}
	at := func(n int64) map[topicPartition]position { return map[topicPartition]position{tp: {offset: n}} }
	for name, c := range map[string]struct {
		told  map[topicPartition]position
		id    [16]byte
		after func(*memory)
		want  error
	}{
		"the same":                     {told: at(100), id: old},
		"a higher one":                 {told: at(101), id: old},
		"a lower one":                  {told: at(99), id: old, want: errWentBack},
		"zero":                         {told: at(0), id: old, want: errWentBack},
		"none":                         {told: nil, id: old, want: errWentBack},
		"a lower one of another topic": {told: at(0), id: anew},
		"none of another topic":        {told: nil, id: anew},
		"a lower one after a seek":     {told: at(5), id: old, after: func(m *memory) { m.forget([]topicPartition{tp}) }},
		"a lower one than a seek moved to": {told: at(5), id: old, want: errWentBack, after: func(m *memory) {
			m.forget([]topicPartition{tp})
			m.confirm(tp, 7)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			m.know(tp, old)
			m.confirm(tp, 100)
			m.confirm(tp, 50) // a late answer to an earlier commit
			if c.after != nil {
				c.after(m)
			}
			m.know(tp, c.id)
			if err := m.check([]topicPartition{tp}, c.told); !errors.Is(err, c.want) {
				t.Errorf("check: %v, want %v", err, c.want)
			}
		})
	}
}

func TestWhatASeekHasMovedIsRememberedOfTheLastOne(t *testing.T) {
	m := newMemory()
	one, two := topicPartition{"orders", 1}, topicPartition{"orders", 2}
	m.move("a", []topicPartition{one})
	m.move("a", []topicPartition{two})
	if got := m.moved("a"); len(got) != 2 || len(m.moved("b")) != 0 {
		t.Errorf("moved by a: %v, by b: %v, want both and none", got, m.moved("b"))
	}
	m.move("b", []topicPartition{one})
	if got := m.moved("b"); len(got) != 1 || got[0] != one || len(m.moved("a")) != 0 {
		t.Errorf("moved by b: %v, by a: %v, want %v and none", got, m.moved("a"), one)
	}
}

func TestWhatASeekLeavesInDoubt(t *testing.T) {
	now := time.Now()
	m := newMemory()
	m.doubt(orders, doubt{generation: 5, upTo: 109})
	m.doubt(orders, doubt{generation: 5, upTo: 49}) // a second seek, after less was delivered again
	begun := func(m *memory, generation int32) *tenure {
		tn := newTenure(orders, [16]byte{}, generation, position{})
		tn.doubt = m.doubtOf(orders, generation)
		return tn
	}
	static := newMemory()
	static.doubt(orders, doubt{generation: 5, upTo: 109, until: now.Add(time.Minute)})
	for name, c := range map[string]struct {
		of         *tenure
		generation int32
		upTo       int64
		after      time.Duration
		want       bool
	}{
		"what was delivered before":                     {begun(m, 5), 5, 109, time.Hour, true},
		"what was delivered before that":                {begun(m, 5), 5, 0, 0, true},
		"what was not":                                  {begun(m, 5), 5, 110, 0, false},
		"the same in a generation that came afterwards": {begun(m, 5), 6, 109, 0, false},
		"a tenure that began in a later generation":     {begun(m, 6), 6, 109, 0, false},
		"no seek": {begun(newMemory(), 5), 5, 0, 0, false},
		"an offset that cannot be, without a seek": {begun(newMemory(), 5), 5, -1, 0, false},
		"an offset that cannot be, after one":      {begun(m, 5), 5, -1, 0, false},
		"a static member, while acks may be due":   {begun(static, 5), 5, 109, time.Minute - 1, true},
		"a static member, afterwards":              {begun(static, 5), 5, 109, time.Minute, false},
	} {
		if got := c.of.doubts(c.generation, c.upTo, now.Add(c.after)); got != c.want {
			t.Errorf("%s: doubted %v, want %v", name, got, c.want)
		}
	}
}

func TestALeaseEndsWithTheLastSignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &member{born: time.Now(), session: 6 * time.Second}
		m.current.Store(3)
		time.Sleep(time.Minute)
		// Made 50 s after the birth, when the coordinator was last heard of 2 s before.
		const told = `{"age":50000000,"brokers":{"GroupCoordinator":{"rxidle":2000000},"127.0.0.1:9092/1":{"rxidle":1}}}`
		m.heard(told)
		if m.lease.holds(time.Now()) {
			t.Error("statistics that waited for ten seconds renewed the lease from now on")
		}
		if !m.lease.holds(m.born.Add(53*time.Second)) || m.lease.holds(m.born.Add(54*time.Second)) {
			t.Errorf("the lease ends %v after the birth, want 54s", m.lease.until.Load().Sub(m.born))
		}
		for _, nothing := range []string{
			`{"age":60000000,"brokers":{"GroupCoordinator":{"rxidle":-1}}}`, `{"brokers":{}}`, `not JSON`,
		} {
			m.heard(nothing)
			if m.lease.holds(time.Now()) {
				t.Errorf("the lease was renewed by %s", nothing)
			}
		}
		m.current.Store(-1)
		m.heard(`{"age":60000000,"brokers":{"GroupCoordinator":{"rxidle":0}}}`)
		if m.lease.holds(time.Now()) {
			t.Error("the lease was renewed outside of the group")
		}
		m.current.Store(4)
		m.heard(`{"age":60000000,"brokers":{"GroupCoordinator":{"rxidle":0}}}`)
		m.heard(told) // an older one does not take it back
		if !m.lease.holds(time.Now().Add(5 * time.Second)) {
			t.Error("the lease does not hold after a sign of life")
		}
	})
}

func TestANoteGoesWithTheCommitOfItsOffsetOnly(t *testing.T) {
	tn := newTenure(topicPartition{"orders", 0}, [16]byte{}, 7, position{offset: 10, metadata: "k1;a=3"})
	if tn.resume.Attempts != 3 {
		t.Errorf("resumes %d attempts, want 3", tn.resume.Attempts)
	}
	if p := tn.position(); p != tn.confirmed() {
		t.Errorf("a tenure that knows nothing yet would commit %+v over %+v", p, tn.confirmed())
	}
	tn.noted.Store(&note{at: 10, text: "k1;a=4"})
	if got, want := tn.position(), (position{10, "k1;a=4"}); got != want {
		t.Errorf("position %+v, want %+v", got, want)
	}
	tn.safe.Store(20)
	if got, want := tn.position(), (position{20, ""}); got != want {
		t.Errorf("position %+v after the head has moved on, want %+v", got, want)
	}
	if m := newTenure(topicPartition{}, [16]byte{}, 7, position{offset: 1, metadata: "somebody else's"}); m.resume.Attempts != 0 || m.position() != m.confirmed() {
		t.Errorf("foreign metadata is not left alone: %+v", m.position())
	}
}

// A revoke and the fault of what it revokes may come in one poll, and the partition may
// be back by then. The fault must not end a tenure that it says nothing of, nor have a
// place committed for a partition that is another's.
func TestAFaultOfATenureThatHasEndedIsNobodys(t *testing.T) {
	reset := &partitionqueue.Error{Code: kafka.ErrAutoOffsetReset}
	old, now := newTenure(orders, [16]byte{}, 7, position{}), newTenure(orders, [16]byte{}, 8, position{})
	for name, c := range map[string]struct {
		of   *tenure
		held *tenure
		err  error
		want error
	}{
		"of the tenure that stands":            {now, now, errLeaked, errLeaked},
		"of the tenure before":                 {old, now, errLeaked, nil},
		"of a partition that has gone":         {old, nil, reset, nil},
		"a panic in one that has gone":         {old, nil, errPanicked, nil},
		"of no tenure, as a refused commit is": {nil, nil, errNotAuthorized, errNotAuthorized},
	} {
		m := &member{held: map[topicPartition]held{}, crashed: map[topicPartition]*crash{}, logger: slog.New(slog.DiscardHandler)}
		if c.held != nil {
			m.held[orders] = held{partition: &partition{tenure: c.held}}
		}
		m.faults.add(fault{orders, c.of, c.err})
		for _, f := range m.faults.take() {
			if err := m.explain(f); !errors.Is(err, c.want) {
				t.Errorf("a fault %s: %v, want %v", name, err, c.want)
			}
		}
		if len(m.crashed) > 0 {
			t.Errorf("a fault %s took a partition down", name)
		}
	}
}

func TestOutOfGroupIsToldFromOtherFailures(t *testing.T) {
	for code, want := range map[kafka.ErrorCode]bool{
		kafka.ErrIllegalGeneration: true, kafka.ErrUnknownMemberID: true, kafka.ErrStaleMemberEpoch: true, kafka.ErrFencedInstanceID: true,
		kafka.ErrRebalanceInProgress: false, kafka.ErrNotCoordinator: false, kafka.ErrTimedOut: false, kafka.ErrTopicAuthorizationFailed: false,
	} {
		if got := isOutOfGroup(kafka.NewError(code, "", false)); got != want {
			t.Errorf("%v: %v, want %v", code, got, want)
		}
	}
}
