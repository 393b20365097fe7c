package groupmanager_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/egress"
)

// front stands before a scene's receiver, on bare connections. While it is well it
// passes all on; while it is sick it does to a connection what a server of net/http
// could not be brought to do.
type front struct {
	address string // host:port

	mu       sync.Mutex
	listener net.Listener // nil: nobody listens
	conns    map[*net.TCPConn]struct{}
	sickness func(conn *net.TCPConn) // nil: well
	turn     int                     // counts sicknesses
	visits   []time.Duration         // how long each connection of this turn was there
	open     int                     // connections now
	most     int                     // connections at once, ever
	serving  sync.WaitGroup
	behind   string // host:port of the receiver
}

func newFront(t *testing.T, host, receiver string) *front {
	t.Helper()
	u, err := url.Parse(receiver)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{address: net.JoinHostPort(host, "0"), conns: map[*net.TCPConn]struct{}{}, behind: u.Host}
	f.listen(t)
	t.Cleanup(func() {
		f.leave()
		f.drop()
		f.serving.Wait()
	})
	return f
}

// listen takes connections, at the same address as before.
func (f *front) listen(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", f.address)
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.listener, f.address = l, l.Addr().String()
	f.mu.Unlock()
	f.serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.serving.Go(func() { f.serve(conn.(*net.TCPConn)) })
		}
	})
}

// leave stops listening: connections are refused.
func (f *front) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listener != nil {
		f.listener.Close()
		f.listener = nil
	}
}

// drop breaks all connections. A close would be the end of a body without a length.
func (f *front) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for conn := range f.conns {
		conn.SetLinger(0)
		conn.Close()
	}
}

// fall makes it sick, or well with nil, for connections from now on.
func (f *front) fall(sickness func(*net.TCPConn)) {
	f.mu.Lock()
	f.sickness, f.visits = sickness, nil
	f.turn++
	f.mu.Unlock()
	f.drop()
}

// seen are the connections that came and went since the sickness began.
func (f *front) seen() []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.visits)
}

func (f *front) serve(conn *net.TCPConn) {
	came := time.Now()
	f.mu.Lock()
	f.conns[conn] = struct{}{}
	sickness, turn := f.sickness, f.turn
	f.open++
	f.most = max(f.most, f.open)
	f.mu.Unlock()
	defer func() {
		conn.Close()
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.conns, conn)
		f.open--
		if turn == f.turn {
			f.visits = append(f.visits, time.Since(came))
		}
	}()
	if sickness != nil {
		sickness(conn)
		return
	}
	behind, err := net.Dial("tcp", f.behind)
	if err != nil {
		return
	}
	defer behind.Close()
	go func() {
		io.Copy(behind, conn)
		behind.Close()
	}()
	io.Copy(conn, behind)
}

// request reads one request whole; false: there was none.
func request(conn net.Conn) bool {
	r, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, r.Body)
	return err == nil
}

// ended waits until the gateway has closed the connection.
func ended(conn net.Conn) { io.Copy(io.Discard, conn) }

// says answers a request with a text, as it stands, and waits for the end.
func says(text string) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		if request(conn) {
			io.WriteString(conn, text)
			ended(conn)
		}
	}
}

// goesOn answers a request with a text and then more for ever, with pauses.
func goesOn(text, more string, pause time.Duration) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		if !request(conn) {
			return
		}
		for _, err := io.WriteString(conn, text); err == nil; _, err = io.WriteString(conn, more) {
			time.Sleep(pause)
		}
	}
}

// reset makes closing a reset.
func reset(conn *net.TCPConn) { conn.SetLinger(0) }

// hostile is a scene whose receiver has a front.
type hostile struct {
	*scene
	front *front
	held  int64 // where the delivery begins that is held
}

const (
	hostileTimeout = 500 * time.Millisecond // of a request
	hostileBackoff = 100 * time.Millisecond // at most
)

// newHostile registers the webhook on one partition; its URL leads to the front.
func newHostile(t *testing.T, change ...func(*webhooks.Webhook)) *hostile {
	t.Helper()
	return guardedHostile(t, nil, "127.0.0.1", change...)
}

