package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// credential is what a caller has to know. Only a hash is kept, so that neither
// the time nor the length of a comparison tells anything about the token.
type credential struct {
	hash [sha256.Size]byte
	open bool // everybody is let in
}

func newCredential(token string, open bool) credential {
	return credential{sha256.Sum256([]byte(token)), open}
}

// admits tells whether a request carries the bearer token.
func (c credential) admits(r *http.Request) bool {
	if c.open {
		return true
	}
	headers := r.Header.Values("Authorization")
	if len(headers) != 1 {
		return false
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	hash := sha256.Sum256([]byte(strings.TrimSpace(token)))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(hash[:], c.hash[:]) == 1
}

// requireAdmin refuses requests without the admin token.
func (s *Server) requireAdmin(next http.Handler) http.Handler {
	return s.handle(func(w http.ResponseWriter, r *http.Request) error {
		if !s.admin.admits(r) {
			return errUnauthorized
		}
		next.ServeHTTP(w, r)
		return nil
	})
}

// caller is who sent an ack.
type caller struct {
	admin   bool       // the request carries the admin token
	address netip.Addr // see addressOf
}

type callerKey struct{}

// noteCaller leaves in the context who calls, for a handler that needs the admin
// token for a part of what it does only. A stranger whose bound is reached gets no
// further.
func (s *Server) noteCaller(next http.Handler) http.Handler {
	return s.handle(func(w http.ResponseWriter, r *http.Request) error {
		c := caller{admin: s.admin.admits(r), address: addressOf(r)}
		if !c.admin && s.strangers.refuses(c.address, time.Now()) {
			return errTooManyFailures
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
		return nil
	})
}

// callerOf reads what noteCaller left.
func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}
