package pacing

import "time"

// burst is how much that was not used a rate may make up for.
const burst = 100 * time.Millisecond

// rate is an account of so many units a second. golang.org/x/time/rate is not it:
// there nothing that is larger than the burst can pass, and a delivery is not cut
// before it may go.
type rate struct {
	perSecond int // 0: no limit
	paid      time.Time
}

// ready is when something may go; zero: now.
func (r *rate) ready(now time.Time) time.Time {
	if r.perSecond == 0 || !r.paid.After(now) {
		return time.Time{}
	}
	return r.paid
}

// charge takes n units, though it may overdraw the account.
func (r *rate) charge(now time.Time, n int) {
	if r.perSecond == 0 {
		return
	}
	if least := now.Add(-burst); r.paid.Before(least) {
		r.paid = least
	}
	r.paid = r.paid.Add(time.Duration(float64(n) / float64(r.perSecond) * float64(time.Second)))
}
