package server

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/kpush/kpush/server/api"
)

// TestU8_OurOwnDeliveriesAreAnswered508, wherever they come in and whatever else they
// bring: nothing of them takes effect.
func TestU8_OurOwnDeliveriesAreAnswered508(t *testing.T) {
	internal := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it came to the replica") })
	s, g := newServer(t, func(cfg *Config) { cfg.LoopMarkers, cfg.Internal = []string{"new", "old"}, internal })
	management := s.Management(http.NotFoundHandler())
	for _, x := range []exchange{
		{method: "POST", path: "/hooks/orders", body: `{"type":"kafka.records"}`, anonymous: true},
		{method: "POST", path: "/ack", body: `{"token":"t"}`, anonymous: true},
		{method: "POST", path: "/v1/webhooks", body: orders},
		{method: "POST", path: internalPath + "put", body: orders},
	} {
		for _, marker := range []string{"new", "old"} {
			x.header = map[string]string{"kpush-loop": marker, "kpush-webhook": "orders"}
			wantProblem(t, x.do(t, s), 508, api.ErrorCodeLoopDetected)
			wantProblem(t, x.do(t, management), 508, api.ErrorCodeLoopDetected)
		}
	}
	if len(g.entries) > 0 || len(g.acks) > 0 {
		t.Errorf("there are %d webhooks and %d acks, want none", len(g.entries), len(g.acks))
	}
}

// TestU8_DeliveriesOfOthersAreNotOurs: two installations may well push to each other.
func TestU8_DeliveriesOfOthersAreNotOurs(t *testing.T) {
	for claim, markers := range map[string][]string{"another's": {"ours"}, "none known": nil} {
		s, _ := newServer(t, func(cfg *Config) { cfg.LoopMarkers = markers })
		for _, marker := range []string{"theirs", ""} {
			x := exchange{method: "GET", path: "/livez", header: map[string]string{"kpush-loop": marker}}
			w := httptest.NewRecorder()
			s.ServeHTTP(w, x.request(t))
			if w.Code != http.StatusOK {
				t.Errorf("%s, marker %q: %d, want 200", claim, marker, w.Code)
			}
		}
	}
}
