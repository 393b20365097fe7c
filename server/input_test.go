package server

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/server/api"
	"github.com/kpush/kpush/webhooks"
)

// TestURLsThatAreNotAllowed: refused by their form, or, by the gateway, by its policy.
func TestURLsThatAreNotAllowed(t *testing.T) {
	notAllowed := func(pointer string) error {
		return &webhooks.ValidationError{Fields: []webhooks.FieldError{{Pointer: pointer, Detail: "must not be so", NotAllowed: true}}}
	}
	for claim, tt := range map[string]struct {
		body    string
		err     error
		pointer string
	}{
		"a password":                     {`{"url": "https://me:s3cret@a.example.com", "topics": ["t"]}`, nil, "/url"},
		"a fragment in the lifecycle's":  {`{"url": "https://a.example.com", "lifecycle": {"url": "https://a.example.com/#s3cret"}, "topics": ["t"]}`, nil, "/lifecycle/url"},
		"the policy":                     {`{"url": "http://s3cret.example.com", "topics": ["t"]}`, notAllowed("/url"), "/url"},
		"the policy for lifecycle calls": {orders, notAllowed("/lifecycle/url"), "/lifecycle/url"},
	} {
		for _, x := range []exchange{
			{method: "POST", path: "/v1/webhooks", body: tt.body},
			{method: "PUT", path: "/v1/webhooks/a", body: tt.body},
		} {
			t.Run(x.method+" "+claim, func(t *testing.T) {
				s, g := newServer(t)
				g.err = tt.err
				p := wantProblem(t, x.do(t, s), 422, api.ErrorCodeURLNotAllowed)
				if p.Errors == nil || len(*p.Errors) != 1 || (*p.Errors)[0].Pointer != tt.pointer {
					t.Errorf("the answer tells of %v, want %s alone", p.Errors, tt.pointer)
				}
				if strings.Contains(fmt.Sprint(p.Detail, p.Errors), "s3cret") {
					t.Errorf("the answer repeats the URL: %v", p)
				}
			})
		}
	}
}

func TestBadBodies(t *testing.T) {
	deep := strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)
	tests := map[string]struct {
		body   string
		status int
		code   api.ErrorCode
	}{
		"nothing":                            {" ", 400, api.ErrorCodeMalformed},
		"not JSON":                           {"url=https://a", 400, api.ErrorCodeMalformed},
		"JSON cut short":                     {`{"url": "https://a`, 400, api.ErrorCodeMalformed},
		"JSON and something after it":        {orders + "x", 400, api.ErrorCodeMalformed},
		"two objects":                        {orders + orders, 400, api.ErrorCodeMalformed},
		"an array":                           {`[1]`, 400, api.ErrorCodeMalformed},
		"a string":                           {`"x"`, 400, api.ErrorCodeMalformed},
		"null":                               {`null`, 400, api.ErrorCodeMalformed},
		"NaN":                                {`{"max_in_flight": NaN}`, 400, api.ErrorCodeMalformed},
		"Infinity":                           {`{"retry": {"multiplier": Infinity}}`, 400, api.ErrorCodeMalformed},
		"a number with a leading zero":       {`{"max_in_flight": 01}`, 400, api.ErrorCodeMalformed},
		"a byte order mark":                  {"\ufeff" + orders, 400, api.ErrorCodeMalformed},
		"bytes that are not UTF-8":           {"{\"url\": \"\xff\"}", 400, api.ErrorCodeMalformed},
		"100,000 arrays":                     {deep, 400, api.ErrorCodeMalformed},
		"100,000 arrays in an object":        {`{"topics": ` + deep + `}`, 400, api.ErrorCodeMalformed},
		"5,000 arrays in an object":          {`{"topics": ` + deep[95_000:105_000] + `}`, 422, api.ErrorCodeValidationFailed},
		"1 MiB and one byte":                 {orders + strings.Repeat(" ", 1<<20+1-len(orders)), 413, api.ErrorCodeBodyTooLarge},
		"an empty object":                    {`{}`, 422, api.ErrorCodeValidationFailed},
		"an empty id":                        {`{"url": "https://a.example.com", "topics": ["t"], "id": ""}`, 422, api.ErrorCodeValidationFailed},
		"an unknown field":                   {`{"url": "https://a.example.com", "topics": ["t"], "colour": 1}`, 422, api.ErrorCodeValidationFailed},
		"a field given twice":                {`{"url": "https://a.example.com", "topics": ["t"], "topics": ["t"]}`, 422, api.ErrorCodeValidationFailed},
		"a number of 2^63":                   {`{"url": "https://a.example.com", "topics": ["t"], "max_in_flight": 9223372036854775808}`, 422, api.ErrorCodeValidationFailed},
		"a negative number":                  {`{"url": "https://a.example.com", "topics": ["t"], "max_in_flight": -1}`, 422, api.ErrorCodeValidationFailed},
		"a number with an exponent":          {`{"url": "https://a.example.com", "topics": ["t"], "max_in_flight": 1e1}`, 422, api.ErrorCodeValidationFailed},
		"a number far beyond a float":        {`{"url": "https://a.example.com", "topics": ["t"], "retry": {"multiplier": 1e999}}`, 422, api.ErrorCodeValidationFailed},
		"a string where a list should be":    {`{"url": "https://a.example.com", "topics": "t"}`, 422, api.ErrorCodeValidationFailed},
		"an object where a string should be": {`{"url": {"https": 1}, "topics": ["t"]}`, 422, api.ErrorCodeValidationFailed},
		"a secret of one's own":              {`{"url": "https://a.example.com", "topics": ["t"], "secret": "s3cret"}`, 422, api.ErrorCodeValidationFailed},
	}
	for name, tt := range tests {
		for _, x := range []exchange{
			{method: "POST", path: "/v1/webhooks", body: tt.body},
			{method: "PUT", path: "/v1/webhooks/a", body: tt.body},
			{method: "PUT", path: "/v1/webhooks/a/offsets", body: tt.body},
			{method: "POST", path: "/ack", body: tt.body},
		} {
			t.Run(x.method+x.path+" "+name, func(t *testing.T) {
				s, g := newServer(t)
				p := wantProblem(t, x.do(t, s), tt.status, tt.code)
				if strings.Contains(fmt.Sprint(p.Detail, p.Errors), "s3cret") {
					t.Errorf("the answer repeats a secret: %v", p)
				}
				if tt.status == 422 && p.Errors == nil {
					t.Error("the answer does not tell which field is not valid")
				}
				if len(g.entries) > 0 {
					t.Errorf("the gateway has %d webhooks after a refusal", len(g.entries))
				}
			})
		}
	}
}

