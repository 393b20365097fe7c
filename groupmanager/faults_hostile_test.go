package groupmanager_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
	"github.com/kpush/kpush/webhooks/egress"
)

// The rows of the table of faults about receivers, H2 to H13. What each sickness
// comes to in an attempt is tested in webhooks/delivery; here it is seen what becomes of the
// records: none is taken for delivered, and all come in the end.

const okLine = "HTTP/1.1 200 OK\r\n"

// TestH2_RetryAfter: each partition's first attempt is answered with another wish.
// What makes sense is waited for, cut at max_backoff_ms; the rest is ignored. With a 429
// it holds the whole webhook, so that the longest may hold up all of them.
func TestH2_RetryAfter(t *testing.T) {
	t.Parallel()
	const longest = 3 * time.Second
	wishes := []struct {
		status int
		text   string
		least  time.Duration
	}{
		{503, "1", time.Second},
		{429, "2", 2 * time.Second},
		{503, "1000000000", longest},
		{429, time.Now().Add(time.Hour).UTC().Format(http.TimeFormat), longest},
		{503, "0", 0},
		{503, "-7", 0},
		{429, "soon", 0},
		{503, strings.Repeat("9", 5000), 0},
		{503, time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat), 0},
		{503, "", 0},
		{400, "2", 0}, // not an answer that may say so
	}
	var (
		mu      sync.Mutex
		refused = map[int32]time.Time{}
		waited  = map[int32]time.Duration{}
	)
	s := newScene(t, int32(len(wishes)), func(d *gatewaytest.Delivery) gatewaytest.Answer {
		mu.Lock()
		defer mu.Unlock()
		p := d.Partition.ID
		if at, again := refused[p]; again {
			waited[p] = time.Since(at)
			return gatewaytest.Answer{}
		}
		refused[p] = time.Now()
		return gatewaytest.Answer{Status: wishes[p].status, Headers: map[string]string{"Retry-After": wishes[p].text}}
	}, nil)
	e, err := s.Get("default", faultHook)
	if err != nil {
		t.Fatal(err)
	}
	w := e.Webhook.Clone()
	w.Retry.InitialBackoffMs, w.Retry.MaxBackoffMs = 1, int(longest.Milliseconds())
	if _, _, err := s.Put(t.Context(), w, nil); err != nil {
		t.Fatal(err)
	}
	s.produce(t, int32(len(wishes)), len(wishes))
	s.caughtUp(t)
	for p, wish := range wishes {
		// The receiver sees the answer leave before the gateway reads it; a busy machine adds.
		if got := waited[int32(p)]; got < wish.least || got > longest*11/10+2*time.Second {
			t.Errorf("%d with Retry-After %.40q: the next attempt came after %v, want %v to %v", wish.status, wish.text, got, wish.least, longest)
		}
	}
}

func TestH3_ReceiversThatDoNotAnswer(t *testing.T) {
	t.Parallel()
	h := newHostile(t)
	stop := make(chan struct{})
	defer close(stop)
	h.survive(t,
		sickness{"it reads and never answers", delivery.CodeTimeout, says(""), true},
		sickness{"it reads the head and never more", delivery.CodeTimeout, func(conn *net.TCPConn) {
			one := make([]byte, 1)
			conn.Read(one)
			ended(conn)
		}, true},
	)
	// One that reads nothing cannot see the end of an attempt: that the next one comes
	// shows that its place was free again.
	var visits atomic.Int64
	h.front.fall(func(*net.TCPConn) {
		visits.Add(1)
		select {
		case <-stop:
		case <-time.After(patience):
		}
	})
	began := time.Now()
	h.hold(t, delivery.CodeTimeout, 3, func() int { return int(visits.Load()) })
	if took := time.Since(began); took < 2*hostileTimeout {
		t.Errorf("the third attempt came after %v, want two whole ones before it", took)
	}
	h.front.fall(nil)
	h.recovered(t)
	h.caughtUp(t)
}

