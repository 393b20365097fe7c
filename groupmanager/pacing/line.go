package pacing

import (
	"slices"
	"time"
)

// Line is one partition's place before a Pacer. Its methods are called by one
// goroutine at a time.
type Line struct {
	pacer *Pacer
	nudge func()

	waits bool      // it is in the queue
	until time.Time // when it is to ask again; zero: when it is nudged

	// Under the pacer's lock.
	inFlight int
	bytes    int
	retries  int    // of those in flight that took a credit
	trying   []Pass // the probe, and what was let past the circuit
}

// Line adds a line. nudge is called, from any goroutine and under a lock, when it
// should look again whether something may go; it must not wait, nor call back.
// Close ends it.
func (p *Pacer) Line(nudge func()) *Line {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := &Line{pacer: p, nudge: nudge}
	p.lines[l] = struct{}{}
	p.limiter.lines += p.cfg.LineInFlight
	p.wake()
	return l
}

// Enter tells whether an attempt of a delivery may go now. If so, Exit has to follow
// when it has ended. If not, the line waits: see Waits.
func (l *Line) Enter(now time.Time, pass *Pass) bool {
	p := l.pacer
	p.mu.Lock()
	defer p.mu.Unlock()
	why, at, k := p.refusal(now, pass)
	if len(p.queue) > 0 && p.queue[0] != l && k != aside && why == "" {
		why, at = ByConcurrency, time.Time{} // others were here before
	}
	if why != "" {
		if !l.waits {
			p.cfg.Held(why)
			p.queue = append(p.queue, l)
		}
		if p.queue[0] != l {
			at = time.Time{}
		}
		l.waits, l.until = true, at
		return false
	}
	if l.waits && k != aside {
		l.waits, l.until = false, time.Time{}
		p.leave(l)
	}
	p.circuit.enter(pass, k)
	switch {
	case k != plain:
		l.trying = append(l.trying, *pass)
	case pass.retry:
		l.retries++
	}
	p.inFlight++
	l.inFlight++
	p.requests.charge(now, 1)
	return true
}

// Weigh says how much the attempt is that was let in last.
func (l *Line) Weigh(now time.Time, pass *Pass, records, bytes int) {
	p := l.pacer
	if p.cfg.Share == nil && p.records.perSecond == 0 && p.bytes.perSecond == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.records.charge(now, records)
	p.bytes.charge(now, bytes)
	if p.cfg.Share != nil {
		p.cfg.Share.take(p.flying, int64(bytes))
	}
	pass.bytes = bytes
	p.flying += int64(bytes)
	l.bytes += bytes
}

// Exit says what came of an attempt that was let in.
func (l *Line) Exit(now time.Time, pass *Pass, e Ended) {
	p := l.pacer
	p.mu.Lock()
	defer p.mu.Unlock()
	l.inFlight--
	l.bytes -= pass.bytes
	switch {
	case pass.kind != plain:
		l.trying = slices.DeleteFunc(l.trying, func(t Pass) bool { return t.id == pass.id })
	case pass.retry:
		l.retries--
	}
	p.exit(now, pass, e)
}

// Waits tells whether the line has been told to wait, and until when; a zero time
// means that a nudge will come.
func (l *Line) Waits() (until time.Time, waits bool) { return l.until, l.waits }

// Due is when an attempt may go as far as is known; zero if it is not.
func (l *Line) Due() time.Time {
	if !l.waits || !l.until.IsZero() {
		return l.until
	}
	l.pacer.mu.Lock()
	defer l.pacer.mu.Unlock()
	if l.pacer.circuit.state == Open {
		return l.pacer.circuit.next
	}
	return time.Time{}
}

// Opens is how often the circuit has opened: when it rises, what failed and waits
// should ask at once, for it may be the probe.
func (l *Line) Opens() uint64 { return l.pacer.opens.Load() }

// State is the circuit's.
func (l *Line) State() State { return l.pacer.State() }

// Withdraw gives the place in the queue up.
func (l *Line) Withdraw() {
	if !l.waits {
		return
	}
	l.waits, l.until = false, time.Time{}
	l.pacer.mu.Lock()
	defer l.pacer.mu.Unlock()
	l.pacer.leave(l)
}

// Close ends the line, and with it whatever it has under way. Closing again does nothing.
func (l *Line) Close(now time.Time) {
	p := l.pacer
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, live := p.lines[l]; !live {
		return
	}
	delete(p.lines, l)
	l.waits = false
	p.limiter.lines -= p.cfg.LineInFlight
	for i := range l.trying {
		p.circuit.exit(now, &l.trying[i], Unknown)
	}
	p.circuit.giveBack(l.retries)
	p.land(l.inFlight, l.bytes)
	l.inFlight, l.bytes, l.retries, l.trying = 0, 0, 0, nil
	p.leave(l)
	p.wake()
}
