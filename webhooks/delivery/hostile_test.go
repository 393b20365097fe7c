package delivery

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/egress"
)

// The tests of this file are named by the lines of the checklist for outbound
// requests, chapters 3 and 4: what receivers do that is neither an answer nor
// friendly. Deadlines are those of a short attempt, where an attempt has to come to its
// deadline; else there is time for a busy machine.
const (
	shortAttempt = 300 * time.Millisecond
	longAttempt  = 10 * time.Second
)

// checkAttempt makes one attempt, which has to end soon, however long the receiver
// goes on, and to leave its connection closed.
func checkAttempt(t *testing.T, then func(net.Conn), verdict Verdict, status int, code string) {
	t.Helper()
	left := make(chan struct{})
	url := listen(t, func(conn net.Conn, n int) {
		if _, err := readRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		then(conn)
		hang(conn)
		if n == 0 {
			close(left)
		}
	})
	limit := longAttempt
	if code == CodeTimeout {
		limit = shortAttempt
	}
	c := testClient(t, url, timeout(limit))
	res := deliver(t, c)
	expect(t, res, verdict, status, code)
	if res.Took > limit+2*time.Second {
		t.Errorf("the attempt took %v, want %v at most", res.Took, limit)
	}
	select {
	case <-left:
	case <-time.After(5 * time.Second):
		t.Error("the connection is still open")
	}
}

func TestR1_RedirectsAreNotFollowed(t *testing.T) {
	var elsewhere atomic.Int32
	second := listen(t, func(net.Conn, int) { elsewhere.Add(1) })
	for _, status := range []int{301, 302, 303, 307, 308} {
		var requests atomic.Int32
		url := listen(t, func(conn net.Conn, _ int) {
			for in := bufio.NewReader(conn); ; requests.Add(1) {
				if _, err := readRequest(in); err != nil {
					return
				}
				fmt.Fprintf(conn, "HTTP/1.1 %d X\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", status, second)
			}
		})
		c := testClient(t, url)
		expect(t, deliver(t, c), Failed, status, CodeRedirect)
		c.Close()
		if n := requests.Load(); n > 1 {
			t.Errorf("%d: the receiver saw %d requests, want one", status, n)
		}
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("the second address saw %d connections, want none", n)
	}
}

func TestR2_RedirectsInside(t *testing.T) {
	var dialled []string
	url := answering(t, "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/meta-data\r\nContent-Length: 0\r\n\r\n")
	c, _ := guardedClient(t, url, egress.Options{Control: func(_, address string, _ syscallConn) error {
		dialled = append(dialled, address)
		return nil
	}})
	expect(t, deliver(t, c), Failed, 302, CodeRedirect)
	if len(dialled) != 1 || "http://"+dialled[0] != url {
		t.Errorf("dialled %q, want the receiver alone", dialled)
	}
}

func TestR3_RedirectsToNowhere(t *testing.T) {
	for _, status := range []int{300, 301, 302, 304, 305, 399} {
		length := "Content-Length: 0\r\n"
		if status == 304 {
			length = ""
		}
		url := answering(t, fmt.Sprintf("HTTP/1.1 %d X\r\n%s\r\n", status, length))
		expect(t, deliver(t, testClient(t, url)), Failed, status, CodeRedirect)
	}
}

func TestR4_RedirectsOfLifecycleCalls(t *testing.T) {
	var elsewhere atomic.Int32
	second := listen(t, func(net.Conn, int) { elsewhere.Add(1) })
	for _, status := range []int{301, 302, 303, 307, 308} {
		url := answering(t, fmt.Sprintf("HTTP/1.1 %d X\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", status, second))
		expect(t, testNotifier(t, url).Notify(t.Context(), "lc_1", testNotice()), Failed, status, CodeRedirect)
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("the second address saw %d connections, want none", n)
	}
}

func TestT1_NoTLS(t *testing.T) {
	d := newDialer(testGuard(egress.Options{}))
	if d.handshake != 5*time.Second {
		t.Errorf("a handshake may take %v, want 5s", d.handshake)
	}
	d.handshake = 100 * time.Millisecond
	url := listen(t, func(conn net.Conn, _ int) { hang(conn) })
	res := deliver(t, dialingClient(t, d, secured(url)))
	expect(t, res, Failed, 0, CodeTLS)
	if res.Took > 3*time.Second {
		t.Errorf("the attempt took %v, want the handshake's time", res.Took)
	}
}

// TestT2_ is in package egress, where connections are made.

