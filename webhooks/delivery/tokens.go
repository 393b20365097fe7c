package delivery

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kpush/kpush/webhooks"
)

const (
	// tokenTimeout bounds the fetching of a token, over all requests it takes, and the
	// waiting for a fetch that somebody else has begun.
	tokenTimeout = 10 * time.Second

	// maxToken is the longest access token that is taken.
	maxToken = 8 << 10

	// tokenLifetime is that of a token whose endpoint does not tell, and
	// maxTokenLifetime the longest that is believed.
	tokenLifetime    = 5 * time.Minute
	maxTokenLifetime = 24 * time.Hour

	// tokenMargin is how long before its end another token is fetched, or a tenth of
	// its life if that is less. While there is none, the rest of it is used.
	tokenMargin = 30 * time.Second

	// leastTokenAge is the age from which a 401 of the receiver is the token's fault. A
	// receiver that answers nothing else does not make us fetch one token after another.
	leastTokenAge = 10 * time.Second

	// Pauses after failures of the endpoint, doubled each time, with jitter.
	firstTokenPause = time.Second
	maxTokenPause   = time.Minute
)

var tokenPattern = regexp.MustCompile(`^[!-~]+$`)

// TokenSource fetches the access tokens that a webhook's receiver is shown, by the
// client credentials grant of OAuth 2.0 (RFC 6749, 4.4), through the same guard and
// under the same bounds as deliveries. It keeps the last one until shortly before its
// end. One fetch is under way at a time; whoever needs a token meanwhile waits for it.
// After a failure there is none for a while. All methods may be called concurrently.
type TokenSource struct {
	endpoint *endpoint
	basic    header        // the client's credentials for the head
	form     string        // what is asked for
	inForm   string        // the client's credentials for the body
	timeout  time.Duration // tokenTimeout
	now      func() time.Time

	mu       sync.Mutex
	fetching chan struct{} // closed at the end of the fetch under way; nil without one
	token    string        // empty: none
	fetched  time.Time
	until    time.Time     // the token is used without asking for another
	expires  time.Time     // the token, as the endpoint says
	code     string        // why the last fetch failed
	pause    time.Duration // after the failure before
	retryAt  time.Time     // nothing is fetched before

	// Owned by the fetch under way. RFC 6749, 2.3.1 has every endpoint take Basic, and
	// not every endpoint knows.
	style credentialStyle
}

type credentialStyle uint8

const (
	styleUnknown credentialStyle = iota
	styleBasic
	styleForm
)

// NewTokenSource makes the source of cfg's webhook; nil if its auth needs none.
func NewTokenSource(cfg Config) (*TokenSource, error) {
	if !cfg.Webhook.Auth.FetchesTokens() {
		return nil, nil
	}
	d, err := dialerOf(cfg)
	if err != nil {
		return nil, err
	}
	// Tokens often come from a public service though the receiver has certificates of
	// a private authority.
	if d.tls.RootCAs, err = cfg.Webhook.TLS.AllAuthorities(); err != nil {
		return nil, fmt.Errorf("webhook %q: tls.ca %w", cfg.Webhook.ID, err)
	}
	return newTokenSource(cfg, d)
}

