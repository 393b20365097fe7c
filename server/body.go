package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/kpush/kpush/webhooks"
)

// maxBody is the largest request body that is read.
const maxBody = 1 << 20

// bounded limits the size of the request's body; NewHTTPServer limits its time. It
// has to be the outermost: MaxBytesReader tells net/http's own writer of a body
// that is too large, which then lets the client read the answer before the
// connection is reset.
func (s *Server) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			r = r.WithContext(r.Context()) // a copy: net/http looks at the Body of its own
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		}
		next.ServeHTTP(w, r)
	})
}

// jsonBody reads the whole body, which has to be one JSON object, and gives it to
// next from memory.
func (s *Server) jsonBody(next http.Handler) http.Handler {
	return s.handle(func(w http.ResponseWriter, r *http.Request) error {
		data, err := readJSON(r)
		if err != nil {
			return err
		}
		r.Body = io.NopCloser(bytes.NewReader(data))
		next.ServeHTTP(w, r)
		return nil
	})
}

// optionalJSONBody is jsonBody for requests that need no body: none is {}.
func (s *Server) optionalJSONBody(next http.Handler) http.Handler {
	with := s.jsonBody(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			with.ServeHTTP(w, r)
			return
		}
		r.Body = io.NopCloser(strings.NewReader("{}"))
		next.ServeHTTP(w, r)
	})
}

func readJSON(r *http.Request) ([]byte, error) {
	if !isJSON(r.Header) {
		return nil, errNotJSON
	}
	data, err := io.ReadAll(r.Body)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errBodyTooSlow
	case err != nil:
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, errBodyTooLarge
		}
		return nil, fmt.Errorf("%w: reading it: %w", webhooks.ErrMalformed, err) // cut short
	}
	// Valid gives up at 10,000 levels of nesting and allocates nothing to speak of.
	if !utf8.Valid(data) || !bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) || !json.Valid(data) {
		return nil, webhooks.ErrMalformed
	}
	return data, nil
}

// isJSON tells whether the headers announce JSON that we can read.
func isJSON(h http.Header) bool {
	media, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || media != "application/json" {
		return false
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return false
	}
	encoding := h.Get("Content-Encoding")
	return encoding == "" || strings.EqualFold(encoding, "identity")
}
