package delivery

import (
	"bufio"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kpush/kpush/webhooks"
)

// expect compares what an attempt came to.
func expect(t testing.TB, res Result, verdict Verdict, status int, code string) {
	t.Helper()
	if res.Verdict != verdict || res.Status != status || res.Code != code {
		t.Errorf("got verdict %d, status %d, code %q; want %d, %d, %q", res.Verdict, res.Status, res.Code, verdict, status, code)
	}
}

// afterRequest is a receiver that reads one request from each connection and
// then does as it likes.
func afterRequest(t *testing.T, then func(conn net.Conn)) string {
	return listen(t, func(conn net.Conn, _ int) {
		if _, err := readRequest(bufio.NewReader(conn)); err == nil {
			then(conn)
		}
	})
}

// trickle writes text once and then a byte every few milliseconds for ever.
func trickle(text string) func(net.Conn) {
	return func(conn net.Conn) {
		for _, err := io.WriteString(conn, text); err == nil; _, err = io.WriteString(conn, "x") {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// flood writes text once and then more for ever.
func flood(text, more string) func(net.Conn) {
	return func(conn net.Conn) {
		for _, err := io.WriteString(conn, text); err == nil; _, err = io.WriteString(conn, more) {
		}
	}
}

// once writes text and closes the connection.
func once(text string) func(net.Conn) {
	return func(conn net.Conn) { io.WriteString(conn, text) }
}

// hang waits until the other side has closed the connection.
func hang(conn net.Conn) { io.Copy(io.Discard, conn) }

const okHead = "HTTP/1.1 200 OK\r\n"

func TestOneDeadlineCoversTheWholeAttempt(t *testing.T) {
	const limit = 200 * time.Millisecond
	for claim, url := range map[string]string{
		"a receiver that does not read":   listen(t, func(conn net.Conn, _ int) { <-t.Context().Done() }),
		"a receiver that does not answer": afterRequest(t, hang),
		"headers that trickle":            afterRequest(t, trickle(okHead+"X-A: ")),
		"a body that trickles":            afterRequest(t, trickle(okHead+"Content-Length: 60000\r\n\r\n")),
		"a JSON body that trickles":       afterRequest(t, trickle(okHead+"Content-Type: application/json\r\nContent-Length: 60000\r\n\r\n")),
		"a chunk that does not come": afterRequest(t, func(conn net.Conn) {
			once(okHead + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")(conn)
			hang(conn)
		}),
		"a body until the connection is closed":   afterRequest(t, func(conn net.Conn) { once("HTTP/1.0 200 OK\r\n\r\nhello")(conn); hang(conn) }),
		"informational answers one after another": afterRequest(t, trickle("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 103 ")),
	} {
		t.Run(claim, func(t *testing.T) {
			c := shortBufferClient(t, url, timeout(limit))
			m := testMessage(t, c, 10, 100_000) // more than the sockets' buffers take
			res := c.Send(t.Context(), m, testAttempt(1))
			if res.Verdict != Failed || res.Code != CodeTimeout {
				t.Errorf("got verdict %d, code %q; want a failure by timeout", res.Verdict, res.Code)
			}
			if res.Took < limit || res.Took > limit+5*time.Second {
				t.Errorf("the attempt took %v, want little more than %v", res.Took, limit)
			}
		})
	}
}

func TestAnswersThatAreNoAnswers(t *testing.T) {
	reset := func(conn net.Conn) { conn.(*net.TCPConn).SetLinger(0) }
	for _, test := range []struct {
		claim  string
		then   func(net.Conn)
		status int
		code   string
	}{
		{"the connection closed before an answer", once(""), 0, CodeConnectionReset},
		{"the connection reset before an answer", reset, 0, CodeConnectionReset},
		{"the connection closed within the headers", once(okHead + "X-A: b\r\n"), 0, CodeConnectionReset},
		{"not HTTP", once("SSH-2.0-OpenSSH_9.6\r\n\r\n"), 0, CodeMalformed},
		{"no status", once("HTTP/1.1 abc\r\n\r\n"), 0, CodeMalformed},
		{"a header without a colon", once(okHead + "nonsense\r\n\r\n"), 0, CodeMalformed},
		{"two content lengths", once(okHead + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"), 0, CodeMalformed},
		{"a negative content length", once(okHead + "Content-Length: -1\r\n\r\n"), 0, CodeMalformed},
		{"an unknown transfer encoding", once(okHead + "Transfer-Encoding: gzip\r\n\r\n"), 0, CodeMalformed},
		{"headers without end", flood(okHead, "X-A: "+strings.Repeat("a", 1000)+"\r\n"), 0, CodeMalformed},
		{"one header without end", flood(okHead+"X-A: ", strings.Repeat("a", 1000)), 0, CodeMalformed},
		{"informational answers without end", flood("", "HTTP/1.1 100 Continue\r\n\r\n"), 0, CodeMalformed},
		{"a body shorter than its length", once(okHead + "Content-Length: 10\r\n\r\nshort"), 200, CodeTruncated},
		{"a 500 with a body shorter than its length", once("HTTP/1.1 500 X\r\nContent-Length: 10\r\n\r\nshort"), 500, CodeTruncated},
		{"a chunked body without its end", once(okHead + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), 200, CodeTruncated},
		{"a body reset on its way", func(conn net.Conn) { once(okHead + "Content-Length: 10\r\n\r\nshort")(conn); reset(conn) }, 200, CodeTruncated},
		{"chunks that are none", once(okHead + "Transfer-Encoding: chunked\r\n\r\nzz\r\n"), 200, CodeMalformed},
		{"a switch of protocols", func(conn net.Conn) {
			once("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")(conn)
			hang(conn)
		}, 101, CodeRedirect},
		{"a bare 101", func(conn net.Conn) { once("HTTP/1.1 101 X\r\n\r\n")(conn); hang(conn) }, 101, CodeRedirect},
	} {
		t.Run(test.claim, func(t *testing.T) {
			c := testClient(t, afterRequest(t, test.then))
			res := deliver(t, c)
			expect(t, res, Failed, test.status, test.code)
			if res.Took > 5*time.Second {
				t.Errorf("the attempt took %v", res.Took)
			}
		})
	}
}

func TestLongAnswers(t *testing.T) {
	whole := strings.Repeat(" ", maxAnswer-len(`{"ack":{}}`)) + `{"ack":{}}`
	for _, test := range []struct {
		claim   string
		then    func(net.Conn)
		verdict Verdict
		code    string
		reused  bool
	}{
		{"text as long as is read", once(fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", okHead, maxAnswer, whole)), Acked, "", true},
		{"JSON as long as is read", once(fmt.Sprintf("%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", okHead, maxAnswer, whole)), Stated, "", true},
		{"the same in chunks", once(fmt.Sprintf("%sContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", okHead, maxAnswer, whole)), Stated, "", true},
		{"text one byte longer", once(fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s ", okHead, maxAnswer+1, whole)), Acked, "", false},
		{"JSON one byte longer", once(fmt.Sprintf("%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s ", okHead, maxAnswer+1, whole)), Failed, CodeTooLarge, false},
		{"JSON longer in chunks", once(fmt.Sprintf("%sContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s%s\r\n0\r\n\r\n", okHead, 2*maxAnswer, whole, whole)), Failed, CodeTooLarge, false},
		{"text of any length", flood(okHead+"Content-Length: 9223372036854775807\r\n\r\n", whole), Acked, "", false},
		{"text without end", flood(okHead+"Transfer-Encoding: chunked\r\n\r\n", "1000\r\n"+strings.Repeat("a", 0x1000)+"\r\n"), Acked, "", false},
		{"text until the connection is closed", flood("HTTP/1.0 200 OK\r\n\r\n", whole), Acked, "", false},
	} {
		t.Run(test.claim, func(t *testing.T) {
			var conns atomic.Int32
			url := listen(t, func(conn net.Conn, _ int) {
				conns.Add(1)
				for in := bufio.NewReader(conn); ; test.then(conn) {
					if _, err := readRequest(in); err != nil {
						return
					}
				}
			})
			c := testClient(t, url)
			for range 2 {
				expect(t, deliver(t, c), test.verdict, 200, test.code)
			}
			if got, want := conns.Load(), map[bool]int32{true: 1, false: 2}[test.reused]; got != want {
				t.Errorf("two deliveries used %d connections, want %d", got, want)
			}
		})
	}
}

// TestCompressedAnswersAreNotUnpacked: what would unpack to any size stays as it
// is, and so a nack in it was not seen: the delivery counted as done.
func TestCompressedAnswersAreNotUnpacked(t *testing.T) {
	const nack = `{"ack":{"outcome":"nack"}}`
	var packed strings.Builder
	w := gzip.NewWriter(&packed)
	io.WriteString(w, nack)
	w.Close()
	for _, test := range []struct {
		claim    string
		status   int
		kind     string // content type
		encoding string
		body     string
		verdict  Verdict
		code     string
	}{
		{"of packed JSON nobody knows what it says", 200, jsonType, "gzip", packed.String(), Failed, CodeAckMalformed},
		{"nor of a 202's", 202, jsonType, "GZIP", packed.String(), Failed, CodeAckMalformed},
		{"nor of what is packed twice", 200, jsonType, "identity\r\nContent-Encoding: gzip", packed.String(), Failed, CodeAckMalformed},
		{"nor of what cannot be unpacked", 200, jsonType, "br", "\x1f\x8b\x08", Failed, CodeAckMalformed},
		{"nor of what only says that it is packed", 200, jsonType, "gzip", nack, Failed, CodeAckMalformed},
		{"an empty body says nothing", 200, jsonType, "gzip", "", Acked, ""},
		{"in text there is no ack, packed or not", 200, "text/plain", "gzip", "\x1f\x8b\x08", Acked, ""},
		{"a status speaks for itself", 500, jsonType, "gzip", packed.String(), Failed, "http_500"},
		{"identity is not packed", 200, jsonType, "Identity", nack, Stated, ""},
	} {
		t.Run(test.claim, func(t *testing.T) {
			url := answering(t, fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Type: %s\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n%s",
				test.status, test.kind, test.encoding, len(test.body), test.body))
			expect(t, deliver(t, testClient(t, url)), test.verdict, test.status, test.code)
		})
	}
}

func TestCanceledByTheCaller(t *testing.T) {
	got := make(chan struct{})
	url := afterRequest(t, func(conn net.Conn) { close(got); hang(conn) })
	c := testClient(t, url)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-got; cancel() }()
	expect(t, c.Send(ctx, testMessage(t, c, 1, 10), testAttempt(1)), Failed, 0, CodeCanceled)

	past, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	expect(t, c.Send(past, testMessage(t, c, 1, 10), testAttempt(1)), Failed, 0, CodeCanceled)
}

// TestT18_AConnectionClosedWhileIdle: receivers close connections they have not used
// for a while, now and then in the moment of the next delivery. If nothing of it
// was written it goes out on another connection; if something was, nobody knows
// whether it was taken, and only the partition's schedule may send it again.
func TestT18_AConnectionClosedWhileIdle(t *testing.T) {
	const rounds = 200
	var whole atomic.Int32
	url := listen(t, func(conn net.Conn, _ int) {
		in := bufio.NewReader(conn)
		if _, err := readRequest(in); err == nil {
			whole.Add(1)
			io.WriteString(conn, okHead+"Content-Length: 0\r\n\r\n")
		}
	})
	c := testClient(t, url)
	m := testMessage(t, c, 2, 100)
	lost := 0
	for n := range rounds {
		res := c.Send(t.Context(), m, testAttempt(n+1))
		if res.Verdict != Acked {
			expect(t, res, Failed, 0, CodeConnectionReset)
			lost++
		}
	}
	if int(whole.Load()) != rounds-lost {
		t.Errorf("%d deliveries were taken and %d acked, want as many: none twice", whole.Load(), rounds-lost)
	}
	if lost > rounds/2 {
		t.Errorf("%d of %d attempts were lost to idle connections", lost, rounds)
	}
}

// TestNoSecondSendAfterBytesWereTaken: a connection that is reset after it took
// the request must not bring net/http to send it again by itself, not even with a
// header of the user's that it takes for leave to do so.
func TestNoSecondSendAfterBytesWereTaken(t *testing.T) {
	var taken atomic.Int32
	url := listen(t, func(conn net.Conn, n int) {
		in := bufio.NewReader(conn)
		for first := true; ; first = false {
			if _, err := readRequest(in); err != nil {
				return
			}
			taken.Add(1)
			if !first {
				return // took the request and says nothing
			}
			io.WriteString(conn, okHead+"Content-Length: 0\r\n\r\n")
		}
	})
	c := testClient(t, url, func(w *webhooks.Webhook) {
		w.Request.Headers = map[string]string{"Idempotency-Key": "k", "X-Idempotency-Key": "k"}
	})
	expect(t, deliver(t, c), Acked, 200, "")
	expect(t, deliver(t, c), Failed, 0, CodeConnectionReset)
	if n := taken.Load(); n != 2 {
		t.Errorf("the receiver took %d requests, want 2", n)
	}
}

// TestAnEarlyAnswerLeavesTheBufferAlone: when a receiver answers before it has
// read the body, net/http is still reading the message's buffer when the message
// is sent again, or freed. With -race this fails if two of them share it.
func TestAnEarlyAnswerLeavesTheBufferAlone(t *testing.T) {
	url := listen(t, func(conn net.Conn, _ int) {
		in := bufio.NewReader(conn)
		if _, err := in.ReadString('\n'); err != nil {
			return
		}
		io.WriteString(conn, "HTTP/1.1 503 X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		for buf := make([]byte, 8<<10); ; time.Sleep(time.Millisecond) { // as slow as to be overtaken by the next attempt
			if _, err := in.Read(buf); err != nil {
				return
			}
		}
	})
	c := shortBufferClient(t, url)
	b := batchOf(10, 100_000, false)
	defer b.Free()
	for range 5 {
		m := c.Encode("dl_1", "orders", 3, b, 0, b.Len())
		for n := range 2 {
			expect(t, c.Send(t.Context(), m, testAttempt(n+1)), Failed, 503, "http_503")
			checkRecords(t, c.format(), decodeEnvelope(t, m.body(testAttempt(n+2))).Records, b, 0)
		}
		m.Free()
	}
}