func newTokenSource(cfg Config, d *dialer) (*TokenSource, error) {
	a := cfg.Webhook.Auth
	headers := []header{
		{"content-type", "application/x-www-form-urlencoded"},
		{"accept", "application/json"},
		{"accept-encoding", "identity"},
		{"user-agent", cfg.UserAgent},
	}
	if cfg.LoopMarker != "" {
		headers = append(headers, header{LoopHeader, cfg.LoopMarker})
	}
	e, err := newEndpoint(cfg, d, "token url", a.TokenURL, headers)
	if err != nil {
		return nil, err
	}
	form := url.Values{"grant_type": {"client_credentials"}}
	if len(a.Scopes) > 0 {
		form.Set("scope", strings.Join(a.Scopes, " "))
	}
	if a.Audience != "" {
		form.Set("audience", a.Audience)
	}
	id, secret := url.QueryEscape(a.ClientID), url.QueryEscape(a.ClientSecret)
	return &TokenSource{
		endpoint: e,
		basic:    header{"authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))},
		form:     form.Encode(),
		inForm:   "&client_id=" + id + "&client_secret=" + secret,
		timeout:  tokenTimeout,
		now:      time.Now,
	}, nil
}

// Close drops idle connections to the endpoint.
func (s *TokenSource) Close() { s.endpoint.Close() }

// get returns a token, or the code of why there is none. It takes tokenTimeout at most,
// and twice that where others have given up what it waited for.
func (s *TokenSource) get(ctx context.Context) (token, code string) {
	within, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	for {
		s.mu.Lock()
		now := s.now()
		switch {
		case s.token != "" && now.Before(s.until):
			token = s.token
			s.mu.Unlock()
			return token, ""
		case s.fetching == nil && now.Before(s.retryAt):
			code = s.code
			s.mu.Unlock()
			return "", code
		case s.fetching == nil:
			s.fetching = make(chan struct{})
			s.mu.Unlock()
			return s.renew(ctx)
		}
		ended := s.fetching
		s.mu.Unlock()
		select {
		case <-ended: // by who has given up, maybe: then it is our turn
		case <-within.Done():
			if ctx.Err() != nil {
				return "", CodeCanceled
			}
			return "", CodeTokenFailed
		}
	}
}

// refused takes the receiver's word that a token is not good, and tells whether
// there is another one to be had.
func (s *TokenSource) refused(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token != token {
		return true
	}
	if s.now().Sub(s.fetched) < leastTokenAge {
		return false
	}
	s.token = ""
	return true
}

// renew makes the fetch that s.fetching stands for. It has its own time, though its
// caller may have waited for others: what it comes to is everybody's.
func (s *TokenSource) renew(ctx context.Context) (token, code string) {
	began := s.now()
	got := grant{code: CodeTokenFailed} // of a fetch that breaks
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(s.fetching)
		s.fetching = nil
		s.settle(got, began)
		if token, code = s.token, got.code; token != "" && code != CodeCanceled {
			code = "" // maybe that before, which has some time left
		}
	}()
	within, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	got = s.fetch(within)
	if got.code != "" && over(ctx) {
		got.code = CodeCanceled
	}
	return "", "" // what settle leaves
}

