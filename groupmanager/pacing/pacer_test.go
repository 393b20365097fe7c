package pacing

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// lane is a line as a partition uses it: it asks when it was nudged or its time has come.
type lane struct {
	*Line
	nudged  bool
	pass    Pass
	flying  bool
	wishes  int // deliveries to send
	retries bool
}

func (l *lane) ask(now time.Time) bool {
	l.nudged = false
	if l.flying || l.wishes == 0 {
		l.Withdraw()
		return false
	}
	if !l.retries {
		l.pass = Pass{}
	}
	if !l.Enter(now, &l.pass) {
		return false
	}
	l.Weigh(now, &l.pass, 10, 1000)
	l.flying = true
	return true
}

func (l *lane) end(now time.Time, o Outcome) {
	l.flying, l.retries = false, o != Healthy
	if o == Healthy {
		l.wishes--
	}
	l.Exit(now, &l.pass, Ended{Outcome: o})
}

func newLane(p *Pacer) *lane {
	l := new(lane)
	l.Line = p.Line(func() { l.nudged = true })
	return l
}

func TestLinesAreServedInTheirOrder(t *testing.T) {
	p := New(Config{LineInFlight: 1, RequestsPerSecond: 1, Random: half})
	var lanes []*lane
	for range 4 {
		l := newLane(p)
		l.wishes = 1
		lanes = append(lanes, l)
	}
	now, order := epoch, []int{}
	for n, l := range lanes {
		if l.ask(now) {
			order = append(order, n)
		}
	}
	for range 1000 {
		now = now.Add(10 * time.Millisecond)
		for _, n := range []int{3, 1, 2, 0} { // whoever comes first is not who was first
			if until, waits := lanes[n].Waits(); lanes[n].nudged || waits && !until.IsZero() && !now.Before(until) {
				if lanes[n].ask(now) {
					order = append(order, n)
				}
			}
		}
	}
	if !slices.Equal(order, []int{0, 1, 2, 3}) {
		t.Errorf("served in the order %v, want that in which they came", order)
	}
}

func TestRatesHoldOverAnyTime(t *testing.T) {
	for _, test := range []struct {
		claim string
		cfg   Config
		want  float64 // deliveries of ten records and 1000 bytes in ten seconds
	}{
		{"requests", Config{RequestsPerSecond: 50}, 500},
		{"records", Config{RecordsPerSecond: 7}, 7},
		{"bytes", Config{BytesPerSecond: 20_000}, 200},
	} {
		t.Run(test.claim, func(t *testing.T) {
			test.cfg.LineInFlight, test.cfg.Random = 1, half
			p := New(test.cfg)
			l := newLane(p)
			l.wishes = 1 << 30
			now, sent := epoch, 0
			for now.Before(epoch.Add(10 * time.Second)) {
				if l.ask(now) {
					sent++
					l.end(now, Healthy)
					continue
				}
				until, _ := l.Waits()
				if !until.After(now) {
					t.Fatalf("told to come at %v, now is %v", until, now)
				}
				now = until
			}
			if got := float64(sent); got < test.want || got > test.want*1.02+1 {
				t.Errorf("%v deliveries in ten seconds, want %v", got, test.want)
			}
		})
	}
}

func TestRetryAfterHoldsTheWebhook(t *testing.T) {
	for _, test := range []struct {
		claim string
		first Outcome // before the one that asks for a minute
		ended Ended
		held  bool
	}{
		{"said with a 429", Healthy, Ended{Overloaded, time.Minute, true}, true},
		{"but not with a first 503, which may be about the records", Healthy, Ended{Overloaded, time.Minute, false}, false},
		{"said with a second", Sick, Ended{Overloaded, time.Minute, false}, true},
		{"for no longer than the longest backoff", Healthy, Ended{Overloaded, 24 * time.Hour, true}, true},
	} {
		t.Run(test.claim, func(t *testing.T) {
			p := New(Config{LineInFlight: 1, LongestPause: time.Minute, Random: half})
			l, other := newLane(p), newLane(p)
			for _, e := range []Ended{{Outcome: test.first}, test.ended} {
				pass := Pass{}
				if !l.Enter(epoch, &pass) {
					t.Fatal("held without reason")
				}
				l.Exit(epoch, &pass, e)
			}
			if went := other.Enter(epoch, new(Pass)); went == test.held {
				t.Fatalf("another delivery goes: %v, want %v", went, !test.held)
			}
			if until, _ := other.Waits(); test.held && until.Sub(epoch) != 63*time.Second {
				t.Errorf("held for %v, want for a minute and half of the jitter", until.Sub(epoch))
			}
		})
	}
}

