package delivery

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/egress"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testSecret = []byte("0123456789abcdef0123456789abcdef")

// testWebhook is a complete webhook for url; edits change it.
func testWebhook(url string, edits ...func(*webhooks.Webhook)) webhooks.Webhook {
	w := webhooks.Default()
	w.ID, w.URL, w.GroupID = "orders-to-billing", url, "kpush.default.orders-to-billing"
	w.Topics = []string{"orders"}
	w.Request.TimeoutMs = 10_000
	for _, edit := range edits {
		edit(&w)
	}
	return w
}

func testConfig(w webhooks.Webhook) Config {
	return Config{
		Webhook: w, Signer: NewSigner(webhooks.Entry{Webhook: w, Secret: testSecret}), AckURL: "https://gw.example.com/ack", UserAgent: "kpush/test",
		Guard: testGuard(egress.Options{}), LoopMarker: "marker",
	}
}

// testPolicy allows what the receivers of these tests are.
func testPolicy() egress.Policy {
	ports, err := egress.ParsePorts([]string{egress.AnyPort})
	if err != nil {
		panic(err)
	}
	return egress.Policy{AllowHTTP: true, AllowedPorts: ports, AllowedCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
}

func testGuard(o egress.Options) *egress.Guard { return egress.New(testPolicy(), o) }

func testClient(t testing.TB, url string, edits ...func(*webhooks.Webhook)) *Client {
	t.Helper()
	c, err := NewClient(testConfig(testWebhook(url, edits...)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func timeout(d time.Duration) func(*webhooks.Webhook) {
	return func(w *webhooks.Webhook) { w.Request.TimeoutMs = int(d.Milliseconds()) }
}

// testMessage is a delivery of n records with values of size bytes.
func testMessage(t testing.TB, c *Client, n, size int) *Message {
	t.Helper()
	b := batchOf(n, size, false)
	defer b.Free()
	m := c.Encode("dl_3kq9x7w2m5", "orders", 3, b, 0, n)
	t.Cleanup(m.Free)
	return m
}

func testAttempt(n int) Attempt {
	return Attempt{Number: n, Generation: 42, Token: "kat_token", Now: time.Now()}
}

// deliver sends one small delivery once.
func deliver(t testing.TB, c *Client) Result {
	t.Helper()
	return c.Send(t.Context(), testMessage(t, c, 2, 100), testAttempt(1))
}

// received is a request as a receiver saw it.
type received struct {
	proto  string
	header http.Header
	body   []byte
}

// listen accepts connections and gives each to serve, with its number from 0. It
// returns the receiver's URL. When the test ends the connections are closed and
// their serves waited for.
func listen(t testing.TB, serve func(conn net.Conn, n int)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		serving sync.WaitGroup
		mu      sync.Mutex
		conns   = map[net.Conn]bool{} // those being served
	)
	serving.Go(func() {
		for n := 0; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[conn] = true
			mu.Unlock()
			serving.Go(func() {
				serve(conn, n)
				mu.Lock()
				delete(conns, conn) // which is how a thousand leave nothing behind here
				mu.Unlock()
				conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
	return "http://" + l.Addr().String()
}

// trusting returns the certificates of a receiver over TLS, and a dialer that
// trusts them.
func trusting() ([]tls.Certificate, *dialer) {
	srv := httptest.NewTLSServer(nil) // for its certificate
	srv.Close()
	d := newDialer(testGuard(egress.Options{}))
	d.tls.RootCAs = x509.NewCertPool()
	d.tls.RootCAs.AddCert(srv.Certificate())
	return srv.TLS.Certificates, d
}

// listenTLS is listen over TLS. The dialer that it returns beside the URL trusts
// the receiver.
func listenTLS(t testing.TB, serve func(conn net.Conn, n int)) (url string, d *dialer) {
	t.Helper()
	certificates, d := trusting()
	url = listen(t, func(conn net.Conn, n int) {
		serve(tls.Server(conn, &tls.Config{Certificates: certificates}), n)
	})
	return secured(url), d
}

// secured is the URL of a receiver of listen that speaks TLS by itself.
func secured(url string) string { return strings.Replace(url, "http:", "https:", 1) }

// dialingClient is testClient with a dialer of the test's.
func dialingClient(t testing.TB, d *dialer, url string, edits ...func(*webhooks.Webhook)) *Client {
	t.Helper()
	c, err := newClient(testConfig(testWebhook(url, edits...)), d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// answering is a receiver that reads each request whole and answers it with
// text, as it stands.
func answering(t testing.TB, text string) string {
	return listen(t, func(conn net.Conn, _ int) {
		in := bufio.NewReader(conn)
		for {
			if _, err := readRequest(in); err != nil {
				return
			}
			if _, err := io.WriteString(conn, text); err != nil {
				return
			}
		}
	})
}

// readRequest reads one request, body and all.
func readRequest(in *bufio.Reader) (received, error) {
	r, err := http.ReadRequest(in)
	if err != nil {
		return received{}, err
	}
	body, err := io.ReadAll(r.Body)
	return received{proto: r.Proto, header: r.Header, body: body}, err
}

// recordsOf makes a batch of records with the given values, nil for a tombstone.
func recordsOf(values ...[]byte) *records.Batch {
	b := new(records.Batch)
	for i, v := range values {
		b.Append(records.Record{Offset: int64(1200 + i), Timestamp: 1790000000123, TimestampType: records.TimestampCreate}, []byte("key"), v)
	}
	return b
}

// syscallConn shortens the signature of a dialer's control.
type syscallConn = syscall.RawConn

var discardLog = log.New(io.Discard, "", 0)
