package acker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const (
	schedules     = 100_000 // of the deterministic run
	scheduleSteps = 28
	logSize       = 120 // offsets of a partition
	maxBatch      = 9   // records
)

// machine drives a ledger and the model through the same random life of one
// partition, over several tenures, and compares them after each step. Whatever
// draws the random numbers decides what happens.
type machine struct {
	draw func(n int) int // a number from 0 to n-1
	logf func(format string, args ...any)

	// Of the partition, over all tenures.
	log       [logSize]bool // which offsets are records; the others are markers
	settled   [logSize]bool // which were settled in some tenure
	committed int64         // -1: nothing yet
	metadata  string        // of the last commit
	told      [logSize]bool // which some commit, or its metadata, told to be settled
	said      []Run         // bounds of what was sent, in any tenure: what tokens name
	clock     time.Time

	// Of this tenure.
	read       int64 // the client's position
	ledger     *Ledger
	model      *model
	deliveries []pair
	lastNext   int64
}

type pair struct {
	real  *Delivery
	model *modelDelivery
}

func newMachine(draw func(n int) int) *machine {
	m := &machine{draw: draw, logf: func(string, ...any) {}, committed: -1, clock: time.UnixMilli(1_790_000_000_000)}
	for i := range m.log {
		m.log[i] = draw(6) > 0
	}
	m.assign()
	return m
}

// run plays steps and returns the first disagreement.
func (m *machine) run(steps int) error {
	for i := range steps {
		if err := m.step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
		if err := m.check(); err != nil {
			return fmt.Errorf("after step %d: %w", i, err)
		}
	}
	return nil
}

func (m *machine) step() error {
	switch m.draw(16) {
	case 0, 1, 2:
		return m.deliver()
	case 3, 4, 5:
		return m.send()
	case 6, 7, 8:
		return m.say(m.byToken())
	case 9:
		return m.say(m.byFields())
	case 10:
		return m.say(m.nonsense())
	case 11:
		return m.move("lease", (*Ledger).Lease, Leased, Sent)
	case 12:
		return m.move("fail", (*Ledger).Fail, Waiting, Sent, Leased)
	case 13:
		return m.split()
	case 14:
		return m.settleOrAdvance()
	default:
		return m.commitOrIntrude()
	}
}

// assign begins a tenure at what is committed.
func (m *machine) assign() {
	m.logf("assign at %d with %s", m.committed, m.metadata)
	resumed, err := ParseMetadata(m.metadata)
	if err != nil {
		panic(err) // commit has read it
	}
	m.ledger, m.model = NewLedger(), newModel()
	m.ledger.ResumeAcked(resumed.Acked)
	m.model.resumed = resumed.Acked
	m.deliveries = nil
	m.read = max(m.committed, 0)
	m.lastNext = -1
}

// deliver reads on in the log, over markers and what is not wanted any more, and
// enters what it found.
func (m *machine) deliver() error {
	var runs []Run
	var wanted Run
	for want := 1 + m.draw(maxBatch); want > 0 && m.read < logSize; m.read++ {
		if len(runs) == 0 {
			wanted = m.ledger.Wanted(m.read)
		}
		switch n := len(runs); {
		case !m.log[m.read]:
			continue
		case m.read < wanted.First && !m.settled[m.read]:
			return fmt.Errorf("%d is not wanted and was never settled", m.read)
		case m.read < wanted.First:
			m.logf("drop %d", m.read)
			continue
		case m.told[m.read] && m.read <= wanted.Last:
			return fmt.Errorf("%d is wanted again", m.read)
		case m.read > wanted.Last:
			want = 0
			m.read-- // it is looked at again
			continue
		case n > 0 && runs[n-1].Last+1 == m.read:
			runs[n-1].Last++
		default:
			runs = append(runs, Run{m.read, m.read})
		}
		want--
	}
	d, err := m.enter(runs)
	if err != nil || d.real == nil || m.draw(4) > 0 {
		return err
	}
	m.clock = m.clock.Add(time.Second)
	m.logf("resume %d-%d", d.real.First(), d.real.Last())
	m.ledger.Resume(d.real, 3, m.clock)
	d.model.attempts, d.model.firstAttempt = 3, m.clock
	return nil
}