func TestH4_AnswersThatTrickle(t *testing.T) {
	t.Parallel()
	h := newHostile(t)
	h.survive(t,
		sickness{"the status", delivery.CodeTimeout, goesOn("", "H", 20*time.Millisecond), true},
		sickness{"the headers", delivery.CodeTimeout, goesOn(okLine+"X-A: ", "a", 20*time.Millisecond), true},
		sickness{"the body", delivery.CodeTimeout, goesOn(okLine+"Content-Length: 60000\r\n\r\n", "a", 20*time.Millisecond), true},
		sickness{"a body without a length", delivery.CodeTimeout, goesOn(okLine+"\r\n", "a", 20*time.Millisecond), true},
	)
}

func TestH5_ConnectionsThatBreak(t *testing.T) {
	t.Parallel()
	h := newHostile(t)
	h.survive(t,
		sickness{"a reset before the body", delivery.CodeConnectionReset, reset, false},
		sickness{"a reset within the body", delivery.CodeConnectionReset, func(conn *net.TCPConn) {
			reset(conn)
			http.ReadRequest(bufio.NewReaderSize(conn, 16))
		}, false},
		sickness{"a reset after the body", delivery.CodeConnectionReset, func(conn *net.TCPConn) {
			request(conn)
			reset(conn)
		}, false},
		sickness{"the end before a response", delivery.CodeConnectionReset, func(conn *net.TCPConn) { request(conn) }, false},
		sickness{"half of the end before a response", delivery.CodeConnectionReset, func(conn *net.TCPConn) {
			request(conn)
			conn.CloseWrite()
			ended(conn)
		}, false},
		sickness{"half of the end before the request", delivery.CodeConnectionReset, func(conn *net.TCPConn) {
			conn.CloseWrite()
			ended(conn)
		}, false},
	)
}

func TestH6_ASuccessThatBreaksOff(t *testing.T) {
	t.Parallel()
	h := newHostile(t)
	breaksOff := func(text string) func(*net.TCPConn) {
		return func(conn *net.TCPConn) {
			if request(conn) {
				io.WriteString(conn, text)
				reset(conn)
			}
		}
	}
	h.survive(t,
		sickness{"within the status line", delivery.CodeConnectionReset, breaksOff("HTTP/1.1 200"), false},
		sickness{"after the status line", delivery.CodeConnectionReset, breaksOff(okLine), false},
		sickness{"within the headers", delivery.CodeConnectionReset, breaksOff(okLine + "Content-Length: 0\r\n"), false},
		sickness{"by an end, not a reset", delivery.CodeConnectionReset, func(conn *net.TCPConn) {
			if request(conn) {
				io.WriteString(conn, okLine+"Content-Length: 0\r\n")
			}
		}, false},
		sickness{"within the body", delivery.CodeTruncated, func(conn *net.TCPConn) {
			if request(conn) {
				io.WriteString(conn, okLine+"Content-Length: 10\r\n\r\nshort")
			}
		}, false},
		sickness{"within a chunk", delivery.CodeTruncated, func(conn *net.TCPConn) {
			if request(conn) {
				io.WriteString(conn, okLine+"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
			}
		}, false},
	)
}

// TestH7_AnswersWithoutEnd: what is read of them is bounded, and the connection is
// closed. A success whose body has no end is one all the same (contract, 4).
func TestH7_AnswersWithoutEnd(t *testing.T) {
	t.Parallel()
	h := newHostile(t)
	chunk := "10000\r\n" + strings.Repeat("a", 1<<16) + "\r\n"
	h.survive(t,
		sickness{"a failure in chunks", "http_500", goesOn("HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n", chunk, 0), false},
		sickness{"a failure of 10 GB", "http_500", goesOn("HTTP/1.1 500 X\r\nContent-Length: 10000000000\r\n\r\n", chunk, 0), false},
		sickness{"JSON", delivery.CodeTooLarge, goesOn(okLine+"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", chunk, 0), false},
		sickness{"headers of 10 MB", delivery.CodeMalformed, says(okLine + strings.Repeat(filler, 10_000) + "Content-Length: 0\r\n\r\n"), false},
		sickness{"headers", delivery.CodeMalformed, goesOn(okLine, filler, 0), false},
		sickness{"informational answers", delivery.CodeMalformed, goesOn("", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 100), 0), false},
		sickness{"another protocol", delivery.CodeRedirect, says("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"), false},
	)
	var written, visits atomic.Int64
	h.front.fall(func(conn *net.TCPConn) {
		if !request(conn) {
			return
		}
		visits.Add(1)
		for n, err := io.WriteString(conn, okLine+"Transfer-Encoding: chunked\r\n\r\n"); err == nil; n, err = io.WriteString(conn, chunk) {
			written.Add(int64(n))
		}
	})
	before := h.at(t, 0)
	h.kafka.ProduceLoad(t, h.produced, gatewaytest.Load{Topic: faultTopic, Partitions: 1, Records: 10, Size: 20})
	h.house.caughtUp(t, faultHook)
	gatewaytest.Await(t, patience, func() error {
		if open := h.front.openNow(); open > 0 {
			return fmt.Errorf("%d connections are open", open)
		}
		return nil
	})
	// Besides 64 KiB it is what fits into the sockets' buffers.
	if n, v := written.Load(), visits.Load(); v == 0 || n/v > 16<<20 {
		t.Errorf("%d bytes of %d answers were taken, want little more than 64 KiB of each", n, v)
	}
	if got := h.at(t, 0); got <= before {
		t.Errorf("committed is %d, was %d: want the success to count", got, before)
	}
}

