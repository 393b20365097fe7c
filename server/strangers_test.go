package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/server/api"
)

// tokensOf makes the gateway check tokens as the real one does, and counts that.
func tokensOf(g *fakeGateway, tokens *acker.Tokens) *atomic.Int64 {
	checked := new(atomic.Int64)
	g.ack = func(a groupmanager.AckRequest) (groupmanager.AckAnswer, error) {
		checked.Add(1)
		if _, err := tokens.Parse(a.Token); err != nil {
			return groupmanager.AckAnswer{}, groupmanager.ErrTokenInvalid
		}
		return groupmanager.AckAnswer{Result: "committed"}, nil
	}
	return checked
}

// TestK1_ForgedTokensTellNothing: whatever is wrong with a token, the answer is the
// same. That the comparison takes the same time is hmac.Equal's doing.
func TestK1_ForgedTokensTellNothing(t *testing.T) {
	s, g := newServer(t)
	ours := acker.NewTokens(bytes.Repeat([]byte{1}, 32))
	tokensOf(g, ours)
	good := string(ours.Append(nil, &acker.Token{Tenant: "default", Webhook: "a", Topic: "orders", Last: 9, Owner: "replica-1"}))
	forged := []string{
		string(acker.NewTokens(bytes.Repeat([]byte{2}, 32)).Append(nil, &acker.Token{Tenant: "default", Webhook: "a", Topic: "orders", Last: 9})),
		good[:len(good)-1], good + "A", "x", "kat_token", good[:4] + "\u00e9",
	}
	for i := range good {
		forged = append(forged, good[:i]+string(good[i]^1)+good[i+1:])
	}
	var first []byte
	for _, token := range forged {
		body, err := json.Marshal(map[string]string{"token": token})
		if err != nil {
			t.Fatal(err)
		}
		p := wantProblem(t, exchange{method: "POST", path: "/ack", body: string(body), anonymous: true}.do(t, s), 401, api.ErrorCodeTokenInvalid)
		p.RequestID = ""
		answer, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = answer
		}
		if !bytes.Equal(answer, first) {
			t.Errorf("%q is answered %s, another forged one %s", token, answer, first)
		}
	}
	into[json.RawMessage](t, exchange{method: "POST", path: "/ack", body: `{"token":"` + good + `"}`, anonymous: true}.do(t, s), 200)
}

// randomTokens is a list of acks with n tokens that look like ours.
func randomTokens(seed uint64, n int) []byte {
	random := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	raw := make([]byte, 80)
	body := []byte(`{"acks":[`)
	for i := range n {
		if i > 0 {
			body = append(body, ',')
		}
		random.Read(raw)
		body = fmt.Appendf(body, `{"token":"AUoH%x"}`, raw)
	}
	return append(body, `]}`...)
}

// from is a client whose connections come from an address of this machine.
func from(t *testing.T, address string) *http.Client {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	transport := &http.Transport{DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, to)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// post sends an ack over a real connection and returns the answer, body and all.
func post(t *testing.T, c *http.Client, url string, body []byte, bearer string) (*http.Response, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	response, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, data
}

// TestK10_RandomTokensOfOneAddress: of a million, in calls of a thousand, a second's
// allowance is looked at for each second that it takes, and the rest is not read.
// Others notice nothing, and the address itself is heard again soon after.
func TestK10_RandomTokensOfOneAddress(t *testing.T) {
	const (
		most  = 1000
		calls = 1000
		each  = maxAcks
		lists = 20 // of random tokens, sent in turn
	)
	s, g := newServer(t, func(c *Config) { c.MaxFailedAcks = most })
	tokens := acker.NewTokens(bytes.Repeat([]byte{1}, 32))
	checked := tokensOf(g, tokens)
	good := []byte(`{"token":"` + string(tokens.Append(nil, &acker.Token{Tenant: "default", Webhook: "a", Topic: "orders"})) + `"}`)
	url := "http://" + listen(t, s, readTimeout) + "/ack"
	flood, other := from(t, "127.0.0.1"), from(t, "127.0.0.2")

	var bodies [lists][]byte
	for n := range bodies {
		bodies[n] = randomTokens(uint64(n), each)
	}
	began := time.Now()
	statuses := map[int]int{}
	for n := range calls {
		response, _ := post(t, flood, url, bodies[n%lists], "")
		statuses[response.StatusCode]++
		if response.StatusCode == 429 && response.Header.Get("Retry-After") == "" {
			t.Error("a 429 has no Retry-After")
		}
		if n%100 == 99 {
			if response, body := post(t, other, url, good, ""); response.StatusCode != 200 {
				t.Errorf("a good ack of another address during the flood: %d %s", response.StatusCode, body)
			}
			if response, body := post(t, flood, url, good, adminToken); response.StatusCode != 200 {
				t.Errorf("a good ack of an admin at the address of the flood: %d %s", response.StatusCode, body)
			}
		}
	}
	took := time.Since(began)
	bound := int64((most + acksAtOnce) * (took.Seconds() + 1))
	t.Logf("%d tokens in %v: answers %v, %d tokens checked (bound %d)", calls*each, took, statuses, checked.Load(), bound)
	if checked.Load() > bound || statuses[429] == 0 {
		t.Errorf("%d tokens were checked in %v, answers %v; want %d at most, and whole calls refused", checked.Load(), took, statuses, bound)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		response, body := post(t, flood, url, good, "")
		if response.StatusCode == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a good ack of the address after the flood: %d %s", response.StatusCode, body)
		}
	}
}

