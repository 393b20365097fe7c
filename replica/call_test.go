package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var testKeys = [][]byte{[]byte("the key of a test installation")}

// newPeer makes a replica that answers calls on a socket and is not in any group.
func newPeer(t *testing.T, id string, keys ...[]byte) *Replica {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	r := newReplica(t, Config{ID: id, URL: "http://" + server.Listener.Addr().String(), Keys: keys})
	server.Config.Handler = r
	server.Start()
	t.Cleanup(server.Close)
	return r
}

func newReplica(t *testing.T, cfg Config) *Replica {
	t.Helper()
	cfg.Topic = "registry"
	if len(cfg.Keys) == 0 {
		cfg.Keys = testKeys
	}
	if cfg.Lead == nil {
		cfg.Lead = func(ctx context.Context) error { <-ctx.Done(); return nil }
	}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.transport.CloseIdleConnections)
	return r
}

type greeting struct{ Name string }

func TestACallBringsWhatThePeerSays(t *testing.T) {
	a, b := newPeer(t, "a"), newPeer(t, "b")
	b.Handle("greet", func(_ context.Context, in []byte) (any, error) {
		var g greeting
		if err := json.Unmarshal(in, &g); err != nil {
			return nil, err
		}
		return greeting{"hello " + g.Name}, nil
	})
	b.Handle("nothing", func(context.Context, []byte) (any, error) { return nil, nil })
	b.Handle("refuse", func(context.Context, []byte) (any, error) {
		return nil, fmt.Errorf("wrapped: %w", &Refusal{Code: "not_leader", Data: []byte(`{"at":7}`)})
	})
	b.Handle("fail", func(context.Context, []byte) (any, error) { return nil, errors.New("a secret of the house") })

	var got greeting
	if err := a.Call(t.Context(), b.Self(), "greet", greeting{"a"}, &got); err != nil || got.Name != "hello a" {
		t.Errorf("greet: %+v, %v, want hello a", got, err)
	}
	if err := a.Call(t.Context(), b.Self(), "greet", greeting{"a"}, nil); err != nil {
		t.Errorf("a call whose answer is not wanted: %v", err)
	}
	if err := a.Call(t.Context(), b.Self(), "nothing", nil, &got); err != nil {
		t.Errorf("a call that is answered nothing: %v", err)
	}
	err := a.Call(t.Context(), b.Self(), "refuse", nil, nil)
	if r, ok := errors.AsType[*Refusal](err); !ok || r.Code != "not_leader" || string(r.Data) != `{"at":7}` || errors.Is(err, ErrUnreachable) {
		t.Errorf("a refusal: %v, want *Refusal not_leader with its data", err)
	}
	err = a.Call(t.Context(), b.Self(), "unheard_of", nil, nil)
	if r, ok := errors.AsType[*Refusal](err); !ok || r.Code != UnknownOperation {
		t.Errorf("an unknown operation: %v, want a Refusal", err)
	}
	err = a.Call(t.Context(), b.Self(), "fail", nil, nil)
	if !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrNotSent) || strings.Contains(err.Error(), "secret") {
		t.Errorf("a failure: %v, want ErrUnreachable, and nothing of the cause", err)
	}
}

func TestKeysCanBeRotated(t *testing.T) {
	older, newer := []byte("older"), []byte("newer")
	a, b := newPeer(t, "a", newer, older), newPeer(t, "b", older, newer)
	for _, r := range []*Replica{a, b} {
		r.Handle("ping", func(context.Context, []byte) (any, error) { return nil, nil })
	}
	if err := errors.Join(a.Call(t.Context(), b.Self(), "ping", nil, nil), b.Call(t.Context(), a.Self(), "ping", nil, nil)); err != nil {
		t.Error(err)
	}
}

func TestNothingIsDoneForAStranger(t *testing.T) {
	stranger, b := newPeer(t, "a", []byte("another installation's")), newPeer(t, "b")
	var done atomic.Int64
	b.Handle("ping", func(context.Context, []byte) (any, error) { done.Add(1); return nil, nil })
	if err := stranger.Call(t.Context(), b.Self(), "ping", nil, nil); !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrNotSent) {
		t.Errorf("a call with another key: %v, want ErrUnreachable", err)
	}
	astray := Peer{ID: "c", URL: b.Self().URL}
	if err := newPeer(t, "a").Call(t.Context(), astray, "ping", nil, nil); !errors.Is(err, ErrUnreachable) {
		t.Errorf("a call meant for another replica: %v, want ErrUnreachable", err)
	}
	if n := done.Load(); n != 0 {
		t.Errorf("it was done %d times", n)
	}
}

