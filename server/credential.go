package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
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

type adminKey struct{}

// noteAdmin leaves in the context whether the request carries the admin token,
// for a handler that needs it for a part of what it does.
func (s *Server) noteAdmin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), adminKey{}, s.admin.admits(r))))
	})
}

// isAdmin reads what noteAdmin left.
func isAdmin(ctx context.Context) bool {
	is, _ := ctx.Value(adminKey{}).(bool)
	return is
}
