package delivery

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/egress"
)

// tokenEndpoint is an authorization server that hands out token-1, token-2 and so on.
type tokenEndpoint struct {
	url string

	mu       sync.Mutex
	requests []url.Values                // in the order in which they came
	answer   func(w http.ResponseWriter) // nil: as it should be
	lifetime int                         // seconds
	inForm   bool                        // credentials are taken from the body alone
	held     chan struct{}               // not nil: answers wait for it
	under    atomic.Int32                // requests under way
	most     atomic.Int32                // at once
}

const (
	testClientID     = "kpush id"
	testClientSecret = "s3:cret%"
)

func newTokenEndpoint(t *testing.T) *tokenEndpoint {
	e := &tokenEndpoint{lifetime: 3600}
	srv := httptest.NewServer(e)
	t.Cleanup(srv.Close)
	e.url = srv.URL + "/oauth/token"
	return e
}

func (e *tokenEndpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := e.under.Add(1)
	defer e.under.Add(-1)
	for most := e.most.Load(); n > most && !e.most.CompareAndSwap(most, n); most = e.most.Load() {
	}
	body, _ := io.ReadAll(r.Body)
	form, _ := url.ParseQuery(string(body))
	e.mu.Lock()
	e.requests = append(e.requests, form)
	count, answer, lifetime, inForm, held := len(e.requests), e.answer, e.lifetime, e.inForm, e.held
	e.mu.Unlock()
	if held != nil {
		<-held
	}
	id, secret, basic := r.BasicAuth()
	id, _ = url.QueryUnescape(id)
	secret, _ = url.QueryUnescape(secret)
	if inForm {
		id, secret, basic = form.Get("client_id"), form.Get("client_secret"), !basic
	}
	w.Header().Set("Content-Type", "application/json")
	switch {
	case answer != nil:
		answer(w)
	case !basic || id != testClientID || secret != testClientSecret || r.Method != "POST" || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || form.Get("grant_type") != "client_credentials":
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, `{"error":"invalid_client"}`)
	default:
		fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"Bearer","expires_in":%d}`, count, lifetime)
	}
}

func (e *tokenEndpoint) set(change func(*tokenEndpoint)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(e)
}

func (e *tokenEndpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.requests)
}

func byOAuth2(tokenURL string) func(*webhooks.Webhook) {
	return func(w *webhooks.Webhook) {
		w.Auth = &webhooks.Auth{
			Type: webhooks.AuthOAuth2, TokenURL: tokenURL, ClientID: testClientID, ClientSecret: testClientSecret,
			Scopes: []string{"push", "a:b"}, Audience: "https://billing",
		}
	}
}

// guarded is a receiver that takes what accepts likes, and lists what it was shown.
type guarded struct {
	url     string
	accepts func(authorization string) bool

	mu    sync.Mutex
	shown []string
}

func newGuarded(t *testing.T, accepts func(string) bool) *guarded {
	g := &guarded{accepts: accepts}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		shown := strings.Join(r.Header["Authorization"], " AND ")
		g.mu.Lock()
		g.shown = append(g.shown, shown)
		g.mu.Unlock()
		if !g.accepts(shown) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(srv.Close)
	g.url = srv.URL
	return g
}

func (g *guarded) all() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.shown)
}

func anyBearer(shown string) bool { return strings.HasPrefix(shown, "Bearer token-") }

func TestATokenIsFetchedOnceAndUsedUntilShortlyBeforeItsEnd(t *testing.T) {
	endpoint, receiver := newTokenEndpoint(t), newGuarded(t, anyBearer)
	c := testClient(t, receiver.url, byOAuth2(endpoint.url))
	now := time.Now()
	c.tokens.now = func() time.Time { return now }
	for range 3 {
		expect(t, deliver(t, c), Acked, 200, "")
	}
	now = now.Add(time.Hour - 31*time.Second)
	expect(t, deliver(t, c), Acked, 200, "")
	now = now.Add(2 * time.Second)
	expect(t, deliver(t, c), Acked, 200, "")
	if diff := cmp.Diff([]string{"Bearer token-1", "Bearer token-1", "Bearer token-1", "Bearer token-1", "Bearer token-2"}, receiver.all()); diff != "" {
		t.Errorf("shown (-want +got):\n%s", diff)
	}
	want := url.Values{"grant_type": {"client_credentials"}, "scope": {"push a:b"}, "audience": {"https://billing"}}
	if diff := cmp.Diff(want, endpoint.requests[0]); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
}

// While the endpoint is down what is left of the token's life is used, and then nothing.
func TestATokenIsUsedToItsEndWhenThereIsNoOther(t *testing.T) {
	endpoint, receiver := newTokenEndpoint(t), newGuarded(t, anyBearer)
	c := testClient(t, receiver.url, byOAuth2(endpoint.url))
	now := time.Now()
	c.tokens.now = func() time.Time { return now }
	began := now
	expect(t, deliver(t, c), Acked, 200, "")
	endpoint.set(func(e *tokenEndpoint) { e.answer = func(w http.ResponseWriter) { w.WriteHeader(503) } })
	for now = began.Add(time.Hour - tokenMargin); now.Before(began.Add(time.Hour)); now = now.Add(time.Second) {
		expect(t, deliver(t, c), Acked, 200, "")
	}
	if n := endpoint.count(); n < 3 || n > 8 {
		t.Errorf("%d fetches in half a minute of failures, want them with a growing pause", n)
	}
	expect(t, deliver(t, c), Failed, 0, CodeTokenFailed)
	endpoint.set(func(e *tokenEndpoint) { e.answer = nil })
	now = now.Add(maxTokenPause)
	expect(t, deliver(t, c), Acked, 200, "")
	if shown := receiver.all(); shown[len(shown)-1] == "Bearer token-1" {
		t.Error("the former token is still shown")
	}
}

func TestOneFetchAtATime(t *testing.T) {
	endpoint, receiver := newTokenEndpoint(t), newGuarded(t, anyBearer)
	held := make(chan struct{})
	endpoint.held = held
	cfg := testConfig(testWebhook(receiver.url, byOAuth2(endpoint.url), func(w *webhooks.Webhook) { w.Lifecycle = &webhooks.Lifecycle{URL: receiver.url} }))
	source, err := NewTokenSource(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	cfg.Tokens = source
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n, err := NewNotifier(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	var sending sync.WaitGroup
	results := make(chan Result, 20)
	for i := range 20 {
		m := testMessage(t, c, 1, 10)
		sending.Go(func() {
			if i == 0 {
				results <- n.Notify(t.Context(), "lc_1", testNotice())
			} else {
				results <- c.Send(t.Context(), m, testAttempt(1))
			}
		})
	}
	for endpoint.count() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(held)
	sending.Wait()
	for range 20 {
		expect(t, <-results, Acked, 200, "")
	}
	if n := endpoint.count(); n != 1 {
		t.Errorf("%d fetches, want one", n)
	}
}

// A fetch that its caller gives up is taken over by one who still waits.
func TestAFetchThatIsGivenUpFailsNobodyElse(t *testing.T) {
	endpoint, receiver := newTokenEndpoint(t), newGuarded(t, anyBearer)
	held := make(chan struct{})
	endpoint.held = held
	c := testClient(t, receiver.url, byOAuth2(endpoint.url))
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan Result), make(chan Result)
	m1, m2 := testMessage(t, c, 1, 10), testMessage(t, c, 1, 10)
	go func() { first <- c.Send(ctx, m1, testAttempt(1)) }()
	for endpoint.count() == 0 {
		time.Sleep(time.Millisecond)
	}
	go func() { second <- c.Send(t.Context(), m2, testAttempt(1)) }()
	cancel()
	expect(t, <-first, Failed, 0, CodeCanceled)
	for endpoint.count() == 1 {
		time.Sleep(time.Millisecond)
	}
	close(held)
	expect(t, <-second, Acked, 200, "")
}

// Who takes a fetch over late has as long for it as the first had.
func TestAFetchThatIsTakenOverHasItsOwnTime(t *testing.T) {
	endpoint, receiver := newTokenEndpoint(t), newGuarded(t, anyBearer)
	held := make(chan struct{})
	endpoint.held = held
	c := testClient(t, receiver.url, byOAuth2(endpoint.url))
	c.tokens.timeout = 2 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), c.tokens.timeout*3/4)
	defer cancel()
	first, second := make(chan Result), make(chan Result)
	m1, m2 := testMessage(t, c, 1, 10), testMessage(t, c, 1, 10)
	go func() { first <- c.Send(ctx, m1, testAttempt(1)) }()
	for endpoint.count() == 0 {
		time.Sleep(time.Millisecond)
	}
	go func() { second <- c.Send(t.Context(), m2, testAttempt(1)) }()
	expect(t, <-first, Failed, 0, CodeCanceled)
	time.Sleep(c.tokens.timeout / 2)
	close(held)
	expect(t, <-second, Acked, 200, "")
}

func TestA401RenewsTheTokenOnce(t *testing.T) {
	endpoint := newTokenEndpoint(t)
	good := atomic.Pointer[string]{}
	good.Store(new("Bearer token-1"))
	receiver := newGuarded(t, func(shown string) bool { return shown == *good.Load() })
	c := testClient(t, receiver.url, byOAuth2(endpoint.url))
	now := time.Now()
	c.tokens.now = func() time.Time { return now }
	expect(t, deliver(t, c), Acked, 200, "")

	good.Store(new("Bearer token-2")) // the first is not good any more
	now = now.Add(time.Minute)
	expect(t, deliver(t, c), Acked, 200, "")
	if diff := cmp.Diff([]string{"Bearer token-1", "Bearer token-1", "Bearer token-2"}, receiver.all()); diff != "" {
		t.Errorf("shown (-want +got):\n%s", diff)
	}

	good.Store(new("nothing at all"))
	now = now.Add(time.Minute)
	expect(t, deliver(t, c), Failed, 401, "http_401") // by the third, too
	for range 10 {
		expect(t, deliver(t, c), Failed, 401, "http_401") // which is young, so there is no fourth
	}
	if n := endpoint.count(); n != 3 {
		t.Errorf("%d fetches, want 3", n)
	}
	if n := len(receiver.all()); n != 3+2+10 {
		t.Errorf("%d requests, want %d", n, 3+2+10)
	}

	endpoint.set(func(e *tokenEndpoint) { e.answer = func(w http.ResponseWriter) { w.WriteHeader(500) } })
	now = now.Add(time.Minute)
	expect(t, deliver(t, c), Failed, 401, "http_401")    // no other token is to be had
	expect(t, deliver(t, c), Failed, 0, CodeTokenFailed) // and the receiver is not asked without one
	if n := len(receiver.all()); n != 3+2+10+1 {
		t.Errorf("%d requests, want %d", n, 3+2+10+1)
	}
}

// Many endpoints want the client's credentials in the body, against RFC 6749.
func TestCredentialsInTheBody(t *testing.T) {
	endpoint, receiver := newTokenEndpoint(t), newGuarded(t, anyBearer)
	endpoint.inForm = true
	c := testClient(t, receiver.url, byOAuth2(endpoint.url))
	now := time.Now()
	c.tokens.now = func() time.Time { return now }
	expect(t, deliver(t, c), Acked, 200, "")
	now = now.Add(time.Hour)
	expect(t, deliver(t, c), Acked, 200, "")
	if n := endpoint.count(); n != 3 { // the second time it is known
		t.Errorf("%d requests for two tokens, want 3", n)
	}
}

// TestAFailingEndpointIsLeftAlone for longer and longer, and is none of the receiver's.
func TestAFailingEndpointIsLeftAlone(t *testing.T) {
	endpoint, receiver := newTokenEndpoint(t), newGuarded(t, anyBearer)
	c := testClient(t, receiver.url, byOAuth2(endpoint.url))
	now := time.Now()
	c.tokens.now = func() time.Time { return now }
	unwell := func(status int, after string) {
		endpoint.set(func(e *tokenEndpoint) {
			e.answer = func(w http.ResponseWriter) {
				if after != "" {
					w.Header().Set("Retry-After", after)
				}
				w.WriteHeader(status)
			}
		})
	}
	unwell(503, "")
	for step, most := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		for range 5 {
			expect(t, deliver(t, c), Failed, 0, CodeTokenFailed)
		}
		if n := endpoint.count(); n != step+1 {
			t.Fatalf("after %d pauses there were %d fetches, want %d", step, n, step+1)
		}
		if pause := c.tokens.retryAt.Sub(now); pause < most*time.Second/2 || pause > most*time.Second {
			t.Errorf("pause %d is %v, want %v to %v", step, pause, most*time.Second/2, most*time.Second)
		}
		now = c.tokens.retryAt
	}
	unwell(429, "45")
	c.tokens.pause = 0
	expect(t, deliver(t, c), Failed, 0, CodeTokenFailed)
	if pause := c.tokens.retryAt.Sub(now); pause != 45*time.Second {
		t.Errorf("asked for 45 s, the pause is %v", pause)
	}
	unwell(401, "")
	now = c.tokens.retryAt
	expect(t, deliver(t, c), Failed, 0, CodeTokenRefused)
	if n := len(receiver.all()); n != 0 {
		t.Errorf("the receiver had %d requests without a token", n)
	}
	endpoint.set(func(e *tokenEndpoint) { e.answer = nil })
	now = c.tokens.retryAt
	expect(t, deliver(t, c), Acked, 200, "")
	if c.tokens.pause != 0 {
		t.Errorf("well again, the next pause would follow %v", c.tokens.pause)
	}
}

// TestS5_R4_TokenEndpoints: they are refused inside, nothing follows their redirects,
// no more than 64 KiB are read, and no token is taken that is none.
func TestS5_R4_TokenEndpoints(t *testing.T) {
	var followed atomic.Int32
	second := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		followed.Add(1)
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"access_token":"token-x","token_type":"Bearer"}`)
	}))
	defer second.Close()
	says := func(text string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { io.WriteString(w, text) }
	}
	token := func(s string) string { return `{"access_token":"` + s + `","token_type":"Bearer"}` }
	redirect := func(status int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Location", second.URL)
			w.WriteHeader(status)
			io.WriteString(w, token("token-x")) // which is no token for that
		}
	}
	typed := func(kind, text string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.Header().Set("Content-Type", kind); io.WriteString(w, text) }
	}
	for _, test := range []struct {
		claim  string
		answer func(http.ResponseWriter)
		code   string
	}{
		{"301", redirect(301), CodeTokenFailed},
		{"302", redirect(302), CodeTokenFailed},
		{"303", redirect(303), CodeTokenFailed},
		{"307", redirect(307), CodeTokenFailed},
		{"308", redirect(308), CodeTokenFailed},
		{"a token of 10 MB", says(token(strings.Repeat("x", 10<<20))), CodeTokenFailed},
		{"a token of 10 MB in pieces", func(w http.ResponseWriter) {
			for range 10 << 10 {
				if _, err := io.WriteString(w, strings.Repeat("x", 1<<10)); err != nil {
					return
				}
				w.(http.Flusher).Flush()
			}
		}, CodeTokenFailed},
		{"a token of 8 KiB and a byte", says(token(strings.Repeat("x", 8<<10+1))), CodeTokenFailed},
		{"a token of 8 KiB", says(token("token-" + strings.Repeat("x", 8<<10-6))), ""},
		{"a good answer and 64 KiB more", says(token("token-x") + strings.Repeat(" ", 64<<10)), CodeTokenFailed},
		{"a token with a line break", says(token(`token-x\r\nx-a: b`)), CodeTokenFailed},
		{"a token with a space", says(token("token x")), CodeTokenFailed},
		{"an empty token", says(token("")), CodeTokenFailed},
		{"no token", says(`{}`), CodeTokenFailed},
		{"a token that is no string", says(`{"access_token":7}`), CodeTokenFailed},
		{"no JSON", says(`access_token=token-x`), CodeTokenFailed},
		{"JSON that says it is a page", typed("text/html", token("token-x")), CodeTokenFailed},
		{"a token of another type", says(`{"access_token":"token-x","token_type":"mac"}`), CodeTokenFailed},
		{"a token of a type in other letters", says(`{"access_token":"token-x","token_type":"bearer"}`), ""},
		{"a token of no type", says(`{"access_token":"token-x"}`), ""},
		{"a lifetime as a string", says(`{"access_token":"token-x","expires_in":"3600"}`), ""},
		{"a lifetime that is none", says(`{"access_token":"token-x","expires_in":-5}`), ""},
		{"201 with a token", func(w http.ResponseWriter) { w.WriteHeader(201); io.WriteString(w, token("token-x")) }, ""},
		{"404", func(w http.ResponseWriter) { w.WriteHeader(404) }, CodeTokenFailed},
		{"400", func(w http.ResponseWriter) { w.WriteHeader(400) }, CodeTokenRefused},
		{"403", func(w http.ResponseWriter) { w.WriteHeader(403) }, CodeTokenRefused},
	} {
		t.Run(test.claim, func(t *testing.T) {
			endpoint, receiver := newTokenEndpoint(t), newGuarded(t, anyBearer)
			endpoint.answer = test.answer
			res := deliver(t, testClient(t, receiver.url, byOAuth2(endpoint.url)))
			if test.code == "" {
				expect(t, res, Acked, 200, "")
				return
			}
			expect(t, res, Failed, 0, test.code)
			if n := len(receiver.all()); n != 0 {
				t.Errorf("the receiver had %d requests", n)
			}
		})
	}
	if n := followed.Load(); n != 0 {
		t.Errorf("redirects were followed %d times", n)
	}
	t.Run("on an address that is not allowed", func(t *testing.T) {
		var reached atomic.Int32
		inside := listen(t, func(net.Conn, int) { reached.Add(1) })
		receiver := newGuarded(t, anyBearer)
		cfg := testConfig(testWebhook(receiver.url, byOAuth2(strings.Replace(inside, "127.0.0.1", "login.example.com", 1))))
		policy := testPolicy()
		policy.AllowedCIDRs = nil
		names := &rebinding{}
		names.lookups.Store(1) // 127.0.0.1 from now on
		cfg.Guard = egress.New(policy, egress.Options{Resolver: names})
		c, err := NewClient(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		expect(t, deliver(t, c), Failed, 0, CodeTokenDenied)
		if n := reached.Load(); n != 0 {
			t.Errorf("it was reached %d times", n)
		}
	})
	t.Run("that cannot be reached", func(t *testing.T) {
		closed := httptest.NewServer(nil)
		closed.Close()
		expect(t, deliver(t, testClient(t, newGuarded(t, anyBearer).url, byOAuth2(closed.URL))), Failed, 0, CodeTokenFailed)
	})
}

