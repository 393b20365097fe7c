package delivery

import (
	"bufio"
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/egress"
)

func TestDialFailures(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	refused := "http://" + closed.Addr().String()
	for _, test := range []struct {
		claim   string
		url     string
		options egress.Options
		code    string
	}{
		{"nobody listens", refused, egress.Options{}, CodeConnectRefused},
		{"no connection in time", refused, egress.Options{ConnectTimeout: 1}, CodeConnectTimeout},
		{"no such name", "http://receiver.invalid", egress.Options{
			Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
				return nil, errors.New("no name server here")
			}},
		}, CodeDNS},
		{"no socket to be had", refused, egress.Options{
			Control: func(string, string, syscallConn) error { return errors.New("no") },
		}, CodeConnectFailed},
		{"an address that is not allowed", "http://10.0.0.1", egress.Options{}, CodeAddressDenied},
	} {
		t.Run(test.claim, func(t *testing.T) {
			cfg := testConfig(testWebhook(test.url))
			cfg.Guard = testGuard(test.options)
			c, err := NewClient(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			m := testMessage(t, c, 2, 100)
			first := m.body(testAttempt(1))
			for n := range 2 { // the message can be sent again after any failure
				expect(t, c.Send(t.Context(), m, testAttempt(n+1)), Failed, 0, test.code)
			}
			if got := m.body(testAttempt(1)); len(got) != len(first) {
				t.Errorf("the body has %d bytes after failures, had %d", len(got), len(first))
			}
		})
	}
}

func TestTheGuardWorksOnlyWhenAConnectionIsMade(t *testing.T) {
	url := answering(t, okHead+"Content-Length: 0\r\n\r\n")
	var asked []string
	cfg := testConfig(testWebhook(url))
	cfg.Guard = testGuard(egress.Options{Control: func(network, address string, _ syscallConn) error {
		asked = append(asked, network+" http://"+address)
		return nil
	}})
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	expect(t, deliver(t, c), Acked, 200, "")
	expect(t, deliver(t, c), Acked, 200, "")
	if len(asked) != 1 || asked[0] != "tcp4 "+url {
		t.Errorf("asked about %v, want once about %s", asked, url)
	}
}

// TestAnIdleConnectionOutlivesTheDeadlineOfItsLastAttempt: an attempt's deadline
// stays on its connection and passes while that is idle. The look at the socket
// before the next attempt failed by it, so that whoever delivers less often than
// once in a timeout made a new connection for each delivery.
func TestAnIdleConnectionOutlivesTheDeadlineOfItsLastAttempt(t *testing.T) {
	const limit = 500 * time.Millisecond
	var conns atomic.Int32
	serve := func(conn net.Conn, _ int) {
		conns.Add(1)
		for in := bufio.NewReader(conn); ; io.WriteString(conn, okHead+"Content-Length: 0\r\n\r\n") {
			if _, err := readRequest(in); err != nil {
				return
			}
		}
	}
	url, d := listenTLS(t, serve)
	for name, c := range map[string]*Client{
		"http":  testClient(t, listen(t, serve), timeout(limit)),
		"https": dialingClient(t, d, url, timeout(limit)),
	} {
		t.Run(name, func(t *testing.T) {
			conns.Store(0)
			expect(t, deliver(t, c), Acked, 200, "")
			time.Sleep(limit)
			expect(t, deliver(t, c), Acked, 200, "")
			if n := conns.Load(); n != 1 {
				t.Errorf("two deliveries used %d connections, want 1", n)
			}
		})
	}
}

