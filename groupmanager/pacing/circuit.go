package pacing

import "time"

// State of a circuit.
type State uint8

// The states; see the package's page.
const (
	Closed State = iota
	HalfOpen
	Open
)

// String is the state as it is shown to users.
func (s State) String() string {
	switch s {
	case Open:
		return "circuit_open"
	case HalfOpen:
		return "circuit_half_open"
	default:
		return "circuit_closed"
	}
}

// Outcome is what an attempt tells of the receiver's health.
type Outcome uint8

// The outcomes.
const (
	Unknown    Outcome = iota // nothing: we gave the attempt up, or it never left
	Healthy                   // it answers, whatever it says of the records
	Sick                      // it fails
	Overloaded                // it fails, and it is too much for it
)

func (o Outcome) sick() bool { return o >= Sick }

// Ended is what came of an attempt.
type Ended struct {
	Outcome    Outcome
	RetryAfter time.Duration // what the receiver asked for; 0: nothing
	ForAll     bool          // and it speaks of all that goes to it, for sure
}

const (
	// Failures in a row that open the circuit: the first number once they have lasted,
	// the second at once.
	runLong   = 5
	runLasts  = 2 * time.Second
	runAtOnce = 20

	// Share of failures among the attempts in the window that opens it.
	rateLeast = 50
	rateOpens = 0.8

	// The retry budget: see the package's page. A circuit that closes has some at least.
	creditMost   = 20
	creditHealed = 5

	firstPause   = time.Second
	usualPause   = 5 * time.Second
	outageParts  = 12 // a pause is this part of the outage, once that is more
	longestPause = 30 * time.Second
	shortestMost = 100 * time.Millisecond
	pauseJitter  = 0.25

	// An outage goes on if the circuit opens again that soon after it closed.
	relapse = 10 * time.Second

	rampPart  = 5 // of the outage
	rampLeast = 500 * time.Millisecond
	rampMost  = 3 * time.Second
)

// kind is how an attempt was let in.
type kind uint8

const (
	plain kind = iota // the circuit was closed
	probe
	aside // past a circuit that a single delivery has opened
)

// Pass is one delivery's, over all its attempts. The zero value is that of a delivery
// of which no attempt was made. It is given to one call at a time.
type Pass struct {
	id    uint64 // 0: no attempt was made
	epoch uint64 // of the circuit, when the attempt was let in
	kind  kind
	retry bool // not the first attempt
	bytes int  // under way
}

// circuit is the breaker of one webhook. It knows no clock, no lock and no lines.
type circuit struct {
	most   time.Duration  // the longest pause
	random func() float64 // in [0,1)

	state  State
	epoch  uint64 // rises when it opens and when it closes
	lastID uint64

	run      int       // failures in a row
	runBegan time.Time // when the first of them had ended
	suspect  uint64    // the delivery whose failures they are
	broad    bool      // and those of others
	window   window
	credit   float64

	since   time.Time // when the outage began
	healed  time.Time // when the circuit closed last
	next    time.Time // when a probe may go
	pauses  int       // of this outage
	probing bool
	passing bool // somebody is let past it
}

func newCircuit(most time.Duration, random func() float64) circuit {
	most = min(max(most, shortestMost), longestPause)
	return circuit{most: most, random: random, credit: creditMost}
}

// may tells whether an attempt may go now, and as what. If not, at is when to come
// again; zero: when the probe has ended.
func (c *circuit) may(now time.Time, p *Pass) (k kind, at time.Time, ok bool) {
	switch {
	case c.state == Closed:
		// Without credit a retry has to wait for one that is under way: it gives its
		// credit back, or opens the circuit.
		return plain, time.Time{}, p.id == 0 || c.credit > 0
	case !c.broad && !c.passing && p.id != c.suspect:
		return aside, time.Time{}, true
	case c.state == HalfOpen:
		return 0, time.Time{}, false
	case now.Before(c.next):
		return 0, c.next, false
	default:
		return probe, time.Time{}, true
	}
}

