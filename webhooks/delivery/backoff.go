package delivery

import (
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/kpush/kpush/webhooks"
)

// Backoff is the pause before attempt number n+1 after n failed ones: full
// jitter over the exponential ceiling; what the receiver asked for in
// Retry-After is the floor, capped at MaxBackoff. rnd is in [0,1).
func Backoff(r webhooks.Retry, n int, retryAfter time.Duration, rnd float64) time.Duration {
	longest := time.Duration(r.MaxBackoffMs) * time.Millisecond
	ceiling := float64(r.InitialBackoffMs) * float64(time.Millisecond) * math.Pow(r.Multiplier, float64(max(n, 1)-1))
	jittered := time.Duration(rnd * min(ceiling, float64(longest)))
	return max(jittered, min(retryAfter, longest))
}

// retryAfter reads the header of that name: seconds or an HTTP date seen from
// now. What is in the past or makes no sense is 0.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	if text == "" {
		return 0
	}
	if s, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Duration(min(max(s, 0), math.MaxInt64/int64(time.Second))) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}