func (f *front) openNow() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

func TestH8_Redirects(t *testing.T) {
	t.Parallel()
	var dialled sync.Map
	guard := egress.New(receivers(t), egress.Options{Control: func(_, address string, _ syscall.RawConn) error {
		dialled.Store(address, true)
		return nil
	}})
	h := guardedHostile(t, guard, "127.0.0.1")
	elsewhere := newFront(t, "127.0.0.1", h.receiver.URL(faultHook))
	var all []sickness
	for _, status := range []int{301, 302, 303, 307, 308} {
		for name, location := range map[string]string{
			"elsewhere": "http://" + elsewhere.address + "/" + faultHook, "in a loop": "http://" + h.front.address + "/" + faultHook, "inside": "http://169.254.169.254/",
		} {
			all = append(all, sickness{fmt.Sprint(status, " ", name), delivery.CodeRedirect, func(conn *net.TCPConn) {
				if request(conn) {
					fmt.Fprintf(conn, "HTTP/1.1 %d X\r\nLocation: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status, location)
				}
			}, false})
		}
	}
	h.survive(t, all...)
	dialled.Range(func(address, _ any) bool {
		if address != h.front.address {
			t.Errorf("%v was dialled", address)
		}
		return true
	})
}

// certificateOf is a certificate for this machine that signed itself, with its key;
// change edits it.
func certificateOf(t *testing.T, change func(*x509.Certificate)) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a receiver"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	change(c)
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(text)
}

// TestH9_TLS: all that can be wrong with a certificate is one word, and no storm.
func TestH9_TLS(t *testing.T) {
	t.Parallel()
	good, goodCA := certificateOf(t, func(*x509.Certificate) {})
	expired, expiredCA := certificateOf(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	other, otherCA := certificateOf(t, func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"example.com"} })
	unknown, _ := certificateOf(t, func(*x509.Certificate) {})
	h := newHostile(t, func(w *webhooks.Webhook) {
		w.URL = strings.Replace(w.URL, "http:", "https:", 1)
		w.Request.TimeoutMs = 20_000
		w.TLS.CA = new(goodCA + expiredCA + otherCA)
	})
	// A visit ends with its handshake or, while the receiver is well, goes on to it.
	with := func(config *tls.Config, then func(conn net.Conn)) func(*net.TCPConn) {
		return func(plain *net.TCPConn) {
			if conn := tls.Server(plain, config); conn.Handshake() == nil {
				then(conn)
			}
		}
	}
	through := with(&tls.Config{Certificates: []tls.Certificate{good}}, h.front.passOn)
	for _, s := range []sickness{
		{"expired", delivery.CodeTLS, with(&tls.Config{Certificates: []tls.Certificate{expired}}, ended), false},
		{"of another name", delivery.CodeTLS, with(&tls.Config{Certificates: []tls.Certificate{other}}, ended), false},
		{"of nobody we know", delivery.CodeTLS, with(&tls.Config{Certificates: []tls.Certificate{unknown}}, ended), false},
		{"it wants one of ours", delivery.CodeTLS, with(&tls.Config{Certificates: []tls.Certificate{good}, ClientAuth: tls.RequireAnyClientCert}, ended), false},
		{"no TLS at all", delivery.CodeTLS, func(conn *net.TCPConn) { io.WriteString(conn, okLine+"\r\n"); ended(conn) }, false},
		{"a handshake that hangs", delivery.CodeTLS, func(conn *net.TCPConn) { ended(conn) }, true},
	} {
		t.Run(s.claim, func(t *testing.T) {
			h.front.fall(s.does)
			attempts := 3
			if s.lasts {
				attempts = 1 // of 5 s
			}
			h.hold(t, s.code, attempts, func() int { return len(h.front.seen()) })
			h.front.fall(through)
			h.recovered(t)
		})
	}
	h.caughtUp(t)
}