func (m *machine) enter(runs []Run) (pair, error) {
	m.logf("deliver %v", runs)
	given := slices.Clone(runs)
	real, err := m.ledger.Deliver(given)
	clear(given) // the ledger must have copied it
	modelled, ok := m.model.deliver(runs)
	if ok != (err == nil) {
		return pair{}, fmt.Errorf("deliver %v: got error %v, want accepted %v", runs, err, ok)
	}
	if !ok {
		return pair{}, nil
	}
	p := pair{real, modelled}
	m.deliveries = append(m.deliveries, p)
	return p, nil
}

// any picks a delivery of this tenure, settled ones included, which is what a
// late response to a request does.
func (m *machine) any() (pair, bool) {
	if len(m.deliveries) == 0 {
		return pair{}, false
	}
	return m.deliveries[m.draw(len(m.deliveries))], true
}

func (m *machine) send() error {
	d, ok := m.any()
	if !ok {
		return nil
	}
	m.clock = m.clock.Add(time.Second)
	bounds := Run{d.real.First(), d.real.Last()}
	got, want := m.ledger.Send(d.real, m.clock), m.model.send(d.model, m.clock)
	m.logf("send %v: attempt %d", bounds, got)
	if got != want {
		return fmt.Errorf("send: got attempt %d, want %d", got, want)
	}
	if got > 0 {
		m.said = append(m.said, bounds)
	}
	return nil
}

func (m *machine) move(name string, real func(*Ledger, *Delivery) bool, to State, from ...State) error {
	d, ok := m.any()
	if !ok {
		return nil
	}
	got, want := real(m.ledger, d.real), m.model.move(d.model, to, from...)
	m.logf("%s %d-%d: %v", name, d.real.First(), d.real.Last(), got)
	if got != want {
		return fmt.Errorf("%s: got %v, want %v", name, got, want)
	}
	return nil
}

func (m *machine) split() error {
	d, ok := m.any()
	if !ok {
		return nil
	}
	n := m.draw(maxBatch+2) - 1
	m.logf("split %d-%d after %d", d.real.First(), d.real.Last(), n)
	real, modelled := m.ledger.Split(d.real, n), m.model.split(d.model, n)
	if (real == nil) != (modelled == nil) {
		return fmt.Errorf("split after %d: got tail %v, want one %v", n, real != nil, modelled != nil)
	}
	if real != nil {
		m.deliveries = append(m.deliveries, pair{real, modelled})
	}
	return nil
}

func (m *machine) settleOrAdvance() error {
	if m.draw(2) == 0 {
		p := m.read - int64(m.draw(3)) // a lower one must be ignored
		m.logf("advance to %d", p)
		m.ledger.Advance(p)
		m.model.position = max(m.model.position, p)
		return nil
	}
	if d, ok := m.any(); ok {
		m.logf("settle %d-%d", d.real.First(), d.real.Last())
		m.ledger.Settle(d.real)
		m.model.settle(d.model)
	}
	return nil
}

// commitOrIntrude commits, or ends the tenure after a commit or without one, or
// tries to enter runs that may be ill-formed or known already.
func (m *machine) commitOrIntrude() error {
	what := m.draw(6)
	if what < 2 {
		first := int64(m.draw(int(m.read)+1)) - 1
		last := first + int64(m.draw(3)) - 1
		runs := []Run{{first, last}, {last + 1, last + 1}}[:1+m.draw(2)]
		if runs[len(runs)-1].Last >= m.read {
			return nil // not read yet: deliver will come to it
		}
		_, err := m.enter(runs)
		return err
	}
	if what < 5 {
		if err := m.commit(); err != nil {
			return err
		}
	}
	if what > 2 {
		m.assign()
	}
	return nil
}

