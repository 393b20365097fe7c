package receiver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// answering is a gateway's API of one answer, which also keeps what it was sent.
type answering struct {
	status int
	header map[string]string
	body   string

	mu    sync.Mutex
	calls []string // method, URL and body
}

func (a *answering) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	a.mu.Lock()
	a.calls = append(a.calls, fmt.Sprintf("%s %s %s %s", r.Method, r.URL, r.Header.Get("Content-Type"), body))
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if a.status >= 400 {
		w.Header().Set("Content-Type", "application/problem+json")
	}
	for name, value := range a.header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(a.status)
	io.WriteString(w, a.body)
}

// start runs h, and returns its URL and a client for it.
func start(t *testing.T, h http.Handler) (string, *http.Client) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL, s.Client()
}

func acker(t *testing.T, cfg AckerConfig) *Acker {
	t.Helper()
	a, err := NewAcker(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.CloseIdleConnections)
	return a
}

const committed = `{"result":"committed","committed_offset":1250,"generation":42}`

func TestWhatAnAckerPosts(t *testing.T) {
	gateway := &answering{status: 200, body: committed}
	url, client := start(t, gateway)
	ticket := Ticket{Token: "kat_1", URL: url + "/ack", TimeoutMs: 1}
	tests := map[string]struct {
		path string
		wait Wait
		send func(context.Context, *Acker) (Receipt, error)
		want string
	}{
		"ack":      {"", "", func(ctx context.Context, a *Acker) (Receipt, error) { return a.Ack(ctx, ticket) }, `/ack application/json {"token":"kat_1","outcome":"ack"}`},
		"the head": {"", "", func(ctx context.Context, a *Acker) (Receipt, error) { return a.AckUpTo(ctx, ticket, 7) }, `/ack application/json {"token":"kat_1","outcome":"ack","up_to_offset":7}`},
		"nack":     {"", "", func(ctx context.Context, a *Acker) (Receipt, error) { return a.Nack(ctx, ticket, time.Second, "x") }, `/ack application/json {"token":"kat_1","outcome":"nack","delay_ms":1000,"reason":"x"}`},
		"extend":   {"", "", func(ctx context.Context, a *Acker) (Receipt, error) { return a.Extend(ctx, ticket, time.Second) }, `/ack application/json {"token":"kat_1","outcome":"extend","extend_ms":1000}`},
		"reject":   {"", "", func(ctx context.Context, a *Acker) (Receipt, error) { return a.Reject(ctx, ticket, "x") }, `/ack application/json {"token":"kat_1","outcome":"reject","reason":"x"}`},
		"partial": {"", "", func(ctx context.Context, a *Acker) (Receipt, error) {
			return a.Partial(ctx, ticket, Failure{7, ActionRetry, ""})
		}, `/ack application/json {"token":"kat_1","outcome":"partial","failures":[{"offset":7,"action":"retry"}]}`},
		"the zero ack":     {"", "", func(ctx context.Context, a *Acker) (Receipt, error) { return a.Send(ctx, ticket, Ack{}) }, `/ack application/json {"token":"kat_1","outcome":"ack"}`},
		"a ticket of old":  {"", "", func(ctx context.Context, a *Acker) (Receipt, error) { return a.Ack(ctx, Ticket{Token: "kat_2"}) }, `/ack application/json {"token":"kat_2","outcome":"ack"}`},
		"wait for commit":  {"", WaitCommit, func(ctx context.Context, a *Acker) (Receipt, error) { return a.Ack(ctx, ticket) }, `/ack application/json {"token":"kat_1","outcome":"ack"}`},
		"wait for accept":  {"", WaitAccept, func(ctx context.Context, a *Acker) (Receipt, error) { return a.Ack(ctx, ticket) }, `/ack?wait=accept application/json {"token":"kat_1","outcome":"ack"}`},
		"beneath a path":   {"/kpush", "", func(ctx context.Context, a *Acker) (Receipt, error) { return a.Ack(ctx, ticket) }, `/kpush/ack application/json {"token":"kat_1","outcome":"ack"}`},
		"a slash too many": {"/", WaitAccept, func(ctx context.Context, a *Acker) (Receipt, error) { return a.Ack(ctx, ticket) }, `/ack?wait=accept application/json {"token":"kat_1","outcome":"ack"}`},
	}
	for name, tt := range tests {
		gateway.calls = nil
		a := acker(t, AckerConfig{Gateway: url + tt.path, Client: client, Wait: tt.wait})
		if _, err := tt.send(t.Context(), a); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff([]string{"POST " + tt.want}, gateway.calls); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

func TestWhatIsNoGateway(t *testing.T) {
	for _, url := range []string{
		"", "gw.example.com", "/ack", "ftp://gw.example.com", "http://", "https://:443", "https://user:pw@gw.example.com",
		"https://gw.example.com?x", "https://gw.example.com#x", "https://gw.example.com:x", "https://a b",
	} {
		if _, err := NewAcker(AckerConfig{Gateway: url}); err == nil || strings.Contains(err.Error(), "pw") {
			t.Errorf("%q: got %v", url, err)
		}
	}
	if _, err := NewAcker(AckerConfig{Gateway: "https://gw.example.com", Wait: "forever"}); err == nil {
		t.Error("it takes a wait that there is not")
	}
}

// noCalls fails the test when anything is sent anywhere.
type noCalls struct{ t *testing.T }

func (n noCalls) RoundTrip(r *http.Request) (*http.Response, error) {
	n.t.Errorf("a request to %s", r.URL)
	return nil, errors.New("nothing is to be sent")
}

// TestK12_AForeignAckURLIsNotFollowed: a forged delivery must not make the receiver
// send requests, or its tokens, to places of the forger's choice.
func TestK12_AForeignAckURLIsNotFollowed(t *testing.T) {
	a := acker(t, AckerConfig{Gateway: "https://gw.example.com/kpush", Client: &http.Client{Transport: noCalls{t}}})
	for _, url := range []string{
		"https://evil.example.com/ack", "http://gw.example.com/ack", "https://gw.example.com:8443/ack", "https://gw.example.com.evil.org/ack",
		"https://gw.example.com@evil.org/ack", "https://user@gw.example.com/ack", "//gw.example.com/ack", "/ack", "ack", "http://169.254.169.254/",
		"https://gw.example.com:x/", "javascript:x", "https:gw.example.com", "https://GW.example.com./ack", " ", "\x00",
	} {
		ticket := Ticket{Token: "kat_secret", URL: url}
		_, err := a.Ack(t.Context(), ticket)
		all := a.SendAll(t.Context(), []Statement{{ticket, AckAll()}})
		for _, err := range []error{err, all[0].Err} {
			if !errors.Is(err, ErrForeignOrigin) || strings.Contains(err.Error(), "evil") || strings.Contains(err.Error(), "kat_secret") {
				t.Errorf("%q: got %v, want %v", url, err, ErrForeignOrigin)
			}
		}
	}
	for name, tt := range map[string]struct {
		ticket Ticket
		ack    Ack
	}{
		"a ticket without a token": {Ticket{URL: "https://gw.example.com/ack"}, AckAll()},
		"nothing to say yet":       {Ticket{Token: "kat_1"}, Later()},
		"an ack that does not fit": {Ticket{Token: "kat_1"}, Extend(0)},
	} {
		if _, err := a.Send(t.Context(), tt.ticket, tt.ack); !errors.Is(err, ErrAck) {
			t.Errorf("%s: got %v, want %v", name, err, ErrAck)
		}
	}
}

func TestTheSameOriginInOtherWords(t *testing.T) {
	for _, origin := range [][2]string{
		{"https://gw.example.com", "https://GW.Example.com:443/any/ack?x"},
		{"http://gw.example.com:80/", "HTTP://gw.example.com/ack"},
		{"http://127.0.0.1:8080", "http://127.0.0.1:8080/ack"},
		{"http://[::1]:8080", "http://[::1]:8080/ack"},
	} {
		a := acker(t, AckerConfig{Gateway: origin[0]})
		if _, err := a.encode(Ticket{Token: "t", URL: origin[1]}, AckAll()); err != nil {
			t.Errorf("%s at %s: %v", origin[1], origin[0], err)
		}
	}
}

func TestAnswersToAnAck(t *testing.T) {
	problem := func(status int, code string) string {
		return fmt.Sprintf(`{"type":"urn:kpush:problem:%s","title":"X","status":%d,"detail":"Why.","code":"%s","request_id":"r"}`, code, status, code)
	}
	deadline := time.Date(2026, 9, 22, 10, 1, 0, 0, time.UTC)
	tests := map[string]struct {
		status int
		body   string
		header map[string]string
		want   Receipt
		err    error
		also   error    // another error that it is
		like   *Refusal // what the refusal carries; its Status is the answer's
	}{
		"committed":                          {status: 200, body: committed, want: Receipt{Result: Committed, CommittedOffset: new(int64(1250)), Generation: new(int32(42))}},
		"accepted":                           {status: 202, body: `{"result":"accepted","generation":0}`, want: Receipt{Result: Accepted, Generation: new(int32(0))}},
		"a repeat":                           {status: 200, body: `{"result":"already_committed","committed_offset":0}`, want: Receipt{Result: AlreadyCommitted, CommittedOffset: new(int64(0))}},
		"a gap":                              {status: 200, body: `{"result":"pending_gap","blocked_by_offset":1203}`, want: Receipt{Result: PendingGap, BlockedByOffset: new(int64(1203))}},
		"scheduled":                          {status: 200, body: `{"result":"scheduled"}`, want: Receipt{Result: Scheduled}},
		"extended":                           {status: 200, body: `{"result":"extended","deadline":"2026-09-22T10:01:00Z"}`, want: Receipt{Result: Extended, Deadline: &deadline}},
		"a word that is new":                 {status: 200, body: `{"result":"framed","new":{}}`, want: Receipt{Result: "framed"}},
		"JSON with a charset":                {status: 200, body: committed, header: map[string]string{"Content-Type": "application/json; charset=utf-8"}, want: Receipt{Result: Committed, CommittedOffset: new(int64(1250)), Generation: new(int32(42))}},
		"stale":                              {status: 409, body: strings.Replace(problem(409, "generation_stale"), "{", `{"current_generation":43,`, 1), err: ErrGenerationStale, like: &Refusal{Code: "generation_stale", Detail: "Why.", CurrentGeneration: new(int32(43))}},
		"conflict":                           {status: 409, body: problem(409, "outcome_conflict"), err: ErrOutcomeConflict},
		"token invalid":                      {status: 401, body: problem(401, "token_invalid"), err: ErrTokenInvalid},
		"token expired":                      {status: 410, body: problem(410, "token_expired"), err: ErrTokenExpired},
		"out of range":                       {status: 422, body: problem(422, "offset_out_of_range"), err: ErrOffsetOutOfRange},
		"no webhook":                         {status: 404, body: problem(404, "webhook_not_found"), err: ErrNotFound},
		"no partition":                       {status: 404, body: problem(404, "partition_not_found"), err: ErrNotFound},
		"no owner":                           {status: 503, body: problem(503, "no_owner"), header: map[string]string{"Retry-After": "7"}, err: ErrNoOwner, also: ErrUnavailable, like: &Refusal{Code: "no_owner", Detail: "Why.", RetryAfter: 7 * time.Second}},
		"unavailable":                        {status: 503, body: problem(503, "unavailable"), err: ErrUnavailable},
		"too many":                           {status: 429, body: problem(429, "rate_limited"), header: map[string]string{"Retry-After": "99999999999"}, err: ErrUnavailable, like: &Refusal{Code: "rate_limited", Detail: "Why."}},
		"not valid":                          {status: 422, body: problem(422, "validation_failed"), like: &Refusal{Code: "validation_failed", Detail: "Why."}},
		"a code that is new":                 {status: 418, body: problem(418, "teapot"), like: &Refusal{Code: "teapot", Detail: "Why."}},
		"a proxy says bad gateway":           {status: 502, body: "<html>", header: map[string]string{"Content-Type": "text/html"}, err: ErrUnavailable, like: &Refusal{}},
		"a proxy says forbidden":             {status: 403, body: `{"code":"token_invalid"}`, header: map[string]string{"Content-Type": "text/html"}, like: &Refusal{}},
		"a problem that is damaged":          {status: 409, body: `{"code":"generation_stale"`, like: &Refusal{}},
		"a detail without end":               {status: 400, body: strings.Replace(problem(400, "malformed"), "Why.", strings.Repeat("x", 1<<20), 1), like: &Refusal{Code: "malformed", Detail: strings.Repeat("x", maxReason)}},
		"200 without JSON":                   {status: 200, body: "OK", header: map[string]string{"Content-Type": "text/plain"}, err: ErrAnswer},
		"200 with JSON of another type":      {status: 200, body: committed, header: map[string]string{"Content-Type": "text/html"}, err: ErrAnswer},
		"200 without a result":               {status: 200, body: `{"ok":true}`, err: ErrAnswer},
		"200 damaged":                        {status: 200, body: committed[:20], err: ErrAnswer},
		"201":                                {status: 201, body: committed, err: ErrAnswer},
		"204":                                {status: 204, err: ErrAnswer},
		"longer than any gateway's":          {status: 200, body: `{"result":"committed","x":"` + strings.Repeat("x", maxAckAnswer) + `"}`, err: ErrAnswer},
		"a redirect is not followed":         {status: 307, header: map[string]string{"Location": "/elsewhere"}, err: ErrAnswer},
		"another redirect, without a target": {status: 302, err: ErrAnswer},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			gateway := &answering{status: tt.status, header: tt.header, body: tt.body}
			url, client := start(t, gateway)
			got, err := acker(t, AckerConfig{Gateway: url, Client: client}).Ack(t.Context(), Ticket{Token: "kat_secret"})
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			fails := tt.err != nil || tt.like != nil
			if (err != nil) != fails || tt.err != nil && !errors.Is(err, tt.err) || tt.also != nil && !errors.Is(err, tt.also) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if tt.like != nil {
				tt.like.Status = tt.status
				refused, ok := errors.AsType[*Refusal](err)
				if !ok {
					t.Fatalf("%v is no refusal", err)
				}
				if diff := cmp.Diff(tt.like, refused); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
			}
			for _, other := range []error{ErrGenerationStale, ErrOutcomeConflict, ErrTokenInvalid, ErrTokenExpired, ErrOffsetOutOfRange, ErrNotFound, ErrNoOwner, ErrUnavailable, ErrAnswer} {
				if other != tt.err && other != tt.also && errors.Is(err, other) {
					t.Errorf("%v is %v, too", err, other)
				}
			}
			if err != nil && strings.Contains(err.Error(), "kat_secret") {
				t.Errorf("the error tells the token: %v", err)
			}
			if len(gateway.calls) != 1 {
				t.Errorf("%d calls, want 1: %.200q", len(gateway.calls), gateway.calls)
			}
		})
	}
}

