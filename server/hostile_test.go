package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/server/api"
)

// hostileAcks are bodies of POST /ack that nobody should send, and their answers.
// What documents them is openapi.yaml, which every answer is held against.
func hostileAcks() map[string]struct {
	body   string
	status int
	code   api.ErrorCode
} {
	deep := strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)
	fields := func(old, new string) string { return strings.Replace(byFields, old, new, 1) }
	return map[string]struct {
		body   string
		status int
		code   api.ErrorCode
	}{
		"not JSON":                        {`{"token": `, 400, api.ErrorCodeMalformed},
		"NaN":                             {fields("1249", "NaN"), 400, api.ErrorCodeMalformed},
		"100,000 arrays":                  {deep, 400, api.ErrorCodeMalformed},
		"100,000 arrays as the token":     {`{"token": ` + deep + `}`, 400, api.ErrorCodeMalformed},
		"100,000 arrays in a list":        {`{"acks": ` + deep + `}`, 400, api.ErrorCodeMalformed},
		"5,000 arrays as the token":       {`{"token": ` + deep[95_000:105_000] + `}`, 422, api.ErrorCodeValidationFailed},
		"an array of types":               {fields(`"orders"`, `["orders"]`), 422, api.ErrorCodeValidationFailed},
		"a partition of true":             {fields(": 3", ": true"), 422, api.ErrorCodeValidationFailed},
		"an offset of 2^63":               {fields("1249", "9223372036854775808"), 422, api.ErrorCodeValidationFailed},
		"an offset of 1e400":              {fields("1249", "1e400"), 422, api.ErrorCodeValidationFailed},
		"a generation of -1":              {fields("42", "-1"), 422, api.ErrorCodeValidationFailed},
		"a key twice":                     {fields("{", `{"offset": 1, `), 422, api.ErrorCodeValidationFailed},
		"a token twice":                   {`{"token": "t", "token": "t"}`, 422, api.ErrorCodeValidationFailed},
		"a token twice, once in disguise": {`{"token": "t", "\u0074oken": "t"}`, 422, api.ErrorCodeValidationFailed},
		"an unknown field":                {`{"token": "t", "colour": 1}`, 422, api.ErrorCodeValidationFailed},
		"100,000 unknown fields":          {manyFields(), 422, api.ErrorCodeValidationFailed},
		"1 MiB and one byte":              {`{"token": "t"}` + strings.Repeat(" ", maxBody-13), 413, api.ErrorCodeBodyTooLarge},
	}
}

// TestA1_BadAcks is the row of the table of faults, and TestK11_HostileAckBodies the
// line of the checklist for outbound requests; they speak of the same bodies.
func TestA1_BadAcks(t *testing.T) {
	for name, tt := range hostileAcks() {
		for _, anonymous := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", anonymous ", anonymous), func(t *testing.T) {
				s, g := newServer(t)
				g.ack = answering(groupmanager.AckAnswer{}, errors.New("must not be asked"))
				x := exchange{method: "POST", path: "/ack", body: tt.body, anonymous: anonymous}
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				response := x.do(t, s)
				runtime.ReadMemStats(&after)
				status, code := tt.status, tt.code
				if anonymous && strings.Contains(tt.body, "webhook_id") && status == 422 {
					status, code = 401, api.ErrorCodeUnauthorized // what else is wrong is not for strangers
				}
				wantProblem(t, response, status, code)
				if len(g.acks) > 0 {
					t.Errorf("the gateway was asked %v", g.acks)
				}
				if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
					t.Errorf("%d MiB were allocated for a body of %d bytes", grown>>20, len(tt.body))
				}
			})
		}
	}
	for name, kind := range map[string]string{"no type": "", "text": "text/plain", "a form": "application/x-www-form-urlencoded", "XML": "application/xml"} {
		t.Run(name, func(t *testing.T) {
			s, _ := newServer(t)
			x := exchange{method: "POST", path: "/ack", body: `{"token": "t"}`, header: map[string]string{"Content-Type": kind}, anonymous: true}
			wantProblem(t, x.do(t, s), 415, api.ErrorCodeUnsupportedMediaType)
		})
	}
	t.Run("chunks that come slowly", func(t *testing.T) {
		s, _ := newServer(t)
		conn := dial(t, listen(t, s, 200*time.Millisecond))
		if _, err := io.WriteString(conn, "POST /ack HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for _, err := io.WriteString(conn, "1\r\n{\r\n"); err == nil; _, err = io.WriteString(conn, "1\r\n \r\n") {
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Millisecond):
				}
			}
		}()
		began := time.Now()
		wantProblem(t, answerOf(t, conn), 408, api.ErrorCodeRequestTimeout)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("the answer came after %v, want it when the time for a body is over", took)
		}
		close(stop)
		<-stopped
	})
}

// TestK11_HostileAckBodies, over a real connection, the largest of them 100 MB.
func TestK11_HostileAckBodies(t *testing.T) {
	s, g := newServer(t)
	g.ack = answering(groupmanager.AckAnswer{}, errors.New("must not be asked"))
	address := listen(t, s, readTimeout)
	for name, tt := range hostileAcks() {
		t.Run(name, func(t *testing.T) {
			response, body := post(t, from(t, "127.0.0.1"), "http://"+address+"/ack", []byte(tt.body), adminToken)
			response.Body = io.NopCloser(bytes.NewReader(body))
			wantProblem(t, response, tt.status, tt.code)
		})
	}
	const size = 100 << 20
	for name, declared := range map[string]int64{"100 MB with its length": size, "100 MB in chunks": -1} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			body := &endless{size: size}
			r, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+address+"/ack", io.NopCloser(body))
			if err != nil {
				t.Fatal(err)
			}
			r.ContentLength = declared
			r.Header.Set("Content-Type", "application/json")
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
	if len(g.acks) > 0 {
		t.Errorf("the gateway was asked %v", g.acks)
	}
}
