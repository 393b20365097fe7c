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

// keyedModel is the rules of the keyed ledger said record by record. What is the same
// in both ledgers is said by the model of the other.
type keyedModel struct {
	model
	origin map[*modelDelivery]*modelDelivery // what a part was entered as
}

// meant is the open records a statement is about; false: out of range.
func (m *keyedModel) meant(s Statement, upTo int64) ([]*modelRecord, bool) {
	byFields := s.First == Everything
	first, last := m.firstWanted(), s.Last
	if first < 0 || upTo > m.lastSent || upTo < first {
		return nil, false
	}
	if !byFields && (s.First < first || upTo < s.First || upTo > last || last > m.lastSent) {
		return nil, false
	}
	if upTo < m.next() {
		return nil, true
	}
	at := m.at(upTo)
	if at == nil || at.in == nil || !at.in.sent {
		return nil, false
	}
	of := m.origin[at.in]
	if !byFields {
		end := m.at(last)
		if end == nil || m.origin[end.in] != of {
			return nil, false
		}
		if _, final, _ := m.extent(end.in); final != last {
			return nil, false
		}
		if begin := m.at(s.First); s.First >= m.next() && (begin == nil || m.origin[begin.in] != of) {
			return nil, false
		}
	}
	var meant []*modelRecord
	for i := range m.records {
		r := &m.records[i]
		if r.settled || r.in == nil || !byFields && m.origin[r.in] != of {
			continue
		}
		_, final, _ := m.extent(r.in)
		if !byFields && r.offset < s.First && final >= s.First {
			return nil, false // the statement begins inside of an open part
		}
		if r.offset > upTo || r.offset < s.First {
			continue
		}
		if r.in.sent {
			meant = append(meant, r)
		} else if !byFields {
			return nil, false
		}
	}
	return meant, true
}

// holds says whether all failures that are not below Next are records of the delivery meant.
func (m *keyedModel) holds(s Statement) bool {
	if s.Outcome != Partial {
		return true
	}
	for _, f := range s.Failures {
		if f.Offset < m.next() {
			continue
		}
		r, end := m.at(f.Offset), m.at(s.Last)
		if r == nil || end == nil || m.origin[r.in] != m.origin[end.in] {
			return false
		}
	}
	return true
}

func (m *keyedModel) firstWanted() int64 {
	for _, r := range m.records {
		if r.in != earlierModel {
			return r.offset
		}
	}
	return -1
}

func (m *keyedModel) at(offset int64) *modelRecord {
	for i := range m.records {
		if r := &m.records[i]; r.offset == offset && r.in != earlierModel {
			return r
		}
	}
	return nil
}

// earlierModel is the delivery of what an earlier tenure settled.
var earlierModel = &modelDelivery{sent: false}

// keyedMachine drives a keyed ledger and the model through the same random life of a
// partition, over several tenures.
type keyedMachine struct {
	draw func(n int) int
	logf func(format string, args ...any)

	log       [logSize]bool
	settled   [logSize]bool
	committed int64
	metadata  string
	told      [logSize]bool
	said      []Run
	clock     time.Time

	read       int64
	ledger     *KeyedLedger
	model      *keyedModel
	deliveries []pair
	lastNext   int64
}

func newKeyedMachine(draw func(n int) int) *keyedMachine {
	m := &keyedMachine{draw: draw, logf: func(string, ...any) {}, committed: -1, clock: time.UnixMilli(1_790_000_000_000)}
	for i := range m.log {
		m.log[i] = draw(6) > 0
	}
	m.assign()
	return m
}

func (m *keyedMachine) assign() {
	m.logf("assign at %d with %s", m.committed, m.metadata)
	resumed, err := ParseMetadata(m.metadata)
	if err != nil {
		panic(err)
	}
	m.ledger = NewKeyedLedger()
	m.model = &keyedModel{model: *newModel(), origin: map[*modelDelivery]*modelDelivery{}}
	m.ledger.ResumeAcked(resumed.Acked)
	m.model.resumed = resumed.Acked
	m.deliveries, m.read, m.lastNext = nil, max(m.committed, 0), -1
}