// passOn is what a front does while it is well.
func (f *front) passOn(conn net.Conn) {
	behind, err := net.Dial("tcp", f.behind)
	if err != nil {
		return
	}
	defer behind.Close()
	f.serving.Go(func() {
		io.Copy(behind, conn)
		behind.Close()
	})
	io.Copy(conn, behind)
}

// names is a name server that answers as it is told.
type names struct {
	answer atomic.Pointer[func(context.Context) ([]netip.Addr, error)]
	asked  atomic.Int64
}

func (n *names) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	n.asked.Add(1)
	return (*n.answer.Load())(ctx)
}

func (n *names) tell(addresses ...string) {
	n.set(func(context.Context) ([]netip.Addr, error) {
		var all []netip.Addr
		for _, a := range addresses {
			all = append(all, netip.MustParseAddr(a))
		}
		return all, nil
	})
}

func (n *names) set(answer func(context.Context) ([]netip.Addr, error)) { n.answer.Store(&answer) }

// TestH10_Names: a name that is not found, or not in time, or that turns to where
// nothing may be sent, which is judged by the address that would be dialled.
func TestH10_Names(t *testing.T) {
	t.Parallel()
	const host = "127.0.0.2" // the one address that is allowed
	var dialled sync.Map
	policy := receivers(t)
	policy.AllowedCIDRs = []netip.Prefix{netip.MustParsePrefix(host + "/32")}
	n := &names{}
	guard := egress.New(policy, egress.Options{Resolver: n, LookupTimeout: 200 * time.Millisecond, Control: func(_, address string, _ syscall.RawConn) error {
		dialled.Store(address, true)
		return nil
	}})
	h := guardedHostile(t, guard, host, func(w *webhooks.Webhook) { w.URL = strings.Replace(w.URL, host, "receiver.example.com", 1) })
	inside := newFront(t, "127.0.0.1", h.receiver.URL(faultHook))
	for _, test := range []struct {
		claim, code string
		answer      func()
	}{
		{"no such name", delivery.CodeDNS, func() {
			n.set(func(context.Context) ([]netip.Addr, error) {
				return nil, &net.DNSError{Err: "no such host", Name: "receiver.example.com", IsNotFound: true}
			})
		}},
		{"an answer after 10 s", delivery.CodeDNS, func() {
			n.set(func(ctx context.Context) ([]netip.Addr, error) {
				select {
				case <-ctx.Done():
					return nil, &net.DNSError{Err: ctx.Err().Error(), IsTimeout: true}
				case <-time.After(10 * time.Second):
					return []netip.Addr{netip.MustParseAddr(host)}, nil
				}
			})
		}},
		{"loopback", delivery.CodeAddressDenied, func() { n.tell("127.0.0.1") }},
		{"loopback beside a good one", delivery.CodeAddressDenied, func() { n.tell(host, "127.0.0.1") }},
		{"link-local", delivery.CodeAddressDenied, func() { n.tell("169.254.169.254") }},
		{"loopback as IPv6", delivery.CodeAddressDenied, func() { n.tell("::ffff:127.0.0.1") }},
		{"the other loopback", delivery.CodeAddressDenied, func() { n.tell("::1") }},
	} {
		t.Run(test.claim, func(t *testing.T) {
			test.answer()
			before := n.asked.Load()
			h.front.drop()
			h.hold(t, test.code, 3, func() int { return int(n.asked.Load() - before) })
			n.tell(host)
			h.recovered(t)
		})
	}
	h.caughtUp(t)
	dialled.Range(func(address, _ any) bool {
		if address != h.front.address {
			t.Errorf("%v was dialled, want %s alone", address, h.front.address)
		}
		return true
	})
	if inside.mostAtOnce() > 0 {
		t.Error("something inside was reached")
	}
}