// commit commits the books as they stand, with what goes into the metadata.
func (m *machine) commit() error {
	next := m.ledger.Next()
	if next < 0 || next < m.committed { // commits only ever go up
		return nil
	}
	note := Metadata{Acked: m.ledger.Acked(nil)}
	if d := m.ledger.Head(); d != nil {
		note.Attempts, note.FirstAttempt = d.Attempts(), d.FirstAttempt()
	}
	text, err := note.Append(nil)
	if err != nil {
		return err
	}
	read, err := ParseMetadata(string(text))
	if err != nil || !slices.Equal(read.Acked, note.Acked) {
		return fmt.Errorf("metadata %s read as %+v, %v", text, read, err)
	}
	m.logf("commit %d with %s", next, text)
	m.committed, m.metadata = next, string(text)
	for offset := range int64(logSize) {
		if offset < next || slices.ContainsFunc(read.Acked, func(r Run) bool { return r.First <= offset && offset <= r.Last }) {
			m.told[offset] = true
		}
	}
	return nil
}

func (m *machine) outcome() Outcome {
	return [...]Outcome{Ack, Ack, Ack, Ack, Nack, Extend, Reject, Partial, Partial}[m.draw(9)]
}

// failures lists some offsets from first to last, and now and then one that does not fit.
func (m *machine) failures(first, last int64) (failures []Failure) {
	for offset := first - int64(m.draw(12)/11); offset <= last+int64(m.draw(12)/11); offset++ {
		if m.draw(3) == 0 && (offset < 0 || offset >= logSize || m.log[offset] || m.draw(8) == 0) {
			failures = append(failures, Failure{offset, Action(m.draw(3))})
		}
	}
	return failures
}

// byToken says something about a delivery that was sent, now or in an earlier
// tenure.
func (m *machine) byToken() Statement {
	if len(m.said) == 0 {
		return m.byFields()
	}
	r := m.said[len(m.said)-1-m.draw(min(len(m.said), 8))]
	s := Statement{Outcome: m.outcome(), First: r.First, Last: r.Last, UpTo: r.Last}
	if m.draw(2) == 0 {
		s.UpTo = r.First + int64(m.draw(int(r.Last-r.First)+1))
	}
	if s.Outcome == Partial {
		s.Failures = m.failures(r.First, r.Last)
	}
	return s
}

func (m *machine) byFields() Statement {
	upTo := int64(m.draw(int(m.read)+3)) - 1
	return Statement{Outcome: m.outcome(), First: Everything, Last: upTo, UpTo: upTo}
}

// nonsense is a statement no token would make.
func (m *machine) nonsense() Statement {
	at := func() int64 { return int64(m.draw(int(m.read)+4)) - 2 }
	return Statement{Outcome: m.outcome(), First: at(), Last: at(), UpTo: at()}
}

func (m *machine) say(s Statement) error {
	answer, err := m.ledger.Apply(s)
	want := m.model.apply(s)
	m.logf("%+v: %+v, %v", s, answer, err)
	if !errors.Is(err, want.err) || (err == nil) != (want.err == nil) {
		return fmt.Errorf("%+v: got error %v, want %v", s, err, want.err)
	}
	if err != nil {
		return nil
	}
	if answer.Repeat != want.repeat || answer.Cover != want.cover || answer.BlockedBy != want.blockedBy {
		return fmt.Errorf("%+v: got %+v, want %+v", s, answer, want)
	}
	var touched []*modelDelivery
	for _, d := range answer.Touched {
		i := slices.IndexFunc(m.deliveries, func(p pair) bool { return p.real == d })
		touched = append(touched, m.deliveries[i].model)
	}
	if !slices.Equal(touched, want.touched) {
		return fmt.Errorf("%+v: touched %d deliveries, want %d or others", s, len(touched), len(want.touched))
	}
	if len(answer.Pieces) != len(want.pieces) {
		return fmt.Errorf("%+v: got %d pieces, want %d", s, len(answer.Pieces), len(want.pieces))
	}
	for i, p := range answer.Pieces {
		if p.Action != want.pieces[i].action {
			return fmt.Errorf("%+v: piece %d is to %v, want %v", s, i, p.Action, want.pieces[i].action)
		}
		if p.Delivery != p.Of {
			m.deliveries = append(m.deliveries, pair{p.Delivery, want.pieces[i].modelDelivery})
		}
	}
	return nil
}

