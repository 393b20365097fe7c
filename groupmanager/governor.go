package groupmanager

import "time"

// The budget of a governor.
const (
	freeEvery    = time.Minute // so often one delivery may be given up, whatever was delivered before
	shareMinutes = 10          // how far back the share looks
	sharePercent = 5           // of the records delivered within that, records that may be given up besides
)

// governor bounds what one partition gives up, dead-lettered or skipped, because its
// attempts are used up: one delivery a minute, and besides 5 % of the records delivered
// in the last ten minutes. An outage, in which nothing is delivered, so never drains a
// topic. It lives for a tenure and begins with nothing delivered. The zero governor has
// its first delivery free. It has no clock: times are passed in and do not go back. Not
// safe for concurrent use.
type governor struct {
	born    time.Time
	free    time.Time // when the next delivery is free; zero: at once
	minutes [shareMinutes + 1]minute
}

// minute is what happened within one minute of a governor's life.
type minute struct {
	number             int64
	delivered, givenUp int // records; those of free deliveries are not counted
}

// delivered counts records that a receiver took.
func (g *governor) delivered(records int, now time.Time) {
	g.minute(now).delivered += records
}

// allow tells whether a delivery of that many records may be given up now, and
// counts it if so.
func (g *governor) allow(records int, now time.Time) bool {
	current := g.minute(now)
	delivered, givenUp := 0, 0
	for _, m := range g.minutes {
		age := current.number - m.number
		if age < shareMinutes {
			delivered += m.delivered
		}
		if age <= shareMinutes { // the minute in which the ten began is counted to the full
			givenUp += m.givenUp
		}
	}
	if 100*(givenUp+records) <= sharePercent*delivered {
		current.givenUp += records
		return true
	}
	if now.Before(g.free) {
		return false
	}
	g.free = now.Add(freeEvery)
	return true
}

// resumed tells that deliveries were failing already in the tenure before, which may have
// given one up a moment ago: the first of this one is free in a minute. Otherwise each
// rebalance in an outage would cost one.
func (g *governor) resumed(now time.Time) { g.free = now.Add(freeEvery) }

// next is when a delivery is free again, if the share does not allow one before.
func (g *governor) next() time.Time { return g.free }

// minute is the books of the minute that now is in.
func (g *governor) minute(now time.Time) *minute {
	if g.born.IsZero() {
		g.born = now
	}
	number := int64(now.Sub(g.born) / time.Minute)
	m := &g.minutes[number%int64(len(g.minutes))]
	if m.number != number {
		*m = minute{number: number}
	}
	return m
}
