package delivery

import (
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kpush/kpush/webhooks"
)

func TestBackoff(t *testing.T) {
	retry := webhooks.Retry{InitialBackoffMs: 500, MaxBackoffMs: 60_000, Multiplier: 2}
	for _, test := range []struct {
		claim      string
		failed     int
		retryAfter time.Duration
		rnd        float64
		want       time.Duration
	}{
		{"the first pause is anything up to the initial backoff", 1, 0, 0.5, 250 * time.Millisecond},
		{"full jitter may be no pause at all", 1, 0, 0, 0},
		{"the ceiling doubles", 3, 0, 0.5, time.Second},
		{"the ceiling stops at the maximum", 20, 0, 0.5, 30 * time.Second},
		{"however often it failed", math.MaxInt, 0, 0.5, 30 * time.Second},
		{"a count below one is the first", 0, 0, 0.5, 250 * time.Millisecond},
		{"the receiver's wish is the floor", 1, 5 * time.Second, 0.5, 5 * time.Second},
		{"the jitter may be longer than the wish", 20, 5 * time.Second, 0.5, 30 * time.Second},
		{"the wish is cut at the maximum", 1, time.Duration(math.MaxInt64), 0.5, time.Minute},
	} {
		t.Run(test.claim, func(t *testing.T) {
			if got := Backoff(retry, test.failed, test.retryAfter, test.rnd); got != test.want {
				t.Errorf("Backoff(%d, %v, %v) = %v, want %v", test.failed, test.retryAfter, test.rnd, got, test.want)
			}
		})
	}
}

func TestBackoffStaysWithinBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		retry := webhooks.Retry{
			InitialBackoffMs: rapid.IntRange(1, 3_600_000).Draw(t, "initial"),
			MaxBackoffMs:     rapid.IntRange(1, 3_600_000).Draw(t, "max"),
			Multiplier:       rapid.Float64Range(1, 10).Draw(t, "multiplier"),
		}
		wish := time.Duration(rapid.Int64Min(0).Draw(t, "retryAfter"))
		longest := time.Duration(retry.MaxBackoffMs) * time.Millisecond
		got := Backoff(retry, rapid.IntMin(1).Draw(t, "failed"), wish, rapid.Float64Range(0, 0.999999).Draw(t, "rnd"))
		if got < min(wish, longest) || got > longest {
			t.Fatalf("got %v, want at least %v and at most %v", got, min(wish, longest), longest)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 9, 22, 10, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		text string
		want time.Duration
	}{
		{"", 0},
		{"7", 7 * time.Second},
		{"0", 0},
		{"99999999", 99999999 * time.Second},
		{"9223372036854775807", math.MaxInt64 / time.Second * time.Second},
		{"9223372036854775808", 0},
		{strings.Repeat("9", 10_000), 0},
		{"-5", 0},
		{"1.5", 0},
		{"soon", 0},
		{"7 seconds", 0},
		{"Tue, 22 Sep 2026 10:01:30 GMT", 90 * time.Second},
		{"Tuesday, 22-Sep-26 10:01:30 GMT", 90 * time.Second},
		{"Tue Sep 22 10:01:30 2026", 90 * time.Second},
		{"Tue, 22 Sep 2026 09:00:00 GMT", 0},
		{"Fri, 31 Dec 9999 23:59:59 GMT", math.MaxInt64},
	} {
		if got := retryAfter(http.Header{"Retry-After": {test.text}}, now); got != test.want {
			t.Errorf("retryAfter(%.30q) = %v, want %v", test.text, got, test.want)
		}
	}
}
