package server

import (
	"crypto/subtle"
	"errors"
	"net/http"

	"github.com/kpush/kpush/webhooks/delivery"
)

var errLoop = errors.New("a delivery of this installation has come back to it")

// noLoop refuses what this installation itself has sent to a receiver, which a name,
// a proxy or a receiver has brought back here. It would be no delivery, and an ack
// least of all.
func (s *Server) noLoop(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.isLoop(r.Header.Get(delivery.LoopHeader)) {
			s.logger.WarnContext(r.Context(), "a delivery has come back to this installation: its url leads here", "webhook", r.Header.Get("kpush-webhook"))
			w.Header().Set(delivery.LoopHeader, r.Header.Get(delivery.LoopHeader)) // the sender may know that it was us
			s.fail(w, r, errLoop)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) isLoop(marker string) bool {
	if marker == "" {
		return false
	}
	for _, ours := range s.loopMarkers {
		if subtle.ConstantTimeCompare([]byte(marker), []byte(ours)) == 1 {
			return true
		}
	}
	return false
}