func TestLargestBodyIsRead(t *testing.T) {
	s, _ := newServer(t)
	body := orders + strings.Repeat(" ", maxBody-len(orders))
	into[api.CreatedWebhook](t, exchange{method: "POST", path: "/v1/webhooks", body: body}.do(t, s), http.StatusCreated)
}

func TestContentTypes(t *testing.T) {
	tests := map[string]struct {
		header map[string]string
		status int
	}{
		"JSON":                   {map[string]string{"Content-Type": "application/json"}, 201},
		"JSON in UTF-8":          {map[string]string{"Content-Type": "application/json; charset=UTF-8"}, 201},
		"JSON in capitals":       {map[string]string{"Content-Type": "Application/JSON"}, 201},
		"JSON as it is":          {map[string]string{"Content-Type": "application/json", "Content-Encoding": "identity"}, 201},
		"JSON in UTF-16":         {map[string]string{"Content-Type": "application/json; charset=utf-16"}, 415},
		"compressed JSON":        {map[string]string{"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415},
		"none":                   {map[string]string{"Content-Type": ""}, 415},
		"text":                   {map[string]string{"Content-Type": "text/plain"}, 415},
		"a form":                 {map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, 415},
		"something like JSON":    {map[string]string{"Content-Type": "application/jsonl"}, 415},
		"a type that is no type": {map[string]string{"Content-Type": ";;"}, 415},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, _ := newServer(t)
			response := exchange{method: "POST", path: "/v1/webhooks", body: orders, header: tt.header}.do(t, s)
			if response.StatusCode != tt.status {
				t.Errorf("status %d, want %d", response.StatusCode, tt.status)
			}
		})
	}
}

func TestIDs(t *testing.T) {
	tests := map[string]struct {
		method, path string
		status       int
	}{
		"a good one":                {"PUT", "/v1/webhooks/a-b_9", 201},
		"63 characters":             {"PUT", "/v1/webhooks/" + strings.Repeat("a", 63), 201},
		"64 characters":             {"PUT", "/v1/webhooks/" + strings.Repeat("a", 64), 422},
		"capitals":                  {"PUT", "/v1/webhooks/A", 422},
		"an escaped slash":          {"PUT", "/v1/webhooks/a%2Fb", 422},
		"an escaped good one":       {"PUT", "/v1/webhooks/%61", 201},
		"none":                      {"PUT", "/v1/webhooks/", 404},
		"a slash too many":          {"PUT", "/v1/webhooks/a/", 404},
		"a bad one is not there":    {"GET", "/v1/webhooks/A%00%FF", 404},
		"a dotted one is no detour": {"GET", "/v1/webhooks/../webhooks", 404},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, _ := newServer(t)
			x := exchange{method: tt.method, path: tt.path}
			if tt.method == "PUT" {
				x.body = orders
			}
			if response := x.do(t, s); response.StatusCode != tt.status {
				t.Errorf("status %d, want %d", response.StatusCode, tt.status)
			}
		})
	}
}