// TestWhatTLSHasReadAheadIsSeen: crypto/tls takes in more of the socket than it
// was asked for. A receiver that wrote a second answer right behind the first had
// it taken for the answer to the next delivery, which nobody had read: acked, and
// lost. What only TLS itself has to know is no reason to give a connection up.
func TestWhatTLSHasReadAheadIsSeen(t *testing.T) {
	const (
		alert, handshake, data = 21, 22, 23 // kinds of records

		answer      = "Content-Length: 0\r\n\r\n"
		closeNotify = "\x01\x00"
		ticket      = "\x04\x00\x00\x12" + "\x00\x00\x0e\x10" + "\x00\x00\x00\x00" + "\x01\x00" + "\x00\x04abcd" + "\x00\x00"
	)
	type record struct {
		kind    byte
		content string
	}
	for _, test := range []struct {
		claim string
		more  []record // behind the first answer
		conns int32
	}{
		{"nothing", nil, 1},
		{"a second answer", []record{{data, okHead + answer}}, 2},
		{"the end, while the socket stays open", []record{{alert, closeNotify}}, 2},
		{"a session ticket", []record{{handshake, ticket}}, 1},
		{"session tickets, and a second answer", []record{{handshake, ticket}, {handshake, ticket}, {data, okHead + answer}}, 2},
	} {
		for _, later := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, later %v", test.claim, later), func(t *testing.T) {
				var conns, requests atomic.Int32
				acked := make(chan struct{})
				certificates, d := trusting()
				url := listen(t, func(conn net.Conn, _ int) {
					conns.Add(1)
					var secrets bytes.Buffer
					in := bufio.NewReader(tls.Server(conn, &tls.Config{
						Certificates: certificates, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, KeyLogWriter: &secrets,
					}))
					var out *recordWriter
					for {
						if _, err := readRequest(in); err != nil {
							return
						}
						if out == nil {
							var err error
							if out, err = newRecordWriter(secrets.String()); err != nil {
								t.Error(err)
								return
							}
						}
						if requests.Add(1) > 1 {
							conn.Write(out.record(data, "HTTP/1.1 503 X\r\n"+answer))
							continue
						}
						text := out.record(data, okHead+answer)
						if later {
							conn.Write(text)
							text = nil
							<-acked
						}
						for _, r := range test.more {
							text = append(text, out.record(r.kind, r.content)...)
						}
						conn.Write(text)
					}
				})
				c := dialingClient(t, d, secured(url))
				expect(t, deliver(t, c), Acked, 200, "")
				close(acked)
				for later && test.more != nil && !c.wires.idle[0].pending() {
					time.Sleep(time.Millisecond)
				}
				expect(t, deliver(t, c), Failed, 503, "http_503")
				if n := conns.Load(); n != test.conns {
					t.Errorf("two deliveries used %d connections, want %d", n, test.conns)
				}
			})
		}
	}
}

// recordWriter makes the records of a server in TLS 1.3 after the handshake, of
// kinds and at times that crypto/tls does not.
type recordWriter struct {
	seal cipher.AEAD
	iv   []byte
	n    uint64 // of the next record
}

// newRecordWriter makes the writer of a connection on which the server has written
// nothing yet, from what the key log says.
func newRecordWriter(log string) (*recordWriter, error) {
	var secret []byte
	for line := range strings.Lines(log) {
		if f := strings.Fields(line); f[0] == "SERVER_TRAFFIC_SECRET_0" {
			secret, _ = hex.DecodeString(f[2])
		}
	}
	if len(secret) != sha256.Size {
		return nil, errors.New("the test speaks TLS_AES_128_GCM_SHA256 alone")
	}
	expand := func(label string, length int) []byte {
		label = "tls13 " + label
		b, _ := hkdf.Expand(sha256.New, secret, string([]byte{0, byte(length), byte(len(label))})+label+"\x00", length)
		return b
	}
	block, err := aes.NewCipher(expand("key", 16))
	if err != nil {
		return nil, err
	}
	seal, err := cipher.NewGCM(block)
	return &recordWriter{seal: seal, iv: expand("iv", 12)}, err
}

func (w *recordWriter) record(kind byte, content string) []byte {
	nonce := bytes.Clone(w.iv)
	binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])^w.n)
	w.n++
	head := []byte{23, 3, 3, 0, byte(len(content) + 1 + w.seal.Overhead())}
	return w.seal.Seal(head, nonce, append([]byte(content), kind), head)
}

// shortBuffer makes a socket take little of a body at once.
func shortBuffer(_, _ string, conn syscallConn) error {
	return conn.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, 32<<10)
	})
}