// transport is a gateway without a network, for a bubble.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func respond(status int, retryAfter, body string) *http.Response {
	h := http.Header{"Content-Type": {"application/json"}}
	if status >= 400 {
		h.Set("Content-Type", "application/problem+json")
	}
	if retryAfter != "" {
		h.Set("Retry-After", retryAfter)
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

func TestNoOwnerIsTriedAgain(t *testing.T) {
	tests := map[string]struct {
		retries    int
		retryAfter string
		status     int
		fails      int // calls that fail before one does not
		calls      int
		took       time.Duration
		want       error
	}{
		"not unless asked to":                {0, "1", 503, 1, 1, 0, ErrNoOwner},
		"after the time that was told":       {3, "2", 503, 2, 3, 4 * time.Second, nil},
		"as often as asked to":               {3, "2", 503, 9, 4, 6 * time.Second, ErrNoOwner},
		"a second where no time was told":    {1, "", 503, 1, 2, time.Second, nil},
		"a second where it is nonsense":      {1, "soon", 503, 1, 2, time.Second, nil},
		"a date":                             {1, "Sat, 01 Jan 2000 00:00:03 GMT", 503, 1, 2, 3 * time.Second, nil},
		"a date that has passed":             {1, "Fri, 31 Dec 1999 00:00:03 GMT", 503, 1, 2, time.Second, nil},
		"no longer than allowed":             {1, "3600", 503, 1, 2, 5 * time.Second, nil},
		"as long as the caller waits":        {100, "5", 503, 100, 13, time.Minute, ErrNoOwner},
		"what does not heal is not repeated": {3, "1", 404, 1, 1, 0, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				a := acker(t, AckerConfig{Gateway: "https://gw.example.com", Retries: tt.retries, MaxWait: 5 * time.Second, Client: &http.Client{
					Transport: transport(func(r *http.Request) (*http.Response, error) {
						body, _ := io.ReadAll(r.Body)
						if !strings.Contains(string(body), `"kat_1"`) {
							t.Errorf("call %d has body %s", calls, body)
						}
						if calls++; calls <= tt.fails {
							return respond(tt.status, tt.retryAfter, `{"code":"no_owner"}`), nil
						}
						return respond(200, "", committed), nil
					}),
				}})
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := a.Ack(ctx, Ticket{Token: "kat_1"})
				if took := time.Since(began); calls != tt.calls || took != tt.took {
					t.Errorf("%d calls in %v, want %d in %v", calls, took, tt.calls, tt.took)
				}
				if tt.status == 503 && !errors.Is(err, tt.want) {
					t.Errorf("error %v, want %v", err, tt.want)
				}
			})
		})
	}
}

func TestACallIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hanging := transport(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		trickling := transport(func(r *http.Request) (*http.Response, error) {
			resp := respond(200, "", "")
			resp.Body = io.NopCloser(trickle{r.Context()})
			return resp, nil
		})
		for name, tt := range map[string]struct {
			transport http.RoundTripper
			timeout   time.Duration
			want      time.Duration
		}{
			"no answer":                 {hanging, 0, defaultAckTimeout},
			"an answer without end":     {trickling, 0, defaultAckTimeout},
			"no answer in another time": {hanging, time.Second, time.Second},
		} {
			a := acker(t, AckerConfig{Gateway: "https://gw.example.com", Timeout: tt.timeout, Client: &http.Client{Transport: tt.transport}, Retries: 5})
			began := time.Now()
			_, err := a.Ack(t.Context(), Ticket{Token: "kat_1"})
			if took := time.Since(began); took != tt.want || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v after %v, want it after %v", name, err, took, tt.want)
			}
		}
	})
}

// trickle is a body of a byte a second.
type trickle struct{ ctx context.Context }

func (s trickle) Read(p []byte) (int, error) {
	select {
	case <-time.After(time.Second):
		p[0] = ' '
		return 1, nil
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	}
}

// list is the gateway's part of POST /ack for lists: what becomes of a token is told
// by its first letter.
func list(t *testing.T, sizes *[]int) transport {
	return func(r *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(r.Body)
		if err != nil || len(body) > 1<<20 {
			t.Errorf("a call of %d bytes, %v", len(body), err)
		}
		var call struct{ Acks []statement }
		if err := json.Unmarshal(body, &call); err != nil || len(call.Acks) == 0 || len(call.Acks) > 1000 {
			t.Fatalf("a call of %d acks, %v", len(call.Acks), err)
		}
		*sizes = append(*sizes, len(call.Acks))
		var results []string
		for _, ack := range call.Acks {
			switch ack.Token[0] {
			case 's':
				results = append(results, `{"status":409,"code":"generation_stale","detail":"Why.","current_generation":43}`)
			case 'n':
				results = append(results, `{"status":503,"code":"no_owner"}`)
			case 'x':
				results = append(results, `{}`)
			case 'e':
				return respond(503, "3", `{"code":"unavailable"}`), nil
			case 'm':
			default:
				results = append(results, fmt.Sprintf(`{"status":200,"result":"committed","committed_offset":%s}`, ack.Token))
			}
		}
		return respond(200, "", `{"results":[`+strings.Join(results, ",")+`]}`), nil
	}
}