// over tells whether ctx has ended, or is about to: a connection with the same deadline
// may notice first.
func over(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// settle takes in what a fetch that began then came to; s.mu is held.
func (s *TokenSource) settle(got grant, began time.Time) {
	switch got.code {
	case "":
		s.token, s.fetched, s.expires = got.token, began, began.Add(got.lifetime)
		s.until = s.expires.Add(-min(tokenMargin, got.lifetime/10))
		s.code, s.pause, s.retryAt = "", 0, time.Time{}
	case CodeCanceled: // says nothing about the endpoint
	default:
		s.code = got.code
		s.pause = min(max(2*s.pause, firstTokenPause), maxTokenPause)
		wait := s.pause/2 + rand.N(s.pause/2)
		s.retryAt = s.now().Add(max(wait, min(got.after, maxTokenPause)))
		if s.until = s.retryAt; s.until.After(s.expires) {
			s.until = s.expires
		}
		if !s.now().Before(s.until) {
			s.token = ""
		}
	}
}

// grant is what the endpoint's answer came to.
type grant struct {
	token    string
	lifetime time.Duration
	code     string        // why there is none
	after    time.Duration // what the endpoint asked us to wait
}

// fetch asks for a token: with the client's credentials where they belong or, if that
// is refused and never has worked, where many endpoints want them.
func (s *TokenSource) fetch(ctx context.Context) grant {
	style := max(s.style, styleBasic)
	got := s.ask(ctx, style)
	if got.code == CodeTokenRefused && s.style == styleUnknown {
		style = styleForm
		got = s.ask(ctx, style)
	}
	if got.code == "" {
		s.style = style
	}
	return got
}

// ask makes one request.
func (s *TokenSource) ask(ctx context.Context, style credentialStyle) grant {
	e := s.endpoint
	r := e.requests.Get().(*request)
	defer e.requests.Put(r)
	body := s.form
	r.head = append(r.head[:0], e.start...)
	if style == styleForm {
		body += s.inForm
	} else {
		r.text(s.basic.name, s.basic.value)
	}
	r.number("content-length", int64(len(body)))
	r.head = append(r.head, "\r\n"...)
	deadline, _ := ctx.Deadline()
	ans, code := e.send(ctx, r, []byte(body), deadline)
	if code != "" {
		return grant{code: tokenCode(code)}
	}
	return ans.grant(s.now())
}

// tokenCode is the code of a failed fetch for that of a request which got no answer.
// What is wrong with the endpoint is not to be mistaken for something wrong with the
// receiver.
func tokenCode(code string) string {
	switch code {
	case CodeAddressDenied:
		return CodeTokenDenied
	default:
		return CodeTokenFailed
	}
}

// grant reads the answer of a token endpoint (RFC 6749, 5).
func (a *answer) grant(now time.Time) grant {
	switch {
	case a.status == http.StatusBadRequest, a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		return grant{code: CodeTokenRefused}
	case a.broken != "" || !a.success() || !a.json || a.packed || a.longer:
		failed := grant{code: CodeTokenFailed}
		if a.retryable() {
			failed.after = retryAfter(a.header, now)
		}
		return failed
	}
	var t struct {
		AccessToken string      `json:"access_token"`
		TokenType   string      `json:"token_type"`
		ExpiresIn   json.Number `json:"expires_in"` // a string in some places
	}
	if json.Unmarshal(a.body, &t) != nil || len(t.AccessToken) > maxToken || !tokenPattern.MatchString(t.AccessToken) ||
		t.TokenType != "" && !strings.EqualFold(t.TokenType, "bearer") {
		return grant{code: CodeTokenFailed}
	}
	return grant{token: t.AccessToken, lifetime: lifetimeOf(t.ExpiresIn)}
}

func lifetimeOf(seconds json.Number) time.Duration {
	n, err := strconv.ParseFloat(string(seconds), 64)
	if err != nil || !(n > 0) {
		return tokenLifetime
	}
	return time.Duration(min(n, maxTokenLifetime.Seconds()) * float64(time.Second))
}

// authorize puts a token into the head of a request, in place of the one before.
func (r *request) authorize(e *endpoint, token string) {
	const before = "authorization: Bearer "
	line := slices.Concat([]byte(before), []byte(token), []byte("\r\n"))
	at := len(e.start)
	r.head = slices.Replace(r.head, at, at+r.authorized, line...)
	r.authorized = len(line)
}

// exchange is send with the credentials that have to be fetched, if there are such.
// While a first token is fetched the attempt's time stands still: tokenTimeout is that
// of the fetch. When the receiver says 401 the request is sent once more, with
// another token, in what is left of the attempt's time.
func (e *endpoint) exchange(ctx context.Context, r *request, body []byte, deadline time.Time) (ans answer, code string) {
	if e.tokens == nil {
		return e.send(ctx, r, body, deadline)
	}
	began := time.Now()
	token, code := e.tokens.get(ctx)
	if code != "" {
		return answer{}, code
	}
	deadline = deadline.Add(time.Since(began))
	r.authorized = 0
	r.authorize(e, token)
	ans, code = e.send(ctx, r, body, deadline)
	if code != "" || ans.status != http.StatusUnauthorized || !e.tokens.refused(token) {
		return ans, code
	}
	within, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if token, code = e.tokens.get(within); code != "" {
		return ans, "" // the 401 is what there is to tell; the next attempt tells the rest
	}
	r.authorize(e, token)
	return e.send(ctx, r, body, deadline)
}

// authenticate gives an endpoint what it shows the receiver beyond fixed headers.
func (e *endpoint) authenticate(cfg Config) (err error) {
	if e.tokens = cfg.Tokens; e.tokens == nil {
		if e.tokens, err = NewTokenSource(cfg); err != nil {
			return err
		}
		e.ownTokens = e.tokens
	}
	return nil
}

// staticAuth is the header by which a webhook's requests authenticate themselves, if
// it is always the same.
func staticAuth(a *webhooks.Auth) []header {
	if name, value, ok := a.Header(); ok {
		return []header{{name, value}}
	}
	return nil
}