func TestOverloadLowersConcurrencyAndTimeBringsItBack(t *testing.T) {
	l := limiter{lines: 100}
	now := epoch
	for range 20 {
		now = now.Add(100 * time.Millisecond)
		l.count(now, Overloaded)
	}
	if _, ok := l.may(now, 50); ok {
		t.Error("more than half may be under way when all attempts were too much")
	}
	at, ok := l.may(now, 99)
	if ok || at.Sub(now) > regrow || at.Sub(now) < regrow/4 {
		t.Errorf("all may be under way in %v, want within %v", at.Sub(now), regrow)
	}
	if _, ok := l.may(at, 99); !ok {
		t.Error("not all may be under way when it was said")
	}
	for range 1000 { // half of them, for long
		now = now.Add(50 * time.Millisecond)
		l.count(now, Overloaded)
		l.count(now, Healthy)
	}
	if _, ok := l.may(now, 5); !ok {
		t.Error("half of the attempts being too much has brought the limit to 5 of 100 or less")
	}
}

func TestASlowStartGrowsWithTime(t *testing.T) {
	l := limiter{lines: 100}
	l.ramp(epoch, 2*time.Second)
	for after, want := range map[time.Duration]int{0: 1, time.Second / 2: 25, time.Second: 50, 2 * time.Second: 100} {
		l := l
		now := epoch.Add(after)
		if _, ok := l.may(now, want-1); !ok {
			t.Errorf("%d may not be under way after %v", want, after)
		}
		if _, ok := l.may(now, want); ok {
			t.Errorf("%d may be under way after %v", want+1, after)
		}
	}
}

func TestBytesUnderWayAreShared(t *testing.T) {
	share := NewShare(1 << 20)
	start := func() (l *Line, took int) {
		l = New(Config{LineInFlight: 1 << 20, Share: share}).Line(func() {})
		for pass := new(Pass); l.Enter(epoch, pass); pass = new(Pass) {
			l.Weigh(epoch, pass, 1, 1<<10)
			took++
		}
		return l, took
	}
	first, took := start()
	if took != 512 {
		t.Errorf("the first webhook has %d KiB under way, want half of them all", took)
	}
	if _, took := start(); took != 342 {
		t.Errorf("the second has %d KiB under way, want a third of them all", took)
	}
	total := 512 + 342
	for n := range 200 {
		_, took := start()
		if took < 1 {
			t.Errorf("webhook %d has nothing under way", n+3)
		}
		total += took
	}
	if total > 1024+202 {
		t.Errorf("%d KiB are under way, want at most all 1024 and one for each webhook", total)
	}
	if first.Enter(epoch, new(Pass)) {
		t.Error("the first goes on with more than its part")
	}
	t.Logf("202 webhooks that all want as much as they can have: %d KiB under way of 1024", total)
	first.Close(epoch)
	if active, flying := share.active.Load(), share.flying.Load(); active != 201 || flying != int64(total-512)<<10 {
		t.Errorf("%d webhooks have %d bytes under way, want 201 and %d KiB", active, flying, total-512)
	}
}

// A Pacer with lines that come and go, against what must hold whatever happens: no
// more is under way than may be, and nobody waits for nothing.
func TestPacerModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		share := NewShare(5000)
		p := New(Config{
			LineInFlight: 1, MaxConnections: rapid.IntRange(0, 3).Draw(t, "connections"), Share: share, LongestPause: 10 * time.Second,
			RequestsPerSecond: rapid.SampledFrom([]int{0, 0, 3}).Draw(t, "requests"),
			Random:            func() float64 { return rapid.Float64Range(0, 0.999).Draw(t, "jitter") },
		})
		now := epoch
		var lanes []*lane
		pick := func(t *rapid.T) *lane {
			if len(lanes) == 0 {
				return nil
			}
			return lanes[rapid.IntRange(0, len(lanes)-1).Draw(t, "lane")]
		}
		// turn has everybody ask whose turn it is, as partitions do.
		turn := func() {
			for again := true; again; {
				again = false
				for _, l := range lanes {
					until, waits := l.Waits()
					if l.nudged || waits && !until.IsZero() && !now.Before(until) {
						again = true
						l.ask(now)
					}
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				turn()
				flying, bytes := 0, int64(0)
				for _, l := range lanes {
					if l.flying {
						flying++
						bytes += int64(l.pass.bytes)
					}
				}
				if flying != p.inFlight || bytes != p.flying || (bytes > 0) != (share.active.Load() == 1) {
					t.Fatalf("%d under way, %d bytes; the pacer counts %d and %d", flying, bytes, p.inFlight, p.flying)
				}
				if most := p.cfg.MaxConnections; most > 0 && flying > most+2 { // a probe and one aside beside what is left
					t.Fatalf("%d under way of %d", flying, most)
				}
				for n, l := range p.queue {
					if n == 0 && l.until.IsZero() && flying == 0 {
						t.Fatal("the first of the queue waits for what nobody will tell")
					}
					if n > 0 && !l.until.IsZero() {
						t.Fatal("more than the first of the queue have a time")
					}
				}
				for _, l := range lanes {
					if _, waits := l.Waits(); waits != slices.Contains(p.queue, l.Line) {
						t.Fatal(fmt.Sprintf("waits: %v, and is in the queue: %v", waits, !waits))
					}
				}
			},
			"time passes": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
			},
			"a line comes": func(t *rapid.T) {
				if len(lanes) < 5 {
					lanes = append(lanes, newLane(p))
				}
			},
			"a line goes": func(t *rapid.T) {
				if l := pick(t); l != nil && rapid.Bool().Draw(t, "really") {
					l.Close(now)
					lanes = slices.DeleteFunc(lanes, func(o *lane) bool { return o == l })
				}
			},
			"records come": func(t *rapid.T) {
				if l := pick(t); l != nil {
					l.wishes++
					l.ask(now)
				}
			},
			"a line is paused": func(t *rapid.T) {
				if l := pick(t); l != nil {
					l.Withdraw()
				}
			},
			"an attempt ends": func(t *rapid.T) {
				if l := pick(t); l != nil && l.flying {
					l.end(now, rapid.SampledFrom([]Outcome{Unknown, Healthy, Sick, Sick, Overloaded}).Draw(t, "outcome"))
					l.ask(now)
				}
			},
		})
	})
}