// forged is a call with all that a genuine one has.
func forged(t *testing.T, to *Replica, operation, body string, at time.Time) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, to.Self().URL+callPath+operation, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	seconds, nonce := strconv.FormatInt(at.Unix(), 10), newNonce()
	req.Header.Set(timeHeader, seconds)
	req.Header.Set(nonceHeader, nonce)
	req.Header.Set(signatureHeader, keys(testKeys).sign(aCall, callWords(to.Self().ID, req.Method, req.URL.EscapedPath(), seconds, nonce), []byte(body)))
	return req
}

// ask sends a request and returns what came.
func ask(t *testing.T, req *http.Request) (status int, body string) {
	t.Helper()
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestForgedCallsAreRefusedWithoutAWord(t *testing.T) {
	b := newPeer(t, "b")
	var done atomic.Int64
	b.Handle("ping", func(context.Context, []byte) (any, error) { done.Add(1); return nil, nil })
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)

	if status, body := ask(t, forged(t, b, "ping", "{}", time.Now())); status != http.StatusOK || done.Load() != 1 {
		t.Fatalf("the genuine call is answered %d %s, want 200", status, body)
	}
	tests := map[string]struct {
		change func(*http.Request)
		at     time.Duration
		want   int
	}{
		"another body":        {change: func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("[]")) }, want: 401},
		"another operation":   {change: func(r *http.Request) { r.URL.Path += "s" }, want: 401},
		"a query":             {change: func(r *http.Request) { r.URL.RawQuery = "a=b" }, want: 401},
		"no signature":        {change: func(r *http.Request) { r.Header.Del(signatureHeader) }, want: 401},
		"no time":             {change: func(r *http.Request) { r.Header.Del(timeHeader) }, want: 401},
		"no nonce":            {change: func(r *http.Request) { r.Header.Del(nonceHeader) }, want: 401},
		"a short nonce":       {change: func(r *http.Request) { r.Header.Set(nonceHeader, "00") }, want: 401},
		"a long nonce":        {change: func(r *http.Request) { r.Header.Set(nonceHeader, strings.Repeat("0", 33)) }, want: 401},
		"another method":      {change: func(r *http.Request) { r.Method = http.MethodGet }, want: 405},
		"signed too long ago": {change: func(*http.Request) {}, at: -clockTolerance - 2*time.Second, want: 401},
		"signed too early":    {change: func(*http.Request) {}, at: clockTolerance + 2*time.Second, want: 401},
	}
	for name, tt := range tests {
		req := forged(t, b, "ping", "{}", time.Now().Add(tt.at))
		tt.change(req)
		if status, body := ask(t, req); status != tt.want || body != "" {
			t.Errorf("%s: answered %d %q, want %d and nothing", name, status, body, tt.want)
		}
	}
	if n := done.Load(); n != 1 {
		t.Errorf("it was done %d times, want once", n)
	}
}

func TestAReplayedCallIsRefused(t *testing.T) {
	b, c := newPeer(t, "b"), newPeer(t, "c")
	var done atomic.Int64
	for _, r := range []*Replica{b, c} {
		r.Handle("ping", func(context.Context, []byte) (any, error) { done.Add(1); return nil, nil })
	}
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	captured := forged(t, b, "ping", "{}", time.Now())
	for i, to := range []*Replica{b, b, c} {
		req := captured.Clone(t.Context())
		req.Body = io.NopCloser(strings.NewReader("{}"))
		req.URL.Host = strings.TrimPrefix(to.Self().URL, "http://")
		want := 401
		if i == 0 {
			want = 200
		}
		if status, _ := ask(t, req); status != want {
			t.Errorf("call %d, to %s, is answered %d, want %d", i+1, to.Self().ID, status, want)
		}
	}
	if n := done.Load(); n != 1 {
		t.Errorf("it was done %d times, want once", n)
	}
}

