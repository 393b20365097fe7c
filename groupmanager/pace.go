package groupmanager

import (
	"net/http"
	"time"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/groupmanager/pacing"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

// pace is what a lane has to do with its webhook's pacer. Owned by the partition
// goroutine.
type pace struct {
	line  *pacing.Line
	asked bool   // since pump began
	opens uint64 // of the circuit, seen
}

// paced is what a delivery has to do with it. Held back is no attempt and takes
// nothing from it: what a delivery waits beyond its backoff is not counted in max_age_ms,
// and an attempt that is a probe before its backoff is over not in max_attempts.
type paced struct {
	pass    pacing.Pass
	sick    bool          // the last attempt failed for the receiver's health
	planned time.Time     // when the backoff is over
	floor   time.Time     // not before that: the receiver said so
	refused time.Time     // since when the pacer does not let it go; zero: it does
	held    time.Duration // by the pacer, beyond its backoffs
	early   int           // attempts before the backoff was over, that under way included
	isEarly bool          // the last attempt is one
}

// pacer makes that of a webhook, which lives as long as its member.
func (s *shared) pacer(w webhooks.Webhook, metrics *instruments) *pacing.Pacer {
	return pacing.New(pacing.Config{
		LineInFlight: w.MaxInFlight, MaxConnections: s.cfg.MaxConnections, Share: s.share,
		RecordsPerSecond: w.Limits.RecordsPerSecond, RequestsPerSecond: w.Limits.RequestsPerSecond,
		BytesPerSecond: w.Limits.BytesPerSecond,
		LongestPause:   time.Duration(w.Retry.MaxBackoffMs) * time.Millisecond,
		Held:           metrics.waits,
	})
}

// degradation is the reason of a webhook that is degraded here; empty: it is not.
func degradation(p *pacing.Pacer) string {
	if s := p.State(); s != pacing.Closed {
		return s.String()
	}
	return ""
}

// degrades tells the reasons of webhooks that are degraded from those of failed ones.
func degrades(reason string) bool {
	return reason == pacing.Open.String() || reason == pacing.HalfOpen.String()
}

// healthOf is what a result tells of the receiver's health. An answer that is about the
// records, or a nack, is one of a receiver that is well; so is a redirect, a 404, or one
// that we do not understand: it answers.
func healthOf(r delivery.Result) pacing.Ended {
	e := pacing.Ended{Outcome: pacing.Healthy, RetryAfter: r.RetryAfter, ForAll: r.Status == http.StatusTooManyRequests}
	switch {
	case r.Verdict == delivery.Gone, r.Verdict == delivery.Looped, r.Verdict == delivery.TooLarge:
	case r.Verdict != delivery.Failed:
	case r.Status == http.StatusTooManyRequests, r.Status == http.StatusServiceUnavailable,
		r.Status == http.StatusRequestTimeout, r.Status == http.StatusGatewayTimeout:
		e.Outcome = pacing.Overloaded
	case r.Status >= 500:
		e.Outcome = pacing.Sick
	case r.Code == delivery.CodeTimeout, r.Code == delivery.CodeConnectTimeout:
		e.Outcome = pacing.Overloaded
	case r.Code == delivery.CodeDNS, r.Code == delivery.CodeConnectRefused, r.Code == delivery.CodeConnectFailed,
		r.Code == delivery.CodeTLS, r.Code == delivery.CodeConnectionReset, r.Code == delivery.CodeTruncated,
		r.Code == delivery.CodeMalformed, r.Code == delivery.CodeTokenFailed: // who hands out tokens is part of the way there
		e.Outcome = pacing.Sick
	case r.Code == delivery.CodeCanceled, r.Code == delivery.CodeAddressDenied, r.Code == codeInternal,
		r.Code == delivery.CodeTokenRefused, r.Code == delivery.CodeTokenDenied:
		e.Outcome = pacing.Unknown
	}
	return e
}

// ails tells whether a failure is one of the receiver's health.
func ails(r delivery.Result) bool {
	o := healthOf(r).Outcome
	return o == pacing.Sick || o == pacing.Overloaded
}

// mayBegin asks whether a new delivery may go. If so it has to.
func (l *lane) mayBegin(now time.Time) (pass pacing.Pass, ok bool) {
	l.pace.asked = true
	ok = l.pace.line.Enter(now, &pass)
	return pass, ok
}

// mayGo asks whether the next attempt of o may go, or its dead-lettering, which always
// may. If so it has to.
func (l *lane) mayGo(o *outgoing, now time.Time) bool {
	if o.exhaust {
		return true
	}
	l.pace.asked = true
	p := &o.paced
	if !l.pace.line.Enter(now, &p.pass) {
		if p.refused.IsZero() {
			p.refused = now
		}
		return false
	}
	if since := later(p.refused, p.planned); !p.refused.IsZero() && now.After(since) {
		p.held += now.Sub(since)
	}
	p.refused = time.Time{}
	if p.isEarly = p.sick && now.Before(p.planned); p.isEarly {
		p.early++
	}
	return true
}

// leftPacer tells the pacer what came of an attempt. An early one that did not fail for
// the receiver's health counts like any other.
func (l *lane) leftPacer(o *outgoing, r delivery.Result) {
	p := &o.paced
	l.pace.line.Exit(time.Now(), &p.pass, healthOf(r))
	if !ails(r) {
		p.answered()
	}
}

// answered tells that the receiver has spoken of the last attempt, which counts like any
// other then, early or not.
func (p *paced) answered() {
	if p.isEarly {
		p.isEarly = false
		p.early--
	}
}

// uncounted are the attempts that are over and not counted.
func (p *paced) uncounted(underWay bool) int {
	if underWay && p.isEarly {
		return p.early - 1
	}
	return p.early
}

// giveWay leaves the queue if nothing wants to go any more: what waited was acked
// meanwhile, or may not go for another reason. A full lane would not ask when its turn
// has come, and those behind it would wait for its results.
func (l *lane) giveWay() {
	if _, waits := l.pace.line.Waits(); waits && (!l.pace.asked || l.full()) {
		l.pace.line.Withdraw()
	}
}

// schedule plans the next attempt of o after a failed one. While the circuit is open
// that is up to the pacer and not to the backoff, which goes on beside it: an attempt
// before it is over has changed nothing in it.
func (l *lane) schedule(o *outgoing, r delivery.Result, wait time.Duration) {
	p := &o.paced
	p.sick = ails(r)
	p.floor = r.At.Add(min(r.RetryAfter, time.Duration(l.webhook.Retry.MaxBackoffMs)*time.Millisecond))
	if !p.isEarly || o.exhaust {
		p.planned = r.At.Add(wait)
	}
	p.isEarly = false
	o.due = p.planned
	if p.sick && !o.exhaust && l.pace.line.State() != pacing.Closed {
		o.due = p.floor
	}
}

// hurry makes due what waits in a backoff because the receiver is sick, once the
// circuit has opened: from then on the pacer says when it may go, which is sooner
// after the receiver is well again.
func (l *lane) hurry(now time.Time) {
	opens := l.pace.line.Opens()
	if opens == l.pace.opens {
		return
	}
	l.pace.opens = opens
	for _, o := range l.open {
		if p := &o.paced; p.sick && !o.inFlight && !o.exhaust && o.due.After(now) {
			switch o.book.State() {
			case acker.Waiting, acker.Nacked:
				o.due = later(p.floor, now)
			}
		}
	}
}

// showHeld shows in a row of /partitions that the pacer holds the lane back.
func (l *lane) showHeld(s *PartitionStatus) {
	if _, waits := l.pace.line.Waits(); !waits || l.inFlight > 0 {
		return
	}
	if s.State == PartitionIdle || s.State == PartitionDelivering {
		s.State = PartitionBackingOff
	}
	s.NextAttemptAt = nil
	if at := l.pace.line.Due(); !at.IsZero() {
		s.NextAttemptAt = new(at)
	}
}

// later is the later of two times.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