// TestFailedAcksInOneList: what stands before an ack in its list counts, too.
func TestFailedAcksInOneList(t *testing.T) {
	const most = 10
	s, g := newServer(t, func(c *Config) { c.MaxFailedAcks = most })
	checked := tokensOf(g, acker.NewTokens(bytes.Repeat([]byte{1}, 32)))
	list := exchange{method: "POST", path: "/ack", body: string(randomTokens(1, maxAcks)), anonymous: true}
	got := into[api.AckResults](t, list.do(t, s), 200)
	codes := map[api.ErrorCode]int{}
	for _, r := range got.Results {
		codes[*r.Code]++
	}
	if n := checked.Load(); n == maxAcks || codes[api.ErrorCodeRateLimited] == 0 || codes[api.ErrorCodeTokenInvalid] < most {
		t.Errorf("%d tokens were checked, results %v; want few more than %d, and the rest refused", n, codes, most)
	}
	for range most { // from httptest's address; on a busy machine the list took longer than it counts
		s.strangers.failed(netip.MustParseAddr("192.0.2.1"), time.Now())
	}
	wantProblem(t, list.do(t, s), 429, api.ErrorCodeRateLimited)
	list.anonymous = false // an admin may send as many bad ones as he likes
	into[api.AckResults](t, list.do(t, s), 200)
}

// TestOnlyCredentialsCountAsFailures: an ack that is refused for anything else, or
// taken, costs its address nothing.
func TestOnlyCredentialsCountAsFailures(t *testing.T) {
	for claim, test := range map[string]struct {
		body   string
		err    error
		status int
		counts bool
	}{
		"taken":            {`{"token": "t"}`, nil, 200, false},
		"stale":            {`{"token": "t"}`, &groupmanager.StaleError{Current: 43}, 409, false},
		"not valid":        {`{"token": "t", "colour": 1}`, nil, 422, false},
		"no owner":         {`{"token": "t"}`, groupmanager.ErrNoOwner, 503, false},
		"token invalid":    {`{"token": "t"}`, groupmanager.ErrTokenInvalid, 401, true},
		"without a bearer": {byFields, nil, 401, true},
	} {
		t.Run(claim, func(t *testing.T) {
			const most = 3
			s, g := newServer(t, func(c *Config) { c.MaxFailedAcks = most })
			g.ack = answering(groupmanager.AckAnswer{Result: "committed"}, test.err)
			x := exchange{method: "POST", path: "/ack", body: test.body, anonymous: true}
			for n := range 2 * most {
				want := test.status
				if test.counts && n >= most {
					want = 429
				}
				if got := x.do(t, s).StatusCode; got != want {
					t.Errorf("ack %d is answered %d, want %d", n+1, got, want)
				}
			}
		})
	}
}

func TestStrangers(t *testing.T) {
	const most = 10
	now := time.Now()
	a, b := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")
	s := newStrangers(most)
	for n := range most {
		if s.refuses(a, now) {
			t.Fatalf("refused after %d failures, want %d", n, most)
		}
		s.failed(a, now)
	}
	if !s.refuses(a, now) || s.refuses(b, now) {
		t.Errorf("refuses the one %v, the other %v; want the one that failed alone", s.refuses(a, now), s.refuses(b, now))
	}
	if !s.refuses(a, now.Add(hold-1)) || s.refuses(a, now.Add(hold)) {
		t.Error("want it held for a second, and no longer")
	}
	for n := range 10 * most { // as many as there may be, for ever
		at := now.Add(time.Duration(n) * (hold/(most-1) + 1))
		if s.failed(b, at); s.refuses(b, at) {
			t.Fatalf("refused at failure %d, none of which were %d within a second", n+1, most)
		}
	}
	for range most {
		s.failed(a, now)
	}
	// Many addresses are bounded in memory, and do not wash away one that goes on.
	for n := range uint32(20 * maxStrangers) {
		s.failed(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), now)
		if n%maxStrangers == 0 {
			s.failed(a, now)
		}
	}
	if n := len(s.young) + len(s.old); n > 2*maxStrangers {
		t.Errorf("%d addresses are remembered, want %d at most", n, 2*maxStrangers)
	}
	if !s.refuses(a, now) {
		t.Error("an address that goes on failing was forgotten")
	}
	if unbound := newStrangers(0); unbound.refuses(a, now) {
		t.Error("refuses without a bound")
	} else if unbound.failed(a, now); len(unbound.young) > 0 {
		t.Error("remembers without a bound")
	}
}

func TestAddressesThatCount(t *testing.T) {
	for remote, want := range map[string]string{
		"203.0.113.7:4711": "203.0.113.7", "[::ffff:203.0.113.7]:80": "203.0.113.7", "[2001:db8:1:2:3:4:5:6]:80": "2001:db8:1:2::",
		"[fe80::1%eth0]:80": "fe80::", "@": "invalid IP", "": "invalid IP",
	} {
		r := httptest.NewRequest("POST", "/ack", nil)
		r.RemoteAddr = remote
		r.Header.Set("X-Forwarded-For", "198.51.100.1")
		if got := addressOf(r).String(); got != want {
			t.Errorf("%q counts as %s, want %s", remote, got, want)
		}
	}
}