func TestT3_ASlowReader(t *testing.T) {
	url := listen(t, func(conn net.Conn, _ int) {
		for one := make([]byte, 1); ; time.Sleep(50 * time.Millisecond) {
			if _, err := conn.Read(one); err != nil {
				return
			}
		}
	})
	c := shortBufferClient(t, url, timeout(shortAttempt))
	res := c.Send(t.Context(), testMessage(t, c, 10, 100_000), testAttempt(1))
	expect(t, res, Failed, 0, CodeTimeout)
	if res.Took < shortAttempt || res.Took > shortAttempt+2*time.Second {
		t.Errorf("the attempt took %v, want %v", res.Took, shortAttempt)
	}
}

// TestT3_ASlowReaderOverTLS: TLS has to say good-bye, which a receiver that does not
// read must not hold up, neither after a deadline nor after an early answer.
func TestT3_ASlowReaderOverTLS(t *testing.T) {
	for _, test := range []struct {
		answer  string
		limit   time.Duration
		verdict Verdict
		status  int
		code    string
	}{
		{"", shortAttempt, Failed, 0, CodeTimeout},
		{"HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n", time.Minute, TooLarge, 413, "http_413"},
	} {
		url, d := listenTLS(t, func(conn net.Conn, _ int) {
			conn.Read(make([]byte, 1))
			io.WriteString(conn, test.answer)
			<-t.Context().Done()
		})
		d.guard = testGuard(egress.Options{Control: shortBuffer})
		c := dialingClient(t, d, url, timeout(test.limit))
		res := c.Send(t.Context(), testMessage(t, c, 10, 100_000), testAttempt(1))
		expect(t, res, test.verdict, test.status, test.code)
		if res.Took > shortAttempt+2*time.Second {
			t.Errorf("answered %q the attempt took %v", test.answer, res.Took)
		}
	}
}

func TestT4_HeadersThatTrickle(t *testing.T) {
	checkAttempt(t, trickle("HTTP/1.1 200 OK\r\nX-A: "), Failed, 0, CodeTimeout)
	checkAttempt(t, trickle(""), Failed, 0, CodeTimeout)
}

func TestT5_ABodyThatTrickles(t *testing.T) {
	checkAttempt(t, trickle(okHead+"Content-Length: 60000\r\n\r\n"), Failed, 200, CodeTimeout)
	checkAttempt(t, trickle(okHead+"\r\n"), Failed, 200, CodeTimeout)
}

func TestT6_EndlessBodies(t *testing.T) {
	block := strings.Repeat("a", 4096)
	checkAttempt(t, flood(okHead+"Content-Length: 9223372036854775807\r\n\r\n", block), Acked, 200, "")
	checkAttempt(t, flood(okHead+"Transfer-Encoding: chunked\r\n\r\n", "1000\r\n"+block+"\r\n"), Acked, 200, "")
	checkAttempt(t, flood(okHead+"Transfer-Encoding: chunked\r\n\r\n", strings.Repeat("0000000000000001\r\na\r\n", 100)), Acked, 200, "")
	checkAttempt(t, flood(okHead+"Content-Type: application/json\r\n\r\n", block), Failed, 200, CodeTooLarge)
}

func TestT7_EndlessHeaders(t *testing.T) {
	line := "X-Header: " + strings.Repeat("a", 1000) + "\r\n"
	checkAttempt(t, flood(okHead, line), Failed, 0, CodeMalformed)
	checkAttempt(t, flood(okHead+"X-A: ", strings.Repeat("a", 4096)), Failed, 0, CodeMalformed)
	checkAttempt(t, flood("HTTP/1.1 200 ", strings.Repeat("a", 4096)), Failed, 0, CodeMalformed)
	checkAttempt(t, once(okHead+strings.Repeat(line, 11_000)+"Content-Length: 0\r\n\r\n"), Failed, 0, CodeMalformed) // 11 MB, and then an end
}

func TestT8_EndlessInformation(t *testing.T) {
	for _, status := range []string{"100 Continue", "103 Early Hints"} {
		checkAttempt(t, flood("", strings.Repeat("HTTP/1.1 "+status+"\r\nLink: </a>\r\n\r\n", 10)), Failed, 0, CodeMalformed)
		checkAttempt(t, func(conn net.Conn) {
			for err := error(nil); err == nil; time.Sleep(20 * time.Millisecond) {
				_, err = io.WriteString(conn, "HTTP/1.1 "+status+"\r\n\r\n")
			}
		}, Failed, 0, CodeTimeout)
	}
}