// shortBufferClient has such sockets.
func shortBufferClient(t *testing.T, url string, edits ...func(*webhooks.Webhook)) *Client {
	t.Helper()
	cfg := testConfig(testWebhook(url, edits...))
	cfg.Guard = testGuard(egress.Options{Control: shortBuffer})
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestA413BeforeTheBodyWasRead: a receiver that will not take so much says so and
// closes at once. The answer has to win over the broken pipe, or the batch would
// never be cut.
func TestA413BeforeTheBodyWasRead(t *testing.T) {
	refuse := func(conn net.Conn) {
		if _, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
			io.WriteString(conn, "HTTP/1.1 413 X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		}
	}
	plain := shortBufferClient(t, listen(t, func(conn net.Conn, _ int) { refuse(conn) }))
	url, d := listenTLS(t, func(conn net.Conn, _ int) { refuse(conn) })
	d.guard = testGuard(egress.Options{Control: shortBuffer})
	over := dialingClient(t, d, url)

	for name, c := range map[string]*Client{"http": plain, "https": over} {
		t.Run(name, func(t *testing.T) {
			m := testMessage(t, c, 10, 100_000)
			for n := range 30 {
				expect(t, c.Send(t.Context(), m, testAttempt(n+1)), TooLarge, 413, "http_413")
			}
		})
	}
}

func tlsClient(t *testing.T, srv *httptest.Server, edits ...func(*webhooks.Webhook)) *Client {
	t.Helper()
	d := newDialer(testGuard(egress.Options{}))
	d.tls.RootCAs = x509.NewCertPool()
	d.tls.RootCAs.AddCert(srv.Certificate())
	c, err := newClient(testConfig(testWebhook(srv.URL, edits...)), d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestAReceiverThatStopsReading: a 413 has to be heard of a receiver that keeps the
// connection, too. No error ends the write then: over TLS it was stuck until it
// timed out, and the batch was sent whole again and again.
func TestAReceiverThatStopsReading(t *testing.T) {
	const long = 30 * time.Second
	after := func(then func(conn net.Conn)) func(net.Conn, int) {
		return func(conn net.Conn, _ int) {
			if _, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
				then(conn)
				<-t.Context().Done()
			}
		}
	}
	late := func(conn net.Conn, _ int) {
		in := bufio.NewReader(conn)
		in.Peek(1) // over TLS: session tickets are sent, which are no answer
		for {
			time.Sleep(2 * patience)
			if _, err := readRequest(in); err != nil {
				return
			}
			io.WriteString(conn, okHead+"Content-Length: 0\r\n\r\n")
		}
	}
	for _, test := range []struct {
		claim   string
		serve   func(net.Conn, int)
		limit   time.Duration // the webhook's
		within  time.Duration // the caller's
		verdict Verdict
		status  int
		code    string
	}{
		{"and answers", after(once("HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n")), long, long, TooLarge, 413, "http_413"},
		{"and answers at length", after(once("HTTP/1.1 413 X\r\nContent-Length: 5\r\n\r\nlarge")), long, long, TooLarge, 413, "http_413"},
		{"and answers with two ends", after(once("HTTP/1.1 413 X\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nlarge")), long, long, Failed, 0, CodeMalformed},
		{"and says no more", after(func(conn net.Conn) { conn.(interface{ CloseWrite() error }).CloseWrite() }), long, long, Failed, 0, CodeConnectionReset},
		{"and says nothing", after(func(net.Conn) {}), 4 * patience, long, Failed, 0, CodeTimeout},
		{"for longer than the caller likes", after(func(net.Conn) {}), long, 2 * patience, Failed, 0, CodeCanceled},
		{"for a while, and takes it all", late, long, long, Acked, 200, ""},
	} {
		plain := listen(t, test.serve)
		over, d := listenTLS(t, test.serve)
		d.guard = testGuard(egress.Options{Control: shortBuffer})
		for name, c := range map[string]*Client{
			"http":  shortBufferClient(t, plain, timeout(test.limit)),
			"https": dialingClient(t, d, over, timeout(test.limit)),
		} {
			t.Run(test.claim+", "+name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), test.within)
				defer cancel()
				m := testMessage(t, c, 10, 300_000)
				for n := range 2 { // over one connection, where it is kept
					expect(t, c.Send(ctx, m, testAttempt(n+1)), test.verdict, test.status, test.code)
				}
			})
		}
	}
}

// TestTLS: a receiver that would rather speak HTTP/2 is spoken to in HTTP/1.1, over
// as many connections as there are senders.
func TestTLS(t *testing.T) {
	const senderCount = 8
	var conns sync.Map
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 {
			t.Errorf("the request came by %s, want HTTP/1.1", r.Proto)
		}
		conns.Store(r.RemoteAddr, true)
		switch body, err := io.ReadAll(r.Body); {
		case err != nil:
			t.Error(err)
		case r.Header.Get("Kpush-Attempt") == "1":
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			decodeEnvelope(t, body)
		}
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	c := tlsClient(t, srv)
	expect(t, deliver(t, c), Failed, 503, "http_503")
	var senders sync.WaitGroup
	for range senderCount {
		senders.Go(func() {
			m := testMessage(t, c, 10, 5000)
			for range 10 {
				expect(t, c.Send(t.Context(), m, testAttempt(1)), Failed, 503, "http_503")
				expect(t, c.Send(t.Context(), m, testAttempt(2)), Acked, 200, "")
			}
		})
	}
	senders.Wait()
	n := 0
	conns.Range(func(any, any) bool { n++; return true })
	if n > senderCount {
		t.Errorf("%d senders used %d connections, want no more", senderCount, n)
	}
}