// TestT5_ATokenEndpointThatDrips is given up as a whole, and so is one that says
// nothing: the attempt ends, with the time of the fetch and no more.
func TestT5_ATokenEndpointThatDrips(t *testing.T) {
	for claim, then := range map[string]func(net.Conn){
		"never answers": hang,
		"drips": func(conn net.Conn) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n{")
			for {
				if _, err := io.WriteString(conn, " "); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		},
	} {
		t.Run(claim, func(t *testing.T) {
			receiver := newGuarded(t, anyBearer)
			c := testClient(t, receiver.url, byOAuth2(afterRequest(t, then)), timeout(100*time.Millisecond))
			c.tokens.timeout = shortAttempt
			began := time.Now()
			expect(t, deliver(t, c), Failed, 0, CodeTokenFailed)
			if took := time.Since(began); took < shortAttempt || took > shortAttempt+3*time.Second {
				t.Errorf("it took %v, want little more than %v", took, shortAttempt)
			}
		})
	}
}

// A slow endpoint does not eat the attempt's own time.
func TestTheTimeOfAFetchIsNotTheAttempts(t *testing.T) {
	endpoint, receiver := newTokenEndpoint(t), newGuarded(t, anyBearer)
	endpoint.answer = func(w http.ResponseWriter) {
		time.Sleep(1100 * time.Millisecond)
		io.WriteString(w, `{"access_token":"token-1"}`)
	}
	expect(t, deliver(t, testClient(t, receiver.url, byOAuth2(endpoint.url), timeout(time.Second))), Acked, 200, "")
}

func TestLifetimes(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": tokenLifetime, "0": tokenLifetime, "-1": tokenLifetime, "x": tokenLifetime, "NaN": tokenLifetime,
		"60": time.Minute, "0.5": 500 * time.Millisecond, "1e300": maxTokenLifetime, "Inf": maxTokenLifetime,
	} {
		if got := lifetimeOf(json.Number(text)); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

// TestWaitingForATokenEnds: in a bubble, a fetch that hangs and one who waits for it.
func TestWaitingForATokenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &TokenSource{now: time.Now, timeout: tokenTimeout, fetching: make(chan struct{})} // by somebody who never ends
		began := time.Now()
		if _, code := s.get(t.Context()); code != CodeTokenFailed || time.Since(began) != tokenTimeout {
			t.Errorf("%q after %v, want %q after %v", code, time.Since(began), CodeTokenFailed, tokenTimeout)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, code := s.get(ctx); code != CodeCanceled {
			t.Errorf("given up: %q, want %q", code, CodeCanceled)
		}
	})
}

func TestBasicCredentialsOfTheTokenEndpointAreEncodedTwice(t *testing.T) {
	s, err := NewTokenSource(testConfig(testWebhook("http://localhost", byOAuth2("http://localhost"))))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("kpush+id:s3%3Acret%25")) // RFC 6749, 2.3.1
	if s.basic.value != want {
		t.Errorf("got %q, want %q", s.basic.value, want)
	}
}
