package server

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/server/api"
	"github.com/kpush/kpush/webhooks/delivery"
)

func TestTestWebhook(t *testing.T) {
	for claim, test := range map[string]struct {
		result delivery.Result
		want   api.TestResult
	}{
		"acked":    {delivery.Result{Verdict: delivery.Acked, Status: 204, Took: 41_900 * time.Microsecond}, api.TestResult{Delivered: true, Status: new(204), DurationMs: 41}},
		"received": {delivery.Result{Verdict: delivery.Received, Status: 202}, api.TestResult{Delivered: true, Status: new(202)}},
		"nacked":   {delivery.Result{Verdict: delivery.Stated, Status: 200, Ack: &delivery.Ack{Outcome: "nack"}}, api.TestResult{Delivered: true, Status: new(200)}},
		"gone":     {delivery.Result{Verdict: delivery.Gone, Status: 410, Code: "http_410"}, api.TestResult{Status: new(410), Code: new("http_410")}},
		"a loop":   {delivery.Result{Verdict: delivery.Looped, Status: 508, Code: "loop_detected"}, api.TestResult{Status: new(508), Code: new("loop_detected")}},
		"no token": {delivery.Result{Code: "auth_token_failed", Took: time.Second}, api.TestResult{Code: new("auth_token_failed"), DurationMs: 1000}},
	} {
		s, g := newSeekServer(t)
		g.sample = test.result
		got := into[api.TestResult](t, exchange{method: "POST", path: "/v1/webhooks/a/test"}.do(t, s), http.StatusOK)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", claim, diff)
		}
	}
}

func TestTestWebhookIsRefused(t *testing.T) {
	s, g := newSeekServer(t)
	wantProblem(t, exchange{method: "POST", path: "/v1/webhooks/b/test"}.do(t, s), 404, api.ErrorCodeNotFound)
	wantProblem(t, exchange{method: "POST", path: "/v1/webhooks/a/test", anonymous: true}.do(t, s), 401, api.ErrorCodeUnauthorized)
	for after, want := range map[time.Duration]string{0: "1", 300 * time.Millisecond: "1", 4200 * time.Millisecond: "5", 5 * time.Second: "5"} {
		g.err = &groupmanager.RateLimitedError{After: after}
		response := exchange{method: "POST", path: "/v1/webhooks/a/test"}.do(t, s)
		if got := response.Header.Get("Retry-After"); got != want {
			t.Errorf("again in %v: Retry-After is %q, want %q", after, got, want)
		}
		wantProblem(t, response, 429, api.ErrorCodeRateLimited)
	}
}
