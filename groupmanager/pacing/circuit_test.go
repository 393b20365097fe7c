package pacing

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 9, 22, 10, 0, 0, 0, time.UTC)

func half() float64 { return 0.5 }

// attempt lets one attempt of a delivery in, if it may go, and ends it.
func attempt(c *circuit, now time.Time, p *Pass, o Outcome) (went bool) {
	k, _, ok := c.may(now, p)
	if ok {
		c.enter(p, k)
		c.exit(now, p, o)
	}
	return ok
}

// opened is a circuit that failures of two deliveries have opened just now.
func opened(t *testing.T, most time.Duration) (c circuit, now time.Time) {
	t.Helper()
	c, now = newCircuit(most, half), epoch
	for n := range 2 * runLong {
		attempt(&c, now, new(Pass), Sick)
		if now = now.Add(runLasts / (runLong - 1)); c.state == Open {
			if n < runLong-1 {
				t.Fatalf("open after %d failures", n+1)
			}
			return c, now
		}
	}
	t.Fatalf("%s after %d failures over %v, want it open", c.state, 2*runLong, now.Sub(epoch))
	return c, now
}

func TestACircuitOpens(t *testing.T) {
	for _, test := range []struct {
		claim string
		every time.Duration
		fails func(n int) bool
		opens int // after so many attempts; 0: not within a thousand
	}{
		{"after five failures in a row that have lasted", 500 * time.Millisecond, func(int) bool { return true }, 5},
		{"not for five that have not", time.Millisecond, func(n int) bool { return n < 19 }, 0},
		{"after twenty at once", 0, func(int) bool { return true }, 20},
		{"not when every other attempt fails", 10 * time.Millisecond, func(n int) bool { return n%2 == 0 }, 0},
		{"not when seven of ten fail", 10 * time.Millisecond, func(n int) bool { return n%10 < 7 }, 0},
		{"when nine of ten fail, and no sooner than after fifty", 10 * time.Millisecond, func(n int) bool { return n%10 > 0 }, 50},
		{"not for one in a thousand", time.Second, func(n int) bool { return n == 500 }, 0},
	} {
		t.Run(test.claim, func(t *testing.T) {
			c, now, opens := newCircuit(time.Minute, half), epoch, 0
			for n := 0; n < 1000 && opens == 0; n++ {
				o := Healthy
				if test.fails(n) {
					o = Sick
				}
				attempt(&c, now, new(Pass), o)
				if c.state == Open {
					opens = n + 1
				}
				now = now.Add(test.every)
			}
			if opens != test.opens {
				t.Errorf("open after %d attempts, want %d", opens, test.opens)
			}
		})
	}
}

func TestAnOpenCircuitProbes(t *testing.T) {
	c, now := opened(t, time.Minute)
	waiting, other := Pass{id: 100}, Pass{id: 101}
	if _, at, ok := c.may(now, &waiting); ok || at != c.next {
		t.Fatalf("may go %v, else at %v; want to be told of the next probe, %v", ok, at, c.next)
	}
	for _, want := range []time.Duration{2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
		now = c.next
		k, _, ok := c.may(now, &waiting)
		if !ok || k != probe {
			t.Fatalf("may go %v as %d when the pause is over, want as the probe", ok, k)
		}
		c.enter(&waiting, k)
		if _, at, ok := c.may(now, &other); ok || !at.IsZero() || c.state != HalfOpen {
			t.Fatalf("another may go %v at %v, state %s; want to wait for the probe", ok, at, c.state)
		}
		c.exit(now, &waiting, Sick)
		if got := c.next.Sub(now); got != want || c.state != Open {
			t.Errorf("%s, next probe after %v, want open and %v", c.state, got, want)
		}
	}
	for c.next.Before(epoch.Add(time.Hour)) {
		now = c.next
		attempt(&c, now, &waiting, Sick)
	}
	// The middle of what the jitter makes of the longest pause, which it does not pass.
	if got, want := c.next.Sub(now), longestPause-longestPause/8; got != want {
		t.Errorf("next probe after %v in an outage of an hour, want %v", got, want)
	}
	attempt(&c, c.next, &waiting, Healthy)
	if c.state != Closed || c.ramp() != rampMost {
		t.Errorf("%s with a slow start of %v, want closed and %v", c.state, c.ramp(), rampMost)
	}
}

func TestPausesAreNoLongerThanTheWebhooksBackoff(t *testing.T) {
	c, now := opened(t, 200*time.Millisecond)
	if got := c.next.Sub(now); got > 200*time.Millisecond {
		t.Errorf("probe after %v, want within retry.max_backoff_ms", got)
	}
	c.random = func() float64 { return 0.999 }
	attempt(&c, c.next, new(Pass), Sick)
	latest := c.jittered(c.pause(c.next))
	if latest > 200*time.Millisecond {
		t.Errorf("probe after %v by its jitter, want within retry.max_backoff_ms", latest)
	}
	c.random = func() float64 { return 0.7 }
	if got := c.jittered(c.pause(c.next)); got >= latest {
		t.Errorf("probes after %v and %v, want the longest pause spread, too", got, latest)
	}
}

func TestWhatBeganBeforeTheCircuitOpenedSaysNothing(t *testing.T) {
	c := newCircuit(time.Minute, half)
	var early, late Pass
	c.enter(&early, plain)
	c.enter(&late, plain)
	for range runAtOnce {
		attempt(&c, epoch, new(Pass), Sick)
	}
	next := c.next
	c.exit(epoch, &early, Healthy)
	c.exit(epoch, &late, Sick)
	if c.state != Open || c.next != next {
		t.Errorf("%s, next probe at %v; want open and %v still", c.state, c.next, next)
	}
}

