package replica

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// handleTimeout bounds what is done for one call. The caller's own patience ends
// it before: it hangs up.
const handleTimeout = time.Minute

// clockWarning is the least time between two warnings of clocks that differ.
const clockWarning = time.Minute

// operation is what a peer may call.
type operation func(ctx context.Context, in []byte) (out any, err error)

// Handle says what this replica does when a peer calls an operation, whose name
// goes into a URL as it is. It is called before the replica runs. An error that is
// a *Refusal is told to the caller as it is; any other is logged, and the caller
// knows only that it does not know.
func (r *Replica) Handle(name string, do func(ctx context.Context, in []byte) (out any, err error)) {
	r.operations[name] = do
}

// ServeHTTP answers calls of other replicas, at /internal/v1/. It tells nothing to
// whom it does not know.
func (r *Replica) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	body, status := r.authenticate(w, req)
	if status != http.StatusOK {
		w.WriteHeader(status)
		return
	}
	status, a := r.perform(req, body)
	got, err := json.Marshal(a)
	if err == nil && len(got) > maxAnswer {
		err = errors.New("the answer is too large")
	}
	if err != nil {
		r.logger.Error("the answer to another replica cannot be told", "path", req.URL.Path, "error", err)
		status, got = http.StatusInternalServerError, []byte(`{"code":"`+codeInternal+`"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set(signatureHeader, r.keys.sign(anAnswer, answerWords(req.Header.Get(nonceHeader), status), got))
	w.WriteHeader(status)
	w.Write(got)
}

// authenticate returns the body of a call that a peer has signed for this replica,
// a moment ago and for the first time; else the status that says no.
func (r *Replica) authenticate(w http.ResponseWriter, req *http.Request) (body []byte, status int) {
	const no = http.StatusUnauthorized
	seconds, text := req.Header.Get(timeHeader), req.Header.Get(nonceHeader)
	at, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil || req.URL.RawQuery != "" {
		return nil, no
	}
	var nonce [nonceBytes]byte
	if n, err := hex.Decode(nonce[:], []byte(text[:min(len(text), 2*nonceBytes)])); err != nil || n != nonceBytes || len(text) != 2*nonceBytes {
		return nil, no
	}
	body, err = io.ReadAll(http.MaxBytesReader(w, req.Body, maxCall))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, http.StatusRequestEntityTooLarge
	}
	if err != nil {
		return nil, http.StatusBadRequest
	}
	words := callWords(r.self.ID, req.Method, req.URL.EscapedPath(), seconds, text)
	if !r.keys.verify(req.Header.Get(signatureHeader), aCall, words, body) {
		return nil, no
	}
	signed, now := time.Unix(at, 0), time.Now()
	if apart := now.Sub(signed); apart.Abs() > clockTolerance {
		r.warnOfClock(now, apart)
		return nil, no
	}
	if !r.nonces.add(nonce, signed, now) {
		r.logger.Warn("a call of another replica was refused: it came before, or there were too many", "path", req.URL.Path)
		return nil, no
	}
	return body, http.StatusOK
}

// warnOfClock tells of a call that was signed in order, at a time too far away.
func (r *Replica) warnOfClock(now time.Time, apart time.Duration) {
	last := r.badClock.Load()
	if last != nil && now.Sub(*last) < clockWarning || !r.badClock.CompareAndSwap(last, &now) {
		return
	}
	r.logger.Warn("a call of another replica was refused: its clock differs from this one's, or the call was held up",
		"apart", apart, "at_most", clockTolerance)
}

// perform does what a call asks for.
func (r *Replica) perform(req *http.Request, body []byte) (int, answer) {
	name := strings.TrimPrefix(req.URL.Path, callPath)
	do, ok := r.operations[name]
	if !ok {
		return http.StatusNotFound, answer{Code: UnknownOperation}
	}
	ctx, cancel := context.WithTimeout(req.Context(), handleTimeout)
	defer cancel()
	out, err := do(ctx, body)
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		return http.StatusConflict, answer{Code: refusal.Code, Data: refusal.Data}
	}
	var result []byte
	if err == nil {
		result, err = json.Marshal(out)
	}
	if err != nil {
		r.logger.Error("a call of another replica failed", "operation", name, "error", err)
		return http.StatusInternalServerError, answer{Code: codeInternal}
	}
	return http.StatusOK, answer{Result: result}
}