// enter lets an attempt in that may go.
func (c *circuit) enter(p *Pass, k kind) {
	p.retry = p.id != 0
	if !p.retry {
		c.lastID++
		p.id = c.lastID
	}
	p.epoch, p.kind = c.epoch, k
	switch k {
	case probe:
		c.state, c.probing = HalfOpen, true
	case aside:
		c.passing = true
	default:
		if p.retry {
			c.credit--
		} else {
			c.credit = min(c.credit+1, creditMost)
		}
	}
}

// exit takes what came of an attempt.
func (c *circuit) exit(now time.Time, p *Pass, o Outcome) {
	if p.epoch != c.epoch { // it was begun in another time than this
		c.broad = c.broad || c.state != Closed && o.sick() && p.id != c.suspect
		return
	}
	switch p.kind {
	case plain:
		c.judge(now, p, o)
	case aside:
		c.passing = false
		c.broad = c.broad || o.sick()
		if o == Healthy {
			c.close(now)
		}
	case probe:
		c.probing = false
		switch {
		case o == Healthy:
			c.close(now)
		case o.sick():
			c.broad = c.broad || p.id != c.suspect
			c.state = Open
			c.pauses++
			c.next = now.Add(c.jittered(c.pause(now)))
		default: // nothing was learned: again, and not at once
			c.state = Open
			c.next = now.Add(c.jittered(min(firstPause, c.most)))
		}
	}
}

// judge takes what came of an attempt while the circuit was closed.
func (c *circuit) judge(now time.Time, p *Pass, o Outcome) {
	switch {
	case !o.sick():
		if p.retry {
			c.giveBack(1)
		}
		if o == Healthy {
			c.run = 0
			c.window.add(now, false)
		}
	default:
		if c.run++; c.run == 1 {
			c.runBegan, c.suspect, c.broad = now, p.id, false
		}
		c.broad = c.broad || p.id != c.suspect
		c.window.add(now, true)
		if c.failing(now) {
			c.open(now)
		}
	}
}

// giveBack takes the credit back of so many retries of which nothing bad is known.
func (c *circuit) giveBack(retries int) {
	c.credit = min(c.credit+float64(retries), creditMost)
}

// failing tells whether the circuit has to open.
func (c *circuit) failing(now time.Time) bool {
	if c.run >= runAtOnce || c.run >= runLong && now.Sub(c.runBegan) >= runLasts || c.credit <= 0 {
		return true
	}
	all, failed := c.window.count(now)
	return all >= rateLeast && float64(failed) >= rateOpens*float64(all)
}

func (c *circuit) open(now time.Time) {
	c.state = Open
	c.epoch++
	if c.healed.IsZero() || now.Sub(c.healed) > relapse {
		c.since, c.pauses = now, 0
	}
	c.next = now.Add(c.jittered(c.pause(now)))
}

func (c *circuit) close(now time.Time) {
	c.state, c.probing, c.passing = Closed, false, false
	c.epoch++
	c.healed = now
	c.run, c.window = 0, window{}
	c.credit = max(c.credit, creditHealed)
}

// ramp is how long the slow start takes after the circuit has closed.
func (c *circuit) ramp() time.Duration {
	return min(max(c.healed.Sub(c.since)/rampPart, rampLeast), rampMost)
}

// pause is how long nothing goes now, before jitter.
func (c *circuit) pause(now time.Time) time.Duration {
	usual := max(usualPause, now.Sub(c.since)/outageParts)
	return min(firstPause<<min(c.pauses, 10), usual, c.most)
}

// jittered is a pause ± a quarter, or as much of that as the longest leaves: anywhere
// in there, so that many whose pause is the longest do not come at once.
func (c *circuit) jittered(d time.Duration) time.Duration {
	least, most := float64(d)*(1-pauseJitter), min(float64(d)*(1+pauseJitter), float64(c.most))
	return time.Duration(least + (most-least)*c.random())
}
