package delivery

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
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
)

func TestProxiesOfTheEnvironmentAreIgnored(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("ALL_PROXY", "http://127.0.0.1:1")
	url := "http://receiver.invalid" // a proxy would be asked for it: net/http exempts loopback
	expect(t, deliver(t, testClient(t, url)), Failed, 0, CodeDNS)
}

func TestDialFailures(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	refused := "http://" + closed.Addr().String()
	for _, test := range []struct {
		claim string
		url   string
		edit  func(*dialer)
		code  string
	}{
		{"nobody listens", refused, func(*dialer) {}, CodeConnectRefused},
		{"no connection in time", refused, func(d *dialer) { d.tcp.Timeout = 1 }, CodeConnectTimeout},
		{"no such name", "http://receiver.invalid", func(d *dialer) {
			d.tcp.Resolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
				return nil, errors.New("no name server here")
			}}
		}, CodeDNS},
		{"the address is refused", refused, func(d *dialer) {
			d.tcp.Control = newDialer(func(string, string, syscallConn) error { return errors.New("refused") }).tcp.Control
		}, CodeConnectFailed},
	} {
		t.Run(test.claim, func(t *testing.T) {
			d := newDialer(nil)
			test.edit(d)
			c, err := newClient(testConfig(testWebhook(test.url)), d)
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

func TestControlSeesEachAddressBeforeItIsDialled(t *testing.T) {
	url := answering(t, okHead+"Content-Length: 0\r\n\r\n")
	var asked []string
	cfg := testConfig(testWebhook(url))
	cfg.Control = func(network, address string, _ syscallConn) error {
		asked = append(asked, network+" http://"+address)
		return nil
	}
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
	cfg.Control = shortBuffer
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
	d.tcp.Control = shortBuffer
	secured := dialingClient(t, d, url)

	for name, c := range map[string]*Client{"http": plain, "https": secured} {
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
	d := newDialer(nil)
	d.tls.RootCAs = x509.NewCertPool()
	d.tls.RootCAs.AddCert(srv.Certificate())
	c, err := newClient(testConfig(testWebhook(srv.URL, edits...)), d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
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
		expect(t, deliver(t, testClient(t, strings.Replace(url, "http:", "https:", 1))), Failed, 0, CodeTLS)
	})
	t.Run("the connection closed within the handshake", func(t *testing.T) {
		url := listen(t, func(net.Conn, int) {})
		expect(t, deliver(t, testClient(t, strings.Replace(url, "http:", "https:", 1))), Failed, 0, CodeTLS)
	})
	t.Run("silence ends the handshake", func(t *testing.T) {
		url := listen(t, func(conn net.Conn, _ int) { hang(conn) })
		d := newDialer(nil)
		d.handshake = 100 * time.Millisecond
		c, err := newClient(testConfig(testWebhook(strings.Replace(url, "http:", "https:", 1))), d)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		expect(t, deliver(t, c), Failed, 0, CodeTLS)
	})
	t.Run("silence ends at the request's deadline", func(t *testing.T) {
		url := listen(t, func(conn net.Conn, _ int) { hang(conn) })
		c := testClient(t, strings.Replace(url, "http:", "https:", 1), timeout(200*time.Millisecond))
		expect(t, deliver(t, c), Failed, 0, CodeTimeout)
	})
}
