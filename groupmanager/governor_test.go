package groupmanager

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

var anyTime = time.Date(2026, 9, 22, 10, 0, 0, 0, time.UTC)

// The bound said once more, from a log of all that happened: beside one delivery a
// minute, no ten minutes give up more than 5 % of what was delivered in them and in the
// ten before; and what the share has room for by the full minute is allowed.
func TestGovernorModel(t *testing.T) {
	type event struct {
		at                 time.Time
		delivered, givenUp int
	}
	rapid.Check(t, func(t *rapid.T) {
		var g governor
		var log []event
		var lastFree time.Time
		sum := func(since time.Time) (delivered, givenUp int) {
			for _, e := range log {
				if e.at.After(since) {
					delivered += e.delivered
					givenUp += e.givenUp
				}
			}
			return delivered, givenUp
		}
		now := anyTime
		t.Repeat(map[string]func(*rapid.T){
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "seconds")) * time.Second)
			},
			"deliver": func(t *rapid.T) {
				n := rapid.IntRange(1, 10_000).Draw(t, "records")
				g.delivered(n, now)
				log = append(log, event{now, n, 0})
			},
			"give up": func(t *rapid.T) {
				n := rapid.IntRange(1, 400).Draw(t, "records")
				delivered, _ := sum(now.Add(-shareMinutes * time.Minute))
				surely, _ := sum(now.Add(-(shareMinutes - 1) * time.Minute))
				_, givenUp := sum(now.Add(-shareMinutes * time.Minute))
				_, atMost := sum(now.Add(-(shareMinutes + 1) * time.Minute))
				free := lastFree.IsZero() || now.Sub(lastFree) >= freeEvery
				may := 20*(givenUp+n) <= delivered
				must := 20*(atMost+n) <= surely
				allowed := g.allow(n, now)
				switch {
				case allowed && !free && !may:
					t.Fatalf("%d records given up, with %d of %d in the last ten minutes and one free %v ago", n, givenUp, delivered, now.Sub(lastFree))
				case !allowed && (free || must):
					t.Fatalf("%d records held, with at most %d of %d and one free %v ago", n, atMost, surely, now.Sub(lastFree))
				case !allowed && !g.next().Equal(lastFree.Add(freeEvery)):
					t.Fatalf("the next is free at %v, want a minute after %v", g.next(), lastFree)
				}
				if !allowed {
					return
				}
				if before := g.free; before.Equal(now.Add(freeEvery)) && !before.Equal(lastFree.Add(freeEvery)) || lastFree.IsZero() && !before.IsZero() {
					lastFree = now
					return
				}
				log = append(log, event{now, 0, n})
			},
		})
	})
}

// An hour in which a receiver takes nothing costs 60 deliveries a partition and a
// twentieth of what was delivered in the ten minutes before, not the 7,200,000 records
// that came in it.
func TestAnOutageDoesNotDrainATopic(t *testing.T) {
	const partitions, rate, batch = 6, 2000 / 6, 100
	lost, came := 0, 0
	for range partitions {
		var g governor
		now := anyTime
		for range 15 * 60 { // all is well
			g.delivered(rate, now)
			now = now.Add(time.Second)
		}
		for range 3600 * 10 { // max_attempts is 1: a delivery is exhausted as soon as it is sent
			now = now.Add(time.Second / 10)
			if g.allow(batch, now) {
				lost += batch
			}
		}
		came += rate * 3600
	}
	bound := partitions*60*batch + partitions*rate*600/20
	if lost > bound {
		t.Errorf("%d of %d records were given up in the outage, want at most %d", lost, came, bound)
	}
	if lost < partitions*59*batch {
		t.Errorf("%d records were given up, want the free ones at least", lost)
	}
	t.Logf("%d of %d given up, the bound is %d", lost, came, bound)
}