// guardedHostile is newHostile with a guard of the test's, and a front at a host.
func guardedHostile(t *testing.T, guard *egress.Guard, host string, change ...func(*webhooks.Webhook)) *hostile {
	t.Helper()
	s := &scene{broker: gatewaytest.NewBroker(t), produced: &gatewaytest.Produced{}}
	s.house = &house{
		id: "replica-1", houses: new(1), brokers: s.broker.Addr(), receiver: gatewaytest.NewReceiver(t, gatewaytest.OK), guard: guard,
	}
	h := &hostile{scene: s, front: newFront(t, host, s.receiver.URL(faultHook))}
	s.kafka = gatewaytest.DialKafka(t, s.brokers)
	s.kafka.CreateTopic(t, faultTopic, 1)
	s.start(t)
	s.webhook(t, faultHook, faultTopic, append([]func(*webhooks.Webhook){earliest, batchOf(10), func(w *webhooks.Webhook) {
		w.URL = "http://" + h.front.address + "/" + faultHook
		w.Request.TimeoutMs = int(hostileTimeout.Milliseconds())
		w.Retry.InitialBackoffMs, w.Retry.MaxBackoffMs = 20, int(hostileBackoff.Milliseconds())
	}}, change...)...)
	s.pinned = 1
	return h
}

// sickness is something a receiver does, and what its attempts come to.
type sickness struct {
	claim string
	code  string
	does  func(*net.TCPConn)

	lasts bool // each attempt takes its whole time
}

// survive lets the receiver be sick for some attempts at a delivery, and then well
// again. As long as it is sick nothing counts as acked and nothing else is sent; no
// attempt takes longer than it may; there is no storm of them; and when it is over,
// what was held comes, as the next attempt.
func (h *hostile) survive(t *testing.T, sicknesses ...sickness) {
	t.Helper()
	for _, s := range sicknesses {
		t.Run(s.claim, func(t *testing.T) {
			h.front.fall(s.does)
			h.hold(t, s.code, 3, func() int { return len(h.front.seen()) })
			if s.lasts {
				h.wholeTime(t)
			}
			h.front.fall(nil)
			h.recovered(t)
		})
	}
	h.caughtUp(t)
}

// wholeTime waits for an attempt that takes its time and a tenth of it at most: a busy
// machine only ever adds, and one that is not bounded would never be in time.
func (h *hostile) wholeTime(t *testing.T) {
	t.Helper()
	gatewaytest.Await(t, patience, func() error {
		visits := h.front.seen()
		if shortest := slices.Min(visits); shortest > hostileTimeout+hostileTimeout/10 || shortest < hostileTimeout*9/10 {
			return fmt.Errorf("the attempts took %v, want %v each", visits, hostileTimeout)
		}
		return nil
	})
}

// hold produces a delivery while the receiver is sick and waits for so many attempts
// at it, of which the last failed with the code.
func (h *hostile) hold(t *testing.T, code string, attempts int, made func() int) {
	t.Helper()
	before, acked, began := h.at(t, 0), h.receiver.Distinct(faultHook), time.Now()
	h.held = before
	h.produce(t, 1, 10)
	gatewaytest.Await(t, patience, func() error {
		row := h.row(t, 0)
		if n := made(); n < attempts || row.LastError == nil || row.LastError.Code != code || row.LastError.At.Before(began) {
			return fmt.Errorf("%d attempts, the last error is %+v; want %d, and %s", n, row.LastError, attempts, code)
		}
		return nil
	})
	// Backoffs double from 20 to 100 ms, with full jitter: 20 attempts a second.
	if n, took := made(), time.Since(began); n > 20+int(60*took.Seconds()) {
		t.Errorf("%d attempts within %v", n, took)
	}
	if got := h.at(t, 0); got != before {
		t.Errorf("committed went from %d to %d, though nothing was acked", before, got)
	}
	if got := h.receiver.Distinct(faultHook); got != acked {
		t.Errorf("the receiver has %d records, had %d", got, acked)
	}
}

// recovered waits until all is delivered, by a later attempt at what was held.
func (h *hostile) recovered(t *testing.T) {
	t.Helper()
	h.house.caughtUp(t, faultHook)
	// What follows may be of another delivery, which went well at once.
	all := h.receiver.Deliveries(faultHook)
	i := slices.IndexFunc(all, func(d gatewaytest.Delivery) bool { return d.First() == h.held })
	if i < 0 || all[i].Attempt < 2 {
		t.Errorf("what begins at %d did not come by a later attempt, of %d deliveries", h.held, len(all))
	}
	if row := h.row(t, 0); row.State != groupmanager.PartitionIdle {
		t.Errorf("the partition is %s afterwards, want it idle", row.State)
	}
}

// filler is a header line of a thousand bytes.
var filler = "X-Header: " + strings.Repeat("a", 988) + "\r\n"