// listen serves s on a real socket; a request may take so long to arrive.
func listen(t *testing.T, s *Server, readTimeout time.Duration) string {
	t.Helper()
	listener := httptest.NewUnstartedServer(nil)
	listener.Config = NewHTTPServer(s, slog.New(slog.DiscardHandler))
	listener.Config.ReadTimeout = readTimeout
	listener.Start()
	t.Cleanup(listener.Close)
	return listener.Listener.Addr().String()
}

// dial opens a connection that fails the test rather than hang.
func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// answerOf reads an answer off a connection.
func answerOf(t *testing.T, conn net.Conn) *http.Response {
	t.Helper()
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	response.Body = io.NopCloser(bytes.NewReader(data))
	return response
}

func TestSlowBody(t *testing.T) {
	s, _ := newServer(t)
	address := listen(t, s, 100*time.Millisecond)
	head := func(path, auth, more string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n%s%s\r\n\r\n", path, auth, more)
	}
	auth := "Authorization: Bearer " + adminToken + "\r\n"
	tests := map[string]struct {
		sent   string
		status int
		code   api.ErrorCode
	}{
		"a length and not all of it": {head("/v1/webhooks", auth, "Content-Length: 100") + `{"url"`, 408, api.ErrorCodeRequestTimeout},
		"chunks without an end":      {head("/ack", "", "Transfer-Encoding: chunked") + "1\r\n{\r\n", 408, api.ErrorCodeRequestTimeout},
		"a body nobody waits for":    {head("/v1/webhooks", "", "Content-Length: 100") + `{"url"`, 401, api.ErrorCodeUnauthorized},
		"a body to nowhere":          {head("/nowhere", auth, "Content-Length: 100") + `{"url"`, 404, api.ErrorCodeNotFound},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dial(t, address)
			if _, err := io.WriteString(conn, tt.sent); err != nil {
				t.Fatal(err)
			}
			response := answerOf(t, conn)
			wantProblem(t, response, tt.status, tt.code)
			if tt.status == 408 && !response.Close {
				t.Error("a 408 does not tell that the connection will be closed")
			}
			if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("the connection is still open: %d, %v", n, err)
			}
		})
	}
}

func TestEveryTimeoutIsSet(t *testing.T) {
	s := NewHTTPServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	for name, d := range map[string]time.Duration{
		"ReadHeaderTimeout": s.ReadHeaderTimeout, "ReadTimeout": s.ReadTimeout, "WriteTimeout": s.WriteTimeout, "IdleTimeout": s.IdleTimeout,
	} {
		if d <= 0 {
			t.Errorf("%s is %v, want a limit", name, d)
		}
	}
	if least := readTimeout + seekTimeouts*defaultRequestTimeout; s.WriteTimeout <= least {
		t.Errorf("WriteTimeout is %v, want more than the %v a request may take", s.WriteTimeout, least)
	}
}

// The deadline for a request to arrive must not cut off work that takes longer,
// on this request or the next of the connection.
func TestSlowWorkIsNotCutOff(t *testing.T) {
	const readTimeout = 50 * time.Millisecond
	s, g := newServer(t)
	exchange{method: "PUT", path: "/v1/webhooks/a", body: orders}.do(t, s)
	g.takes = 4 * readTimeout
	g.ack = answering(groupmanager.AckAnswer{Result: "committed"}, nil)
	conn := dial(t, listen(t, s, readTimeout))
	for range 2 {
		for _, x := range []exchange{{method: "POST", path: "/ack", body: `{"token": "t"}`}, seek("", `{"to": "latest"}`)} {
			if err := x.request(t).Write(conn); err != nil {
				t.Fatal(err)
			}
			into[json.RawMessage](t, answerOf(t, conn), http.StatusOK)
		}
	}
}

// endless is a body without an end that counts what was taken of it.
type endless struct{ read, size int }

func (e *endless) Read(p []byte) (int, error) {
	if e.read >= e.size {
		return 0, io.EOF
	}
	n := copy(p, bytes.Repeat([]byte(" "), min(len(p), e.size-e.read)))
	e.read += n
	return n, nil
}

func TestHugeBody(t *testing.T) {
	const size = 100 << 20
	s, _ := newServer(t)
	address := listen(t, s, readTimeout)
	for name, declared := range map[string]int64{"with its length": size, "in chunks": -1} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			body := &endless{size: size}
			r, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+address+"/v1/webhooks", io.NopCloser(body))
			if err != nil {
				t.Fatal(err)
			}
			r.ContentLength = declared
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Authorization", "Bearer "+adminToken)
			transport := &http.Transport{DisableKeepAlives: true}
			defer transport.CloseIdleConnections()
			response, err := transport.RoundTrip(r)
			if err != nil {
				t.Fatalf("no answer: %v", err)
			}
			defer response.Body.Close()
			wantProblem(t, response, http.StatusRequestEntityTooLarge, api.ErrorCodeBodyTooLarge)
			runtime.ReadMemStats(&after)
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 20<<20 {
				t.Errorf("%d MB were allocated over a body of 100 MB, want a few", grown>>20)
			}
		})
	}
}