func TestCallsAndAnswersAreBounded(t *testing.T) {
	a, b := newPeer(t, "a"), newPeer(t, "b")
	b.Handle("length", func(_ context.Context, in []byte) (any, error) { return len(in), nil })
	b.Handle("flood", func(context.Context, []byte) (any, error) { return strings.Repeat("x", maxAnswer), nil })
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)

	var n int
	if err := a.Call(t.Context(), b.Self(), "length", strings.Repeat("x", maxCall-2), &n); err != nil || n != maxCall {
		t.Errorf("a call of %d bytes: %d, %v", maxCall, n, err)
	}
	if err := a.Call(t.Context(), b.Self(), "length", strings.Repeat("x", maxCall), &n); !errors.Is(err, ErrNotSent) {
		t.Errorf("a larger call: %v, want ErrNotSent", err)
	}
	if status, _ := ask(t, forged(t, b, "length", strings.Repeat("x", maxCall+1), time.Now())); status != http.StatusRequestEntityTooLarge {
		t.Errorf("a larger call that was sent all the same is answered %d, want 413", status)
	}
	if err := a.Call(t.Context(), b.Self(), "flood", nil, nil); !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrNotSent) {
		t.Errorf("a larger answer: %v, want ErrUnreachable", err)
	}
}

// TestOnlyAnAnswerOfThePeerCounts has other servers, and liars, where the peer
// should be.
func TestOnlyAnAnswerOfThePeerCounts(t *testing.T) {
	a := newPeer(t, "a")
	followed := make(chan struct{}, 1)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed <- struct{}{} }))
	defer elsewhere.Close()
	for name, h := range map[string]http.HandlerFunc{
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		},
		"another service": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"result":null}`) },
		"an answer without end": func(w http.ResponseWriter, _ *http.Request) {
			for chunk := bytes.Repeat([]byte("x"), 1<<16); ; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		},
		"an answer cut short": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "{")
		},
		"the answer to another call": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(signatureHeader, keys(testKeys).sign(anAnswer, answerWords(newNonce(), 200), []byte(`{"result":1}`)))
			io.WriteString(w, `{"result":1}`)
		},
		"a signed answer that is none": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(signatureHeader, keys(testKeys).sign(anAnswer, answerWords(r.Header.Get(nonceHeader), 200), []byte(`hello`)))
			io.WriteString(w, `hello`)
		},
		"a hang-up": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		server := httptest.NewServer(h)
		var out any
		err := a.Call(t.Context(), Peer{ID: "b", URL: server.URL}, "ping", nil, &out)
		if !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrNotSent) {
			t.Errorf("%s: %v, want ErrUnreachable, of which it is not known whether it was done", name, err)
		}
		server.Close()
	}
	select {
	case <-followed:
		t.Error("the redirect was followed")
	default:
	}
}

func TestACallThatReachedNobodyWasNotSent(t *testing.T) {
	a := newPeer(t, "a")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := Peer{ID: "b", URL: "http://" + l.Addr().String()}
	l.Close()
	if err := a.Call(t.Context(), gone, "ping", nil, nil); !errors.Is(err, ErrNotSent) {
		t.Errorf("nobody listens: %v, want ErrNotSent", err)
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	a, b := newPeer(t, "a"), newPeer(t, "b")
	hungUp := make(chan struct{})
	b.Handle("wait", func(ctx context.Context, _ []byte) (any, error) {
		<-ctx.Done()
		close(hungUp)
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := a.Call(ctx, b.Self(), "wait", nil, nil)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrNotSent) {
		t.Errorf("%v, want ErrUnreachable and the context's error", err)
	}
	<-hungUp // the peer gives up, too
}

func TestConnectionsAreKept(t *testing.T) {
	a := newPeer(t, "a")
	var connections atomic.Int64
	b := newReplica(t, Config{ID: "b", URL: "http://b"})
	b.Handle("ping", func(context.Context, []byte) (any, error) { return nil, nil })
	server := httptest.NewUnstartedServer(b)
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	for range 20 {
		if err := a.Call(t.Context(), Peer{ID: "b", URL: server.URL}, "ping", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("20 calls took %d connections, want 1", n)
	}
}

// TestADifferentClockIsToldOnce: what is refused for its time alone has a good
// signature, so the operator can be told without a stranger filling the log.
func TestADifferentClockIsToldOnce(t *testing.T) {
	var log bytes.Buffer
	b := newReplica(t, Config{ID: "b", URL: "http://b", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for range 3 {
		w := httptest.NewRecorder()
		b.ServeHTTP(w, forged(t, b, "ping", "{}", time.Now().Add(-time.Hour)))
		if w.Code != http.StatusUnauthorized {
			t.Errorf("answered %d, want 401", w.Code)
		}
	}
	if n := strings.Count(log.String(), "clock differs"); n != 1 {
		t.Errorf("told %d times, want once:\n%s", n, &log)
	}
}