func (f *front) mostAtOnce() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.most
}

// TestH11_NoConnection: nobody listens, nobody accepts, or there is no socket or port
// to be had on our side. And a receiver that hangs has no more connections than the
// webhook may have deliveries under way.
func TestH11_NoConnection(t *testing.T) {
	t.Parallel()
	var (
		attempts atomic.Int64
		shortage atomic.Pointer[error]
	)
	guard := egress.New(receivers(t), egress.Options{ConnectTimeout: 200 * time.Millisecond, Control: func(string, string, syscall.RawConn) error {
		attempts.Add(1)
		if err := shortage.Load(); err != nil {
			return *err
		}
		return nil
	}})
	const atOnce = 8
	h := guardedHostile(t, guard, "127.0.0.1", func(w *webhooks.Webhook) {
		w.Ordering, w.MaxInFlight, w.Batch.MaxRecords = webhooks.OrderingNone, atOnce, 10
	})
	made := func() func() int {
		before := attempts.Load()
		return func() int { return int(attempts.Load() - before) }
	}
	t.Run("refused", func(t *testing.T) {
		h.front.leave()
		h.front.drop()
		h.hold(t, delivery.CodeConnectRefused, 3, made())
		h.front.listen(t)
		h.recovered(t)
	})
	t.Run("a queue that is full", func(t *testing.T) {
		h.front.leave()
		h.front.drop()
		free := fullQueue(t, h.front.address)
		h.hold(t, delivery.CodeConnectTimeout, 3, made())
		free()
		h.front.listen(t)
		h.recovered(t)
	})
	for claim, err := range map[string]error{"no port": syscall.EADDRNOTAVAIL, "no file": syscall.EMFILE, "no memory": syscall.ENOBUFS} {
		t.Run(claim, func(t *testing.T) {
			h.front.drop()
			err := os.NewSyscallError("socket", err)
			shortage.Store(&err)
			h.hold(t, delivery.CodeConnectFailed, 3, made())
			shortage.Store(nil)
			h.recovered(t)
		})
	}
	t.Run("many that hang", func(t *testing.T) {
		h.front.fall(func(conn *net.TCPConn) { ended(conn) })
		h.kafka.ProduceLoad(t, h.produced, gatewaytest.Load{Topic: faultTopic, Partitions: 1, Records: 50 * 10, Size: 20})
		gatewaytest.Await(t, patience, func() error {
			if n := len(h.front.seen()); n < 3*atOnce {
				return fmt.Errorf("%d attempts, want some rounds of them", n)
			}
			return nil
		})
		// The receiver sees a connection go a moment after the gateway has closed it.
		if most := h.front.mostAtOnce(); most > 2*atOnce {
			t.Errorf("%d connections at once, want no more than %d deliveries need", most, atOnce)
		}
		h.front.fall(nil)
		h.house.caughtUp(t, faultHook)
	})
	h.broker.CheckCommits(t, faultGroup, h.pinned)
	if got, want := h.receiver.Distinct(faultHook), h.produced.Len(); got != want {
		t.Errorf("%d records arrived, want all %d", got, want)
	}
}

// fullQueue listens at an address and accepts nothing, with as many waiting as it takes
// for the kernel to drop the next, until free.
func fullQueue(t *testing.T, address string) (free func()) {
	t.Helper()
	_, text, _ := net.SplitHostPort(address)
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var waiting []net.Conn
	free = sync.OnceFunc(func() {
		for _, conn := range waiting {
			conn.Close()
		}
		syscall.Close(fd)
	})
	t.Cleanup(free)
	if err := errors.Join(syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1),
		syscall.Bind(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err != nil {
			return free
		}
		waiting = append(waiting, conn)
	}
	t.Skip("this kernel takes connections that nobody accepts")
	return nil
}