func TestT9_SwitchingProtocols(t *testing.T) {
	began := time.Now()
	checkAttempt(t, once("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"), Failed, 101, CodeRedirect)
	if took := time.Since(began); took > longAttempt/5 {
		t.Errorf("it took %v, want it at once", took)
	}
}

// bomb is 60 MiB in some 60 kB.
func bomb(t *testing.T) string {
	t.Helper()
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for range 60 {
		if _, err := w.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.String()
}

func TestT10_CompressedAnswersAreNotUnpacked(t *testing.T) {
	url, requests := recording(t)
	expect(t, deliver(t, testClient(t, url)), Acked, 200, "")
	if got := (<-requests).header.Get("Accept-Encoding"); got != "identity" {
		t.Errorf("the request has accept-encoding %q, want identity", got)
	}
	packed := bomb(t)
	for _, encoding := range []string{"gzip", "deflate", "br"} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		url := answering(t, fmt.Sprintf("%sContent-Type: text/plain\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n%s", okHead, encoding, len(packed), packed))
		expect(t, deliver(t, testClient(t, url)), Acked, 200, "")
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 2<<20 {
			t.Errorf("%s: %d bytes were allocated for an answer of %d", encoding, grown, len(packed))
		}
	}
	// What might be JSON once it is unpacked might be a nack: it is no ack, and no more is
	// made of it either.
	url = answering(t, fmt.Sprintf("%sContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", okHead, len(packed), packed))
	expect(t, deliver(t, testClient(t, url)), Failed, 200, CodeAckMalformed)
}