func TestManyAcksInOneCall(t *testing.T) {
	var sizes []int
	a := acker(t, AckerConfig{Gateway: "https://gw.example.com", Client: &http.Client{Transport: list(t, &sizes)}})
	got := a.SendAll(t.Context(), []Statement{
		{Ticket{Token: "1"}, AckAll()}, {Ticket{Token: "s"}, Ack{}}, {Ticket{}, AckAll()}, {Ticket{Token: "n"}, AckAll()}, {Ticket{Token: "x"}, AckAll()}, {Ticket{Token: "2"}, AckAll()},
	})
	for i, want := range []error{nil, ErrGenerationStale, ErrAck, ErrNoOwner, ErrAnswer, nil} {
		if !errors.Is(got[i].Err, want) {
			t.Errorf("answer %d: %v, want %v", i, got[i].Err, want)
		}
		if want == nil && (got[i].Receipt.CommittedOffset == nil || *got[i].Receipt.CommittedOffset != int64(1+i/5)) {
			t.Errorf("answer %d is another's: %+v", i, got[i].Receipt)
		}
	}
	if refused, ok := errors.AsType[*Refusal](got[1].Err); !ok || *refused.CurrentGeneration != 43 {
		t.Errorf("answer 1: %v, want the generation in it", got[1].Err)
	}
	if len(sizes) != 1 || sizes[0] != 5 {
		t.Errorf("calls of %d, want one of 5", sizes)
	}

	sizes = nil
	if got := a.SendAll(t.Context(), nil); len(got) > 0 || len(sizes) > 0 {
		t.Errorf("%d answers and %d calls for nothing", len(got), len(sizes))
	}
	for _, token := range []string{"e", "m"} {
		got := a.SendAll(t.Context(), []Statement{{Ticket{Token: "1"}, AckAll()}, {Ticket{Token: token}, AckAll()}})
		if got[0].Err == nil || got[1].Err == nil {
			t.Errorf("a call that failed as a whole: %v", got)
		}
	}
}