func (m *keyedMachine) run(steps int) error {
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

func (m *keyedMachine) step() error {
	switch m.draw(18) {
	case 0, 1, 2:
		return m.enter()
	case 3, 4, 5:
		return m.deliver()
	case 6, 7, 8:
		return m.send()
	case 9, 10, 11:
		return m.say(m.byToken())
	case 12:
		upTo := int64(m.draw(int(m.read)+3)) - 1
		return m.say(Statement{Outcome: m.outcome(), First: Everything, Last: upTo, UpTo: upTo})
	case 13:
		at := func() int64 { return int64(m.draw(int(m.read)+4)) - 2 }
		return m.say(Statement{Outcome: m.outcome(), First: at(), Last: at(), UpTo: at()})
	case 14:
		if m.draw(2) == 0 {
			return m.move("lease", (*KeyedLedger).Lease, Leased, Sent)
		}
		return m.move("fail", (*KeyedLedger).Fail, Waiting, Sent, Leased)
	case 15:
		return m.split()
	case 16:
		return m.settleOrAdvance()
	default:
		return m.commit()
	}
}

// enter reads on in the log.
func (m *keyedMachine) enter() error {
	for want := 1 + m.draw(maxBatch); want > 0 && m.read < logSize; m.read++ {
		if !m.log[m.read] {
			continue
		}
		want--
		passed := m.model.before(m.read) && m.read < m.ledger.Next()
		wanted, err := m.ledger.Enter(m.read)
		m.logf("enter %d: %v, %v", m.read, wanted, err)
		if err != nil {
			return err
		}
		if before := m.model.before(m.read); wanted == before {
			return fmt.Errorf("enter %d: got wanted %v, want %v", m.read, wanted, !before)
		}
		r := modelRecord{offset: m.read}
		if !wanted {
			if !m.settled[m.read] {
				return fmt.Errorf("%d is not wanted and was never settled", m.read)
			}
			r.in, r.settled = earlierModel, true
		} else if m.told[m.read] {
			return fmt.Errorf("%d is wanted again", m.read)
		}
		if !passed {
			m.model.records = append(m.model.records, r)
		}
	}
	return nil
}

// deliver takes some of what waits, and now and then something else.
func (m *keyedMachine) deliver() error {
	var runs []Run
	picked := 0
	valid := true
	for _, r := range m.model.records {
		if r.settled || picked == maxBatch || m.draw(2) == 0 || r.in != nil && m.draw(40) > 0 {
			continue
		}
		valid = valid && r.in == nil
		picked++
		if n := len(runs); n > 0 && runs[n-1].Last+1 == r.offset {
			runs[n-1].Last++
		} else {
			runs = append(runs, Run{r.offset, r.offset})
		}
	}
	valid = valid && picked > 0
	given := slices.Clone(runs)
	real, err := m.ledger.Deliver(given)
	clear(given)
	m.logf("deliver %v: %v", runs, err)
	if valid != (err == nil) {
		return fmt.Errorf("deliver %v: got %v, want accepted %v", runs, err, valid)
	}
	if !valid {
		return nil
	}
	d := &modelDelivery{state: Waiting}
	m.model.origin[d] = d
	for i := range m.model.records {
		r := &m.model.records[i]
		if slices.ContainsFunc(runs, func(run Run) bool { return run.First <= r.offset && r.offset <= run.Last }) {
			r.in = d
		}
	}
	m.deliveries = append(m.deliveries, pair{real, d})
	return nil
}

func (m *keyedMachine) any() (pair, bool) {
	if len(m.deliveries) == 0 {
		return pair{}, false
	}
	return m.deliveries[m.draw(len(m.deliveries))], true
}

func (m *keyedMachine) send() error {
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

func (m *keyedMachine) move(name string, real func(*KeyedLedger, *Delivery) bool, to State, from ...State) error {
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

func (m *keyedMachine) split() error {
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
		m.model.origin[modelled] = m.model.origin[d.model]
		m.deliveries = append(m.deliveries, pair{real, modelled})
	}
	return nil
}

func (m *keyedMachine) settleOrAdvance() error {
	if m.draw(2) == 0 {
		p := m.read - int64(m.draw(3))
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

// commit commits the books as they stand, and ends the tenure, or only one of the two.
func (m *keyedMachine) commit() error {
	what := m.draw(4)
	next := m.ledger.Next()
	if what > 0 && next >= max(0, m.committed) {
		text, err := Metadata{Acked: m.ledger.Acked(nil)}.Append(nil)
		if err != nil {
			return err
		}
		m.logf("commit %d with %s", next, text)
		m.committed, m.metadata = next, string(text)
		read, err := ParseMetadata(m.metadata)
		if err != nil {
			return err
		}
		for offset := range int64(logSize) {
			if offset < next || slices.ContainsFunc(read.Acked, func(r Run) bool { return r.First <= offset && offset <= r.Last }) {
				m.told[offset] = true
			}
		}
	}
	if what < 3 {
		m.assign()
	}
	return nil
}

func (m *keyedMachine) outcome() Outcome {
	return [...]Outcome{Ack, Ack, Ack, Ack, Nack, Extend, Reject, Partial, Partial}[m.draw(9)]
}

func (m *keyedMachine) byToken() Statement {
	if len(m.said) == 0 {
		return Statement{First: Everything, Last: m.read, UpTo: m.read}
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

// failures lists some records of what was sent from first to last, and now and then others.
func (m *keyedMachine) failures(first, last int64) (failures []Failure) {
	end := m.model.at(last)
	for _, r := range m.model.records {
		if r.offset < first || r.offset > last {
			continue
		}
		ours := end != nil && r.in != nil && m.model.origin[r.in] == m.model.origin[end.in]
		if m.draw(3) == 0 && (ours || m.draw(30) == 0) {
			failures = append(failures, Failure{r.offset, Action(m.draw(3))})
		}
	}
	return failures
}

func (m *keyedMachine) say(s Statement) error {
	answer, err := m.ledger.Apply(s)
	upTo := s.Last
	if s.Outcome == Ack {
		upTo = s.UpTo
	}
	meant, ok := m.model.meant(s, upTo)
	var origin *modelDelivery
	if end := m.model.at(s.Last); end != nil && end.in != nil {
		origin = m.model.origin[end.in]
	}
	want := m.model.judge(s, upTo, meant, ok && m.model.holds(s))
	for _, r := range meant { // what was carved is of the same origin
		if m.model.origin[r.in] == nil {
			m.model.origin[r.in] = origin
		}
	}
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
	if len(answer.Touched) != len(want.touched) {
		return fmt.Errorf("%+v: touched %d deliveries, want %d", s, len(answer.Touched), len(want.touched))
	}
	for _, d := range answer.Touched {
		i := slices.IndexFunc(m.deliveries, func(p pair) bool { return p.real == d })
		if !slices.Contains(want.touched, m.deliveries[i].model) {
			return fmt.Errorf("%+v: touched %d-%d", s, d.First(), d.Last())
		}
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
func (m *keyedMachine) check() error {
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
	acked := m.ledger.Acked(nil)
	if err := m.model.checkAcked(acked); err != nil {
		return err
	}
	if got := m.ledger.Gap(); got != (len(acked) > 0) {
		return fmt.Errorf("gap: got %v with %v acked", got, acked)
	}
	begins := 0
	for i := range m.ledger.records {
		if m.ledger.begins(i) {
			begins++
		}
	}
	if begins != m.ledger.starts {
		return fmt.Errorf("%d records begin, counted %d", begins, m.ledger.starts)
	}
	if own := len(acked) - len(m.ledger.resumed); own > begins {
		return fmt.Errorf("%d runs of our own where %d records begin", own, begins)
	}
	var head *modelDelivery
	for _, r := range m.model.records {
		if r.settled {
			m.settled[r.offset] = true
		} else if r.offset == next {
			head = r.in
		}
	}
	for offset := range min(max(next, 0), logSize) {
		if m.log[offset] && !m.settled[offset] {
			return fmt.Errorf("next is %d, but %d was never settled", next, offset)
		}
	}
	for _, d := range m.deliveries {
		if (d.real == m.ledger.Head()) != (d.model == head) {
			return fmt.Errorf("head: %d-%d is it, or is not", d.real.First(), d.real.Last())
		}
		if err := m.compare(d); err != nil {
			return err
		}
	}
	return nil
}

func (m *keyedMachine) compare(p pair) error {
	var want []Run
	for _, r := range m.model.records {
		if r.in != p.model || r.settled {
			continue
		}
		if n := len(want); n > 0 && want[n-1].Last+1 == r.offset {
			want[n-1].Last++
		} else {
			want = append(want, Run{r.offset, r.offset})
		}
	}
	d := p.real
	first, last, open := m.model.extent(p.model)
	if got := d.Open(nil); !slices.Equal(got, want) || d.First() != first || d.Last() != last || d.Records() != open ||
		d.State() != m.model.state(p.model) || d.Attempts() != p.model.attempts {
		return fmt.Errorf("delivery: got %v (%d-%d, %d records, %v, %d attempts); want %v (%d-%d, %d records, %v, %d attempts)",
			got, d.First(), d.Last(), d.Records(), d.State(), d.Attempts(), want, first, last, open, m.model.state(p.model), p.model.attempts)
	}
	return nil
}

// TestKeyedSchedules plays many random lives of a partition, the same ones each time.
func TestKeyedSchedules(t *testing.T) {
	t.Parallel()
	seeded := func(n int) *keyedMachine {
		return newKeyedMachine(rand.New(rand.NewPCG(7, uint64(n))).IntN)
	}
	for n := range schedules / 50 {
		if err := seeded(n).run(2 * scheduleSteps); err != nil {
			again := seeded(n)
			again.logf = t.Logf
			_ = again.run(2 * scheduleSteps)
			t.Fatalf("schedule %d: %v", n, err)
		}
	}
}

func TestKeyedSchedulesShrunk(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newKeyedMachine(func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "draw") })
		m.logf = t.Logf
		if err := m.run(scheduleSteps); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzKeyedLedger(f *testing.F) {
	random := rand.New(rand.NewPCG(7, 7))
	for range 16 {
		seed := make([]byte, logSize+4*scheduleSteps)
		for i := range seed {
			seed[i] = byte(random.Uint32())
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, choices []byte) {
		m := newKeyedMachine(func(n int) int {
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