// One record that the receiver fails on, in a partition that retries it for ever: the
// others hardly notice.
func TestACircuitThatOneDeliveryOpensLetsOthersPass(t *testing.T) {
	poisoned := func(t *testing.T) (c circuit, bad Pass, now time.Time) {
		c, now = newCircuit(time.Minute, half), epoch
		for attempt(&c, now, &bad, Sick); c.state == Closed && now.Before(epoch.Add(time.Minute)); attempt(&c, now, &bad, Sick) {
			now = now.Add(time.Second)
		}
		if c.state != Open || c.broad {
			t.Fatalf("%s, broad %v; want it open for one delivery", c.state, c.broad)
		}
		return c, bad, now
	}
	t.Run("one at a time, also beside a probe, and it closes when one is answered", func(t *testing.T) {
		c, bad, now := poisoned(t)
		now = later(now, c.next)
		k, _, _ := c.may(now, &bad)
		c.enter(&bad, k)
		var first, second Pass
		if k, _, ok := c.may(now, &first); !ok || k != aside {
			t.Fatalf("another delivery may go %v as %d, want aside", ok, k)
		}
		c.enter(&first, aside)
		if _, _, ok := c.may(now, &second); ok {
			t.Error("two are let past it at once")
		}
		c.exit(now, &first, Healthy)
		if c.state != Closed {
			t.Errorf("%s after another delivery was answered, want closed", c.state)
		}
		c.exit(now, &bad, Sick)
		if c.state != Closed {
			t.Errorf("%s after a probe of before it closed, want closed", c.state)
		}
	})
	t.Run("until one of them fails too", func(t *testing.T) {
		c, _, now := poisoned(t)
		if attempt(&c, now, new(Pass), Sick); c.state != Open {
			t.Fatalf("%s, want open", c.state)
		}
		if attempt(&c, now, new(Pass), Healthy) {
			t.Error("a third delivery is let past a circuit that two have failed on")
		}
	})
}

// later is the later of two times.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func TestAProbeThatWasGivenUpIsMadeAgainSoon(t *testing.T) {
	c, _ := opened(t, time.Minute)
	now := c.next
	attempt(&c, now, new(Pass), Unknown)
	if got := c.next.Sub(now); c.state != Open || got != firstPause {
		t.Errorf("%s, next probe after %v; want open and %v", c.state, got, firstPause)
	}
}

// The circuit against a plain account of what was let in: never two probes, never one
// before its pause was over, never closed but by an answer to what was let in since it
// opened; and the retry budget holds.
func TestCircuitModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCircuit(time.Minute, func() float64 { return rapid.Float64Range(0, 0.999).Draw(t, "jitter") })
		now := epoch
		var waiting, flying []*Pass
		var probes, asides int
		firsts, failedRetries, closings := 0, 0, 0
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if probes > 1 || asides > 1 {
					t.Fatalf("%d probes and %d aside are under way", probes, asides)
				}
				if c.probing != (c.state == HalfOpen) {
					t.Fatalf("%s, probe under way %v", c.state, c.probing)
				}
				if most := firsts + creditMost + closings*creditHealed; failedRetries > most {
					t.Fatalf("%d retries failed of %d first attempts and %d closings, want at most %d", failedRetries, firsts, closings, most)
				}
			},
			"time passes": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
			},
			"ask": func(t *rapid.T) {
				p, retry := new(Pass), -1
				if len(waiting) > 0 && rapid.Bool().Draw(t, "retry") {
					retry = rapid.IntRange(0, len(waiting)-1).Draw(t, "which")
					p = waiting[retry]
				}
				k, at, ok := c.may(now, p)
				if !ok {
					if c.state == Open && (!at.Equal(c.next) || !at.After(now)) {
						t.Fatalf("told to come at %v, now is %v and the next probe at %v", at, now, c.next)
					}
					return
				}
				switch k {
				case probe:
					if now.Before(c.next) || c.state != Open {
						t.Fatalf("a probe %v before its time, %s", c.next.Sub(now), c.state)
					}
					probes++
				case aside:
					if c.broad || p.id == c.suspect {
						t.Fatal("let past a circuit that is open for it")
					}
					asides++
				default:
					if c.state != Closed {
						t.Fatalf("an ordinary attempt, %s", c.state)
					}
					if p.id == 0 {
						firsts++
					}
				}
				if retry >= 0 {
					waiting = append(waiting[:retry], waiting[retry+1:]...)
				}
				c.enter(p, k)
				flying = append(flying, p)
			},
			"end": func(t *rapid.T) {
				if len(flying) == 0 {
					return
				}
				i := rapid.IntRange(0, len(flying)-1).Draw(t, "which")
				p := flying[i]
				flying = append(flying[:i], flying[i+1:]...)
				o := rapid.SampledFrom([]Outcome{Unknown, Healthy, Healthy, Sick, Sick, Sick, Sick, Overloaded}).Draw(t, "outcome")
				before, current := c.state, p.epoch == c.epoch
				if current && p.kind == probe {
					probes--
				}
				if current && p.kind == aside {
					asides--
				}
				if p.kind == plain && p.retry && o.sick() && current {
					failedRetries++
				}
				c.exit(now, p, o)
				switch {
				case before != Closed && c.state == Closed:
					if !current || o != Healthy {
						t.Fatalf("closed by %d of an attempt from another time: %v", o, !current)
					}
					probes, asides = 0, 0
					closings++
				case before == Closed && c.state != Closed && (!current || !o.sick()):
					t.Fatal("opened by what was no failure of this time")
				}
				waiting = append(waiting, p)
			},
		})
	})
}