// TestH12_AConnectionClosedAsWeWrite: the receiver answers, and closes the connection
// that the next delivery is about to use. What was not written goes out on another by
// the same attempt; what was is the next attempt's. So no attempt arrives twice, and
// what comes again says so.
func TestH12_AConnectionClosedAsWeWrite(t *testing.T) {
	t.Parallel()
	h := newHostile(t, batchOf(1))
	type attempt struct{ id, number string }
	var (
		mu    sync.Mutex
		whole = map[attempt]int{}
		conns int
	)
	h.front.fall(func(conn *net.TCPConn) {
		mu.Lock()
		conns++
		abrupt := conns%3 == 0
		mu.Unlock()
		in := bufio.NewReader(conn)
		for n := 0; ; n++ {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			mu.Lock()
			whole[attempt{r.Header.Get("Webhook-Id"), r.Header.Get("Kpush-Attempt")}]++
			mu.Unlock()
			if n == 1 && abrupt { // it was taken, and nobody but us knows
				reset(conn)
				return
			}
			io.WriteString(conn, okLine+"Content-Length: 0\r\n\r\n")
			if !abrupt {
				return // without a word of it
			}
		}
	})
	const records = 300
	h.kafka.ProduceLoad(t, h.produced, gatewaytest.Load{Topic: faultTopic, Partitions: 1, Records: records, Size: 20})
	h.house.caughtUp(t, faultHook)
	mu.Lock()
	defer mu.Unlock()
	ids, again := map[string]bool{}, 0
	for a, n := range whole {
		ids[a.id] = true
		if n > 1 {
			t.Errorf("attempt %s of %s arrived whole %d times", a.number, a.id, n)
		}
		if a.number != "1" {
			again++
		}
	}
	if len(ids) != records {
		t.Errorf("%d deliveries arrived whole, want %d", len(ids), records)
	}
	t.Logf("%d connections for %d deliveries, %d of them arrived as a later attempt", conns, records, again)
	if again == 0 {
		t.Error("no delivery came by a second attempt: the connections were not closed in the moment that this is about")
	}
	h.broker.CheckCommits(t, faultGroup, h.pinned)
}

// TestH13_HTTP2: we speak HTTP/1.1 alone and never agree to another protocol
// (TestT13_HTTP2IsNotSpoken in webhooks/delivery), so that streams, windows and
// their resets do not exist for us. What a receiver sends of them is an answer that is
// none, or no answer, as in H3 and H5.
func TestH13_HTTP2(t *testing.T) {
	t.Parallel()
	h := newHostile(t)
	frame := func(kind byte, payload int) string {
		return string([]byte{0, 0, byte(payload), kind, 0, 0, 0, 0, 0}) + strings.Repeat("\x00", payload)
	}
	h.survive(t,
		sickness{"SETTINGS with one stream at most", delivery.CodeMalformed, says("\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x01\r\n\r\n"), false},
		sickness{"a flood of SETTINGS", delivery.CodeMalformed, goesOn("", strings.Repeat(frame(4, 0), 1000), 0), false},
		sickness{"a flood of RST_STREAM", delivery.CodeMalformed, goesOn("", strings.Repeat(frame(3, 4), 1000), 0), false},
		sickness{"a flood of PING", delivery.CodeMalformed, goesOn("", strings.Repeat(frame(6, 8), 1000), 0), false},
		sickness{"GOAWAY in the midst of an answer", delivery.CodeMalformed, goesOn(okLine+"X-A: ", strings.Repeat(frame(7, 8), 1000), 0), false},
		sickness{"GOAWAY and the end", delivery.CodeMalformed, func(conn *net.TCPConn) {
			if request(conn) {
				io.WriteString(conn, frame(7, 8))
			}
		}, false},
		sickness{"the preface of a client", delivery.CodeMalformed, says("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), false},
		sickness{"no window is ever granted", delivery.CodeTimeout, says(frame(4, 0)), true},
	)
}