func TestTLSDeadlineAndReset(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Kpush-Attempt") == "1" {
			panic(http.ErrAbortHandler)
		}
		io.Copy(io.Discard, r.Body) // only then the server notices that we are gone
		<-r.Context().Done()
	}))
	srv.StartTLS()
	defer srv.Close()
	c := tlsClient(t, srv, timeout(300*time.Millisecond))
	m := testMessage(t, c, 10, 100_000)
	for range 3 {
		expect(t, c.Send(t.Context(), m, testAttempt(1)), Failed, 0, CodeConnectionReset)
		expect(t, c.Send(t.Context(), m, testAttempt(2)), Failed, 0, CodeTimeout)
	}
}

func TestTLSFailures(t *testing.T) {
	quiet := func(srv *httptest.Server) *httptest.Server {
		srv.Config.ErrorLog = discardLog
		return srv
	}
	t.Run("a certificate nobody vouches for", func(t *testing.T) {
		srv := quiet(httptest.NewUnstartedServer(nil))
		srv.StartTLS()
		defer srv.Close()
		expect(t, deliver(t, testClient(t, srv.URL)), Failed, 0, CodeTLS)
	})
	t.Run("a version that is too old", func(t *testing.T) {
		srv := quiet(httptest.NewUnstartedServer(nil))
		srv.TLS = &tls.Config{MaxVersion: tls.VersionTLS11}
		srv.StartTLS()
		defer srv.Close()
		expect(t, deliver(t, tlsClient(t, srv)), Failed, 0, CodeTLS)
	})
	t.Run("a client certificate that we do not have", func(t *testing.T) {
		srv := quiet(httptest.NewUnstartedServer(nil))
		srv.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
		srv.StartTLS()
		defer srv.Close()
		expect(t, deliver(t, tlsClient(t, srv)), Failed, 0, CodeTLS)
	})
	t.Run("no TLS at all", func(t *testing.T) {
		url := listen(t, func(conn net.Conn, _ int) { io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n") })
		expect(t, deliver(t, testClient(t, secured(url))), Failed, 0, CodeTLS)
	})
	t.Run("the connection closed within the handshake", func(t *testing.T) {
		url := listen(t, func(net.Conn, int) {})
		expect(t, deliver(t, testClient(t, secured(url))), Failed, 0, CodeTLS)
	})
	t.Run("silence ends the handshake", func(t *testing.T) {
		url := listen(t, func(conn net.Conn, _ int) { hang(conn) })
		d := newDialer(testGuard(egress.Options{}))
		d.handshake = 100 * time.Millisecond
		c, err := newClient(testConfig(testWebhook(secured(url))), d)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		expect(t, deliver(t, c), Failed, 0, CodeTLS)
	})
	t.Run("silence ends at the request's deadline", func(t *testing.T) {
		url := listen(t, func(conn net.Conn, _ int) { hang(conn) })
		c := testClient(t, secured(url), timeout(200*time.Millisecond))
		expect(t, deliver(t, c), Failed, 0, CodeTimeout)
	})
}

// slowlyClosed is a connection over TLS whose receiver does not take the good-bye.
type slowlyClosed struct {
	net.Conn
	closing, closed chan struct{}
}

func (c *slowlyClosed) Close() error {
	close(c.closing)
	<-c.closed
	return nil
}

// Nobody waits for a connection that is being closed, which may take as long as the
// receiver likes.
func TestAConnectionThatIsBeingClosedHoldsNobodyUp(t *testing.T) {
	for claim, end := range map[string]func(*wires){
		"dropped":       (*wires).drop,
		"closed":        (*wires).close,
		"idle too long": func(p *wires) { p.idle[0].idle = time.Now().Add(-idleTimeout); p.sweepIdle() },
		"too many": func(p *wires) {
			w := p.idle[0]
			p.idle = make([]*wire, maxIdle)
			p.put(w)
		},
	} {
		t.Run(claim, func(t *testing.T) {
			conn := &slowlyClosed{closing: make(chan struct{}), closed: make(chan struct{})}
			p := new(wires)
			p.put(&wire{conn: conn, answered: true})
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				end(p)
			}()
			<-conn.closing
			p.age() // as whoever begins an attempt does
			close(conn.closed)
			<-ended
			p.idle = nil
			p.close() // and with it the timer
		})
	}
}
