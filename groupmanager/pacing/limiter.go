package pacing

import (
	"math"
	"time"
)

const (
	lookEvery = time.Second // at how many attempts were too much
	lookLeast = 10          // attempts, or the look goes on
	regrow    = 30 * time.Second
)

// limiter bounds how many attempts are under way at once: a part of what the lines
// may have together, which grows with time alone.
type limiter struct {
	lines int // what all lines may have at once
	most  int // connections; 0: any number

	// The part is base at from and grows to 1 over span; with span 0 it is 1.
	base float64
	from time.Time
	span time.Duration

	looked         time.Time
	all, overloads int // since then
}

func (l *limiter) ceiling() int {
	n := l.lines
	if l.most > 0 {
		n = min(n, l.most)
	}
	return max(n, 1)
}

func (l *limiter) part(now time.Time) float64 {
	if l.span == 0 {
		return 1
	}
	p := l.base + float64(now.Sub(l.from))/float64(l.span)
	if p >= 1 {
		l.span = 0
		return 1
	}
	return max(p, 0)
}

// may tells whether one more may go beside those under way. If not, at is when time
// alone will allow it; zero: not before one of them has ended.
func (l *limiter) may(now time.Time, inFlight int) (at time.Time, ok bool) {
	ceiling := l.ceiling()
	part := l.part(now)
	if inFlight < max(1, int(part*float64(ceiling))) {
		return time.Time{}, true
	}
	if l.span == 0 || inFlight >= ceiling {
		return time.Time{}, false
	}
	missing := float64(inFlight+1)/float64(ceiling) - l.base
	return l.from.Add(time.Duration(math.Ceil(missing*float64(l.span))) + time.Microsecond), false
}

// ramp begins a slow start.
func (l *limiter) ramp(now time.Time, span time.Duration) {
	l.base, l.from, l.span = 0, now, span
	l.looked, l.all, l.overloads = now, 0, 0
}

// count takes what came of an attempt.
func (l *limiter) count(now time.Time, o Outcome) {
	if o == Unknown {
		return
	}
	l.all++
	if o == Overloaded {
		l.overloads++
	}
	if l.all < lookLeast || now.Sub(l.looked) < lookEvery {
		return
	}
	if l.overloads > 0 {
		l.base = l.part(now) * (1 - float64(l.overloads)/float64(l.all)/2)
		l.from, l.span = now, regrow
	}
	l.looked, l.all, l.overloads = now, 0, 0
}