func TestMoreAcksThanGoInOneCall(t *testing.T) {
	for name, tt := range map[string]struct {
		n, token int // how many, of how many characters
		calls    []int
	}{
		"a thousand and a half":    {1500, 8, []int{1000, 500}},
		"a thousand":               {1000, 8, []int{1000}},
		"the longest there can be": {600, 4096, []int{254, 254, 92}},
	} {
		var sizes []int
		a := acker(t, AckerConfig{Gateway: "https://gw.example.com", Client: &http.Client{Transport: list(t, &sizes)}})
		var all []Statement
		for i := range tt.n {
			all = append(all, Statement{Ticket{Token: fmt.Sprintf("%d%s", 1+i, strings.Repeat(" ", tt.token-len(fmt.Sprint(1+i))))}, AckAll()})
		}
		for i, got := range a.SendAll(t.Context(), all) {
			if got.Err != nil || *got.Receipt.CommittedOffset != int64(1+i) {
				t.Fatalf("%s: answer %d is %+v, %v", name, i, got.Receipt, got.Err)
			}
		}
		if diff := cmp.Diff(tt.calls, sizes); diff != "" {
			t.Errorf("%s: sizes of the calls (-want +got):\n%s", name, diff)
		}
	}
}

func TestOnlyWhatFailedIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		var gateway transport = list(t, &sizes)
		healed := transport(func(r *http.Request) (*http.Response, error) {
			if len(sizes) == 3 {
				body, _ := io.ReadAll(r.Body)
				r.Body = io.NopCloser(strings.NewReader(strings.ReplaceAll(string(body), `"n`, `"7`)))
			}
			return gateway(r)
		})
		a := acker(t, AckerConfig{Gateway: "https://gw.example.com", Retries: 5, Client: &http.Client{Transport: healed}})
		began := time.Now()
		got := a.SendAll(t.Context(), []Statement{{Ticket{Token: "1"}, AckAll()}, {Ticket{Token: "n"}, AckAll()}, {Ticket{Token: "s"}, AckAll()}, {Ticket{Token: "n1"}, AckAll()}})
		if got[0].Err != nil || got[1].Err != nil || !errors.Is(got[2].Err, ErrGenerationStale) || got[3].Err != nil || *got[3].Receipt.CommittedOffset != 71 {
			t.Errorf("answers %+v", got)
		}
		if diff := cmp.Diff([]int{4, 2, 2, 2}, sizes); diff != "" || time.Since(began) != 3*time.Second {
			t.Errorf("after %v (-want +got):\n%s", time.Since(began), diff)
		}

		// A call that was refused as a whole says when to come again.
		sizes, began = nil, time.Now()
		a.SendAll(t.Context(), []Statement{{Ticket{Token: "e"}, AckAll()}})
		if took := time.Since(began); took != 15*time.Second || len(sizes) != 6 {
			t.Errorf("%d calls in %v, want 6 in 15s", len(sizes), took)
		}
	})
}

// TestTheCallersClientIsNotChanged: it may serve others, who follow redirects.
func TestTheCallersClientIsNotChanged(t *testing.T) {
	client := &http.Client{}
	acker(t, AckerConfig{Gateway: "https://gw.example.com", Client: client})
	if client.CheckRedirect != nil {
		t.Error("its CheckRedirect is another")
	}
}