// BenchmarkPacer is what a request costs that is not held back.
func BenchmarkPacer(b *testing.B) {
	p := New(Config{LineInFlight: 1, Share: NewShare(1 << 30), LongestPause: time.Minute})
	l := p.Line(func() {})
	for b.Loop() {
		var pass Pass
		now := time.Now()
		if !l.Enter(now, &pass) {
			b.Fatal("held back")
		}
		l.Weigh(now, &pass, 1, 1000)
		l.Exit(now, &pass, Ended{Outcome: Healthy})
	}
}

func TestWhoComesLaterDoesNotPassWhoWaits(t *testing.T) {
	p := New(Config{LineInFlight: 1, MaxConnections: 1, Random: half})
	var lanes [3]*lane
	for n := range lanes {
		lanes[n] = newLane(p)
		lanes[n].wishes = 2
	}
	lanes[0].ask(epoch)
	lanes[1].ask(epoch)
	lanes[0].end(epoch, Healthy)
	if lanes[0].ask(epoch) || lanes[2].ask(epoch) {
		t.Error("a place went to another than the one who waited for it")
	}
	if !lanes[1].nudged || !lanes[1].ask(epoch) {
		t.Error("who waited for a place was not told of it, or did not get it")
	}
}

// A lane has many deliveries waiting for their retry, and starts them all at once.
func TestRetriesAtOnceAreWithinTheBudget(t *testing.T) {
	c := newCircuit(time.Minute, half)
	passes := make([]Pass, 100)
	for n := range passes {
		attempt(&c, epoch, &passes[n], Sick)
		attempt(&c, epoch, new(Pass), Healthy)
	}
	went := 0
	for n := range passes {
		if k, _, ok := c.may(epoch, &passes[n]); ok {
			c.enter(&passes[n], k)
			went++
		}
	}
	if went != creditMost {
		t.Errorf("%d retries went at once, want %d", went, creditMost)
	}
	c.exit(epoch, &passes[0], Unknown)
	if _, _, ok := c.may(epoch, &passes[99]); !ok {
		t.Error("one that was given up has not given its credit back")
	}
}

// A partition that ends with retries under way has their credit back: else those who
// wait for a credit would wait for what nobody gives.
func TestALineThatEndsGivesItsCreditBack(t *testing.T) {
	p := New(Config{LineInFlight: creditMost, Random: half})
	other := newLane(p)
	var waiting Pass
	other.Enter(epoch, &waiting)
	other.Exit(epoch, &waiting, Ended{Outcome: Healthy})
	ends := newLane(p)
	passes := make([]Pass, creditMost)
	for range 2 {
		for n := range passes {
			ends.Enter(epoch, &passes[n])
		}
		if p.circuit.credit == 0 {
			break
		}
		for n := range passes {
			ends.Exit(epoch, &passes[n], Ended{Outcome: Unknown})
		}
	}
	if other.Enter(epoch, &waiting) {
		t.Fatal("a retry goes without credit")
	}
	ends.Close(epoch)
	if !other.nudged || !other.Enter(epoch, &waiting) {
		t.Error("a retry still waits for one whose partition has ended")
	}
}