// TestT11_WhereAnAnswerEnds has answers of which the receiver, something on the way
// and we might think differently, followed by one that would then be the next.
func TestT11_WhereAnAnswerEnds(t *testing.T) {
	const smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	for _, test := range []struct {
		claim  string
		answer string
		status int
		code   string
	}{
		{"two lengths", "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 0, CodeMalformed},
		{"one length twice", "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 0, CodeMalformed},
		{"a list of lengths", "Content-Length: 5, 5\r\n\r\nhello", 0, CodeMalformed},
		{"a negative length", "Content-Length: -5\r\n\r\nhello", 0, CodeMalformed},
		{"a length with a sign", "Content-Length: +5\r\n\r\nhello", 0, CodeMalformed},
		{"a length of more than 2^63", "Content-Length: 92233720368547758070\r\n\r\nhello", 0, CodeMalformed},
		{"a length and chunks", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 0, CodeMalformed},
		{"chunks and a length", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 0, CodeMalformed},
		{"chunks twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, CodeMalformed},
		{"chunks of chunks", "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 0, CodeMalformed},
		{"an encoding we do not have", "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 0, CodeMalformed},
		{"a misspelt encoding", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 0, CodeMalformed},
		{"a blank before the colon", "Content-Length : 5\r\n\r\nhello", 0, CodeMalformed},
		{"a folded line", "X-A: b\r\n Content-Length: 5\r\n\r\nhello", 0, CodeMalformed},
		{"a bare carriage return", "X-A: b\rContent-Length: 5\r\n\r\nhello", 0, CodeMalformed},
		{"a line without a colon", "Content-Length\r\n\r\n", 0, CodeMalformed},
		{"a chunk extension", "Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n", 200, CodeMalformed},
		{"an extension of the last chunk", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0;a\r\n\r\n", 200, CodeMalformed},
		{"a chunk size that is no number", "Transfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n", 200, CodeMalformed},
		{"a negative chunk size", "Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n", 200, CodeMalformed},
		{"a chunk size with its prefix", "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", 200, CodeMalformed},
		{"a chunk size with a blank", "Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n", 200, CodeMalformed},
		{"no chunk size", "Transfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n", 200, CodeMalformed},
		{"a chunk size of 17 digits", "Transfer-Encoding: chunked\r\n\r\n00000000000000005\r\nhello\r\n0\r\n\r\n", 200, CodeMalformed},
		{"a chunk size of 2^64", "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nhello\r\n0\r\n\r\n", 200, CodeMalformed},
		{"a chunk size without an end", "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("0", 8192), 200, CodeMalformed},
		{"a line feed alone behind a chunk size", "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", 200, CodeMalformed},
		{"a line feed alone behind a chunk", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n", 200, CodeMalformed},
		{"a chunk longer than it says", "Transfer-Encoding: chunked\r\n\r\n4\r\nhello\r\n0\r\n\r\n", 200, CodeMalformed},
		{"a trailer", "Trailer: X-A\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-A: b\r\n\r\n", 200, CodeMalformed},
		{"a trailer that nobody told of", "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 7\r\n\r\n", 200, CodeMalformed},
		{"a forbidden trailer", "Trailer: Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, CodeMalformed},
	} {
		t.Run(test.claim, func(t *testing.T) {
			checkAttempt(t, once("HTTP/1.1 200 OK\r\n"+test.answer+smuggled), Failed, test.status, test.code)
		})
	}
	t.Run("chunks of HTTP/1.0", func(t *testing.T) {
		checkAttempt(t, once("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+smuggled), Failed, 0, CodeMalformed)
	})
	t.Run("another version", func(t *testing.T) {
		checkAttempt(t, once("HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"), Failed, 0, CodeMalformed)
	})
	// What is behind a good answer is never taken for the next one.
	for claim, answer := range map[string]string{
		"behind a length": "Content-Length: 5\r\n\r\nhello", "behind chunks": "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	} {
		t.Run(claim, func(t *testing.T) {
			var conns atomic.Int32
			url := listen(t, func(conn net.Conn, _ int) {
				conns.Add(1)
				for in := bufio.NewReader(conn); ; {
					if _, err := readRequest(in); err != nil {
						return
					}
					io.WriteString(conn, okHead+answer+"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
				}
			})
			c := testClient(t, url)
			for range 3 {
				expect(t, deliver(t, c), Acked, 200, "")
			}
			if n := conns.Load(); n != 3 {
				t.Errorf("three deliveries used %d connections, want three", n)
			}
		})
	}
}

func TestT12_ResetAfterTheBody(t *testing.T) {
	var taken atomic.Int32
	url := listen(t, func(conn net.Conn, _ int) {
		if _, err := readRequest(bufio.NewReader(conn)); err == nil {
			taken.Add(1)
			conn.(*net.TCPConn).SetLinger(0) // closing is a reset now
		}
	})
	c := testClient(t, url)
	m := testMessage(t, c, 10, 1000)
	for n := range 3 { // each attempt is the schedule's: none is made twice by itself
		expect(t, c.Send(t.Context(), m, testAttempt(n+1)), Failed, 0, CodeConnectionReset)
		if got := int(taken.Load()); got != n+1 {
			t.Fatalf("after %d attempts the receiver has taken %d requests", n+1, got)
		}
	}
}

func TestT16_RetryAfter(t *testing.T) {
	policy := webhooks.Retry{InitialBackoffMs: 1, MaxBackoffMs: 60_000, Multiplier: 2}
	for text, want := range map[string]time.Duration{
		"99999999": time.Minute, "-5": 0, "Wed, 21 Oct 2015 07:28:00 GMT": 0, "soon": 0, strings.Repeat("9", 10_000): 0, "": 0, "1e9": 0,
		"9223372036854775807": time.Minute, "Fri, 31 Dec 9999 23:59:59 GMT": time.Minute, "7": 7 * time.Second,
	} {
		url := answering(t, "HTTP/1.1 503 X\r\nRetry-After: "+text+"\r\nContent-Length: 0\r\n\r\n")
		res := deliver(t, testClient(t, url))
		expect(t, res, Failed, 503, "http_503")
		if got := Backoff(policy, 1, res.RetryAfter, 0); got != want {
			t.Errorf("%.40q: the next attempt is due in %v, want %v", text, got, want)
		}
	}
}

// TestH3_HeadersOfRecordsStayInTheBody, whatever they are called and hold.
func TestH3_HeadersOfRecordsStayInTheBody(t *testing.T) {
	url, requests := recording(t)
	c := testClient(t, url)
	send := func(headers ...header) received {
		t.Helper()
		b := new(records.Batch)
		defer b.Free()
		b.Append(records.Record{Offset: 7}, []byte("k"), []byte("1"))
		for _, h := range headers {
			b.AppendHeader([]byte(h.name), []byte(h.value))
		}
		m := c.Encode("dl_1", "orders", 3, b, 0, 1)
		defer m.Free()
		expect(t, c.Send(t.Context(), m, testAttempt(1)), Acked, 200, "")
		return <-requests
	}
	plain := send()
	full := send(header{"Authorization", "Bearer x"}, header{"Host", "evil.example"},
		header{"a\r\nX-Evil: b", "c\r\n\r\nPOST / HTTP/1.1\r\n"}, header{"kpush-ack-token", "y"})
	for name := range full.header {
		if _, ok := plain.header[name]; !ok {
			t.Errorf("a record's header has become the request's: %s", name)
		}
	}
	if got := full.header.Get("Kpush-Ack-Token"); got != "kat_token" {
		t.Errorf("kpush-ack-token is %q", got)
	}
	if !bytes.Contains(full.body, []byte(`"Authorization"`)) || !bytes.Contains(full.body, []byte(`evil.example`)) {
		t.Errorf("the body lacks the record's headers: %s", full.body)
	}
}

// hostileAnswers are those of T5 to T10 that cost something, by what they come to
// within an attempt.
func hostileAnswers(t *testing.T) map[string]func(net.Conn) {
	block := strings.Repeat("a", 4096)
	packed := bomb(t)
	return map[string]func(net.Conn){
		"T5":          trickle(okHead + "Content-Length: 60000\r\n\r\n"),
		"T6 length":   flood(okHead+"Content-Length: 9223372036854775807\r\n\r\n", block),
		"T6 chunked":  flood(okHead+"Transfer-Encoding: chunked\r\n\r\n", "1000\r\n"+block+"\r\n"),
		"T6 JSON":     flood(okHead+"Content-Type: application/json\r\n\r\n", block),
		"T7":          flood(okHead, "X-Header: "+block[:1000]+"\r\n"),
		"T8":          flood("", strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 50)),
		"T9":          func(conn net.Conn) { once("HTTP/1.1 101 Switching Protocols\r\n\r\n")(conn); hang(conn) },
		"T10":         once(fmt.Sprintf("%sContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", okHead, len(packed), packed)),
		"T10 as JSON": once(fmt.Sprintf("%sContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", okHead, len(packed), packed)),
	}
}

// TestHostileAnswersLeaveNothingBehind: a thousand of each kind leave neither memory
// nor goroutines nor open files behind.
func TestHostileAnswersLeaveNothingBehind(t *testing.T) {
	const senders = 50
	rounds := 1000
	if raceDetector || testing.Short() {
		rounds = 500
	}
	for kind, answer := range hostileAnswers(t) {
		t.Run(kind, func(t *testing.T) {
			url := afterRequest(t, answer)
			c := testClient(t, url, timeout(100*time.Millisecond))
			send := func(n int) {
				var left atomic.Int64
				left.Store(int64(n))
				var sending sync.WaitGroup
				for range senders {
					sending.Go(func() {
						m := c.Encode("dl_1", "orders", 3, recordsOf([]byte("1")), 0, 1)
						defer m.Free()
						for left.Add(-1) >= 0 {
							c.Send(t.Context(), m, testAttempt(1))
						}
					})
				}
				sending.Wait()
				c.wires.drop()
			}
			idle := runtime.NumGoroutine()
			send(rounds) // until pools and heap are what they will be
			before := settledFootprint(t, idle)
			send(rounds)
			after := settledFootprint(t, idle)
			change := 100 * float64(after.rss-before.rss) / float64(max(before.rss, 1))
			t.Logf("after %d answers more: %d KiB, before %d (%+.1f %%); %d objects, before %d; %d goroutines, before %d; %d files, before %d",
				rounds, after.rss, before.rss, change, after.objects, before.objects, after.goroutines, before.goroutines, after.files, before.files)
			if after.goroutines > before.goroutines || after.files > before.files {
				t.Errorf("%d goroutines and %d files, before %d and %d", after.goroutines, after.files, before.goroutines, before.files)
			}
			if after.objects >= before.objects+rounds {
				t.Errorf("%d objects in the heap, before %d: one or more is kept of each answer", after.objects, before.objects)
			}
			if change > 5 && !raceDetector {
				t.Errorf("%d KiB of memory, before %d: want 5 %% more at most", after.rss, before.rss)
			}
		})
	}
}

// settledFootprint waits until the receiver has noticed that connections are closed:
// until no more goroutines run than when there was none.
func settledFootprint(t *testing.T, idle int) footprint {
	t.Helper()
	for range 250 {
		if runtime.NumGoroutine() <= idle {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return footprintOf(t)
}

type footprint struct{ goroutines, objects, files, rss int } // objects in the heap; rss in KiB

// footprintOf is what the process takes, as far as this system tells.
func footprintOf(t *testing.T) footprint {
	t.Helper()
	debug.FreeOSMemory() // empties the pools into their second row,
	debug.FreeOSMemory() // and that row
	var heap runtime.MemStats
	runtime.ReadMemStats(&heap)
	f := footprint{goroutines: runtime.NumGoroutine(), objects: int(heap.HeapObjects)}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return f
	}
	f.files = len(files)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		t.Fatal("the system does not tell VmRSS")
	}
	if f.rss, err = strconv.Atoi(fields[0]); err != nil {
		t.Fatal(err)
	}
	return f
}