// check compares the books with the model and holds both to the promises.
func (m *machine) check() error {
	next := m.ledger.Next()
	if want := m.model.next(); next != want {
		return fmt.Errorf("next: got %d, want %d", next, want)
	}
	if next < m.lastNext {
		return fmt.Errorf("next went down from %d to %d", m.lastNext, next)
	}
	m.lastNext = next
	if got, want := m.ledger.LastSent(), m.model.lastSent; got != want {
		return fmt.Errorf("last sent: got %d, want %d", got, want)
	}
	if got, want := m.ledger.Len(), m.model.len(); got != want {
		return fmt.Errorf("len: got %d, want %d", got, want)
	}
	open := 0
	for _, d := range m.ledger.deliveries {
		if d.State() != Settled {
			open++
		}
	}
	if open != m.ledger.open {
		return fmt.Errorf("open: got %d, want %d", m.ledger.open, open)
	}
	acked := m.ledger.Acked(nil)
	if err := m.model.checkAcked(acked); err != nil {
		return err
	}
	if got := m.ledger.Gap(); got != (len(acked) > 0) {
		return fmt.Errorf("gap: got %v with %v acked", got, acked)
	}
	for _, r := range m.model.records {
		if r.settled {
			m.settled[r.offset] = true
		}
	}
	for offset := range min(max(next, 0), logSize) {
		if m.log[offset] && !m.settled[offset] {
			return fmt.Errorf("next is %d, but %d was never settled", next, offset)
		}
	}
	for _, d := range m.deliveries {
		if err := m.compare(d); err != nil {
			return err
		}
	}
	return nil
}

func (m *machine) compare(p pair) error {
	first, last, open := m.model.extent(p.model)
	state := m.model.state(p.model)
	d := p.real
	if d.First() != first || d.Last() != last || d.Records() != open || d.State() != state {
		return fmt.Errorf("delivery: got %d-%d, %d records, %v; want %d-%d, %d records, %v",
			d.First(), d.Last(), d.Records(), d.State(), first, last, open, state)
	}
	if d.Attempts() != p.model.attempts || !d.FirstAttempt().Equal(p.model.firstAttempt) {
		return fmt.Errorf("delivery %d-%d: got %d attempts since %v, want %d since %v",
			d.First(), d.Last(), d.Attempts(), d.FirstAttempt(), p.model.attempts, p.model.firstAttempt)
	}
	return nil
}

// TestSchedules plays many random lives of a partition, the same ones each time.
func TestSchedules(t *testing.T) {
	t.Parallel()
	const shards = 4
	for shard := range shards {
		t.Run(fmt.Sprint("shard ", shard), func(t *testing.T) {
			t.Parallel()
			for n := shard; n < schedules; n += shards {
				if err := seeded(n).run(scheduleSteps); err != nil {
					again := seeded(n)
					again.logf = t.Logf
					_ = again.run(scheduleSteps)
					t.Fatalf("schedule %d: %v", n, err)
				}
			}
		})
	}
}

func seeded(n int) *machine {
	return newMachine(rand.New(rand.NewPCG(14, uint64(n))).IntN)
}

// TestSchedulesShrunk does the same with rapid, which reduces what fails to its
// shortest form.
func TestSchedulesShrunk(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "draw") })
		m.logf = t.Logf
		if err := m.run(scheduleSteps); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzLedger lets the bytes decide what happens: each draws one number.
func FuzzLedger(f *testing.F) {
	random := rand.New(rand.NewPCG(14, 14))
	for range 16 {
		seed := make([]byte, logSize+4*scheduleSteps)
		for i := range seed {
			seed[i] = byte(random.Uint32())
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, choices []byte) {
		m := newMachine(func(n int) int {
			if len(choices) == 0 {
				return 0
			}
			c := choices[0]
			choices = choices[1:]
			return int(c) % n
		})
		if err := m.run(len(choices) / 3); err != nil {
			t.Fatal(err)
		}
	})
}
