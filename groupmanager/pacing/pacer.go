package pacing

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Reason is why an attempt was held back; a word of a closed list, for metrics.
type Reason string

// The reasons.
const (
	ByCircuit     Reason = "circuit"
	ByRetryAfter  Reason = "retry_after"
	ByConcurrency Reason = "concurrency"
	ByRate        Reason = "rate"
	ByBytes       Reason = "in_flight_bytes"
)

// Config is what a Pacer is made from. The zero value limits nothing but what the
// circuit does.
type Config struct {
	LineInFlight   int // attempts at once of one line
	MaxConnections int // attempts at once of the webhook; 0: as many as its lines may have

	// Limits for this replica, 0 for none.
	RecordsPerSecond  int
	RequestsPerSecond int
	BytesPerSecond    int

	LongestPause time.Duration // retry.max_backoff_ms: between probes, and of Retry-After
	Share        *Share        // nil: bytes under way are not bounded
	Held         func(Reason)  // counts what is held back; nil: nobody does. It is called under a lock.

	Random func() float64 // in [0,1); default rand.Float64
}

// Pacer says when the attempts of one webhook may go out from this replica. All
// methods may be called concurrently.
type Pacer struct {
	cfg   Config
	opens atomic.Uint64 // how often the circuit has opened

	mu       sync.Mutex
	circuit  circuit
	limiter  limiter
	requests rate
	records  rate
	bytes    rate
	hold     time.Time // by Retry-After
	inFlight int
	flying   int64 // bytes under way
	lines    map[*Line]struct{}
	queue    []*Line
}

// New makes the Pacer of a webhook.
func New(cfg Config) *Pacer {
	if cfg.Random == nil {
		cfg.Random = rand.Float64
	}
	if cfg.Held == nil {
		cfg.Held = func(Reason) {}
	}
	return &Pacer{
		cfg:      cfg,
		circuit:  newCircuit(cfg.LongestPause, cfg.Random),
		limiter:  limiter{most: cfg.MaxConnections},
		requests: rate{perSecond: cfg.RequestsPerSecond},
		records:  rate{perSecond: cfg.RecordsPerSecond},
		bytes:    rate{perSecond: cfg.BytesPerSecond},
		lines:    make(map[*Line]struct{}),
	}
}

// State is the circuit's.
func (p *Pacer) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.circuit.state
}

// refusal is why an attempt may not go now; empty if it may, as k. at is when to come
// again; zero: a nudge will come.
func (p *Pacer) refusal(now time.Time, pass *Pass) (why Reason, at time.Time, k kind) {
	if now.Before(p.hold) {
		return ByRetryAfter, p.hold, plain
	}
	k, at, ok := p.circuit.may(now, pass)
	if !ok {
		return ByCircuit, at, plain
	}
	if k == plain { // the others are one at a time, whatever else is under way
		if at, ok := p.limiter.may(now, p.inFlight); !ok {
			return ByConcurrency, at, plain
		}
	}
	for _, r := range []*rate{&p.requests, &p.records, &p.bytes} {
		if at := r.ready(now); !at.IsZero() {
			return ByRate, at, plain
		}
	}
	if p.cfg.Share != nil && !p.cfg.Share.may(p.flying) {
		return ByBytes, time.Time{}, plain
	}
	return "", time.Time{}, k
}

// exit takes back a pass and says what follows from it. p.mu is held.
func (p *Pacer) exit(now time.Time, pass *Pass, e Ended) {
	p.land(1, pass.bytes)
	pass.bytes = 0
	before := p.circuit.state
	p.circuit.exit(now, pass, e.Outcome)
	p.limiter.count(now, e.Outcome)
	if e.RetryAfter > 0 && e.Outcome.sick() && (e.ForAll || p.circuit.run > 1 || p.circuit.state != Closed) {
		wait := min(e.RetryAfter, p.cfg.LongestPause)
		wait += time.Duration(p.cfg.Random() * float64(wait) / 10) // others were told the same
		if until := now.Add(wait); until.After(p.hold) {
			p.hold = until
		}
	}
	switch after := p.circuit.state; {
	case before == Closed && after == Open:
		p.opens.Add(1)
		for l := range p.lines {
			l.nudge() // what waits in a backoff of its own may be the probe
		}
	case before != Closed && after == Closed:
		p.limiter.ramp(now, p.circuit.ramp())
	}
	p.wake()
}

// land takes back what so many attempts had under way. p.mu is held.
func (p *Pacer) land(attempts, bytes int) {
	p.inFlight -= attempts
	p.flying -= int64(bytes)
	if p.cfg.Share != nil {
		p.cfg.Share.giveBack(p.flying, int64(bytes))
	}
}

// wake has the first of the queue ask again. p.mu is held.
func (p *Pacer) wake() {
	if len(p.queue) > 0 {
		p.queue[0].nudge()
	}
}

// leave takes a line out of the queue. p.mu is held.
func (p *Pacer) leave(l *Line) {
	i := slices.Index(p.queue, l)
	if i < 0 {
		return
	}
	p.queue = slices.Delete(p.queue, i, i+1)
	if i == 0 {
		p.wake()
	}
}
