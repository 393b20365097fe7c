package delivery

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	idleTimeout = 90 * time.Second // of a connection that is kept for the next attempt

	// maxIdle connections are kept open, more than a process has deliveries in
	// flight to one receiver, so that none of them reconnects.
	maxIdle = 1024

	// maxAnswerHeader bounds what is read before the body, informational answers
	// included.
	maxAnswerHeader = 64 << 10

	// maxHeard is the longest copy of a head whose memory is kept for the next one.
	maxHeard = 4 << 10

	// lastWords is how long an answer is waited for on a connection that takes no
	// more of the request.
	lastWords = 500 * time.Millisecond

	// oneWrite is the size up to which a body is put behind its head, so that both
	// go out in one write.
	oneWrite = 16 << 10

	// patience is how long a write may be stuck before we look whether the receiver
	// has answered instead of reading on. Requests up to promptSize are taken by
	// the socket's buffer and are not looked after that way.
	patience   = 250 * time.Millisecond
	promptSize = 64 << 10

	// glance is how long TLS may take for what an idle connection has on its socket.
	glance = 10 * time.Millisecond
)

// past is a deadline that makes whoever waits on a connection fail at once.
var past = time.Unix(1, 0)

var (
	errAnswerHeader = errors.New("the answer's headers are too long")
	errAnswered     = errors.New("the receiver answered before it had taken the request")
)

// wire is one HTTP/1.1 connection to a receiver. One attempt at a time owns it.
//
// It is our own because it is the path of a record: net/http runs two goroutines
// for each connection, sorts and copies every header, and may still hold the
// request when it has returned. Here the sender writes and reads by itself.
type wire struct {
	conn     net.Conn // TCP, or TLS over it
	tcp      *net.TCPConn
	in       capped
	r        *bufio.Reader
	idle     time.Time // since when nobody owns it
	answered bool      // the request sent last was written whole, and answered
	under    *gathered // between conn and tcp; nil without TLS
	age      int       // that of the wires when it was dialled
}

func newWire(conn net.Conn, tcp *net.TCPConn) *wire {
	w := &wire{conn: conn, tcp: tcp, in: capped{r: conn}}
	w.r = bufio.NewReaderSize(&w.in, 4<<10)
	return w
}

// capped lets so many bytes through and then fails. Of an answer's head it keeps a
// copy, since what net/http makes of one does not tell all that was in it.
type capped struct {
	r     io.Reader
	left  int64
	copy  bool
	heard []byte
}

func (c *capped) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errAnswerHeader
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if c.copy {
		c.heard = append(c.heard, p[:n]...)
	}
	return n, err
}

// hear begins a head's copy with what was read of it before, and hush ends it. One
// that had to be large is not kept.
func (c *capped) hear(before []byte) {
	c.left, c.copy, c.heard = maxAnswerHeader, true, append(c.heard[:0], before...)
}

func (c *capped) hush() {
	c.left, c.copy = math.MaxInt64, false // who reads the body has a bound of its own
	if cap(c.heard) > maxHeard {
		c.heard = nil
	}
}

// send writes a request. written is false when an error came before the
// connection had taken any byte. errAnswered: the rest was not written because an
// answer is there. The body is put behind the head where there is room for it.
func (w *wire) send(ctx context.Context, head, body []byte, deadline time.Time) (written bool, err error) {
	if len(head)+len(body) <= cap(head) {
		n, err := w.conn.Write(append(head, body...))
		return n > 0, err
	}
	if w.secure() {
		err := w.sendSecure(ctx, head, body, deadline)
		return w.under.sent, err
	}
	rest := net.Buffers{head, body}
	for prompt := len(body) <= promptSize; ; {
		if until := time.Now().Add(patience); !prompt && until.Before(deadline) {
			_ = w.tcp.SetWriteDeadline(until)
		} else {
			_ = w.tcp.SetWriteDeadline(deadline)
		}
		if err := ctx.Err(); err != nil { // it may have ended before the deadline was set anew
			return written, err
		}
		n, err := rest.WriteTo(w.tcp)
		written = written || n > 0
		switch {
		case err == nil:
			return true, nil
		case !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil || !time.Now().Before(deadline):
			return written, err
		case w.pending():
			return true, errAnswered
		}
	}
}

// sendSecure writes a request over TLS, which cannot go on after a write that was cut
// short to look for an answer. So when our patience is over somebody listens beside
// the write, and has stopped when sendSecure returns.
func (w *wire) sendSecure(ctx context.Context, head, body []byte, deadline time.Time) error {
	if len(body) <= promptSize {
		return w.writeSecure(head, body)
	}
	answered, stopped := false, make(chan struct{})
	w.in.left = maxAnswerHeader
	listening := time.AfterFunc(patience, func() {
		defer close(stopped)
		_, err := w.r.Peek(1)
		if answered = !errors.Is(err, os.ErrDeadlineExceeded); answered {
			_ = w.conn.SetWriteDeadline(past)
		}
	})
	err := w.writeSecure(head, body)
	if listening.Stop() {
		return err
	}
	_ = w.conn.SetReadDeadline(past)
	<-stopped
	_ = w.conn.SetDeadline(deadline)
	switch {
	case ctx.Err() != nil: // it may have ended before the deadline was set anew
		return ctx.Err()
	case answered && errors.Is(err, os.ErrDeadlineExceeded):
		return errAnswered
	default:
		return err
	}
}

// writeSecure writes a request over TLS, in few calls into the kernel.
func (w *wire) writeSecure(head, body []byte) error {
	w.under.begin()
	_, err := w.conn.Write(head)
	if err == nil {
		_, err = w.conn.Write(body)
	}
	return w.under.end(err)
}

// receive reads an answer up to its body; informational ones are passed over.
func (w *wire) receive() (*http.Response, error) {
	before, _ := w.r.Peek(w.r.Buffered()) // by who listened beside the write
	w.in.hear(before)
	defer w.in.hush()
	for begin := 0; ; {
		resp, err := http.ReadResponse(w.r, nil)
		if err != nil {
			return nil, err
		}
		end := len(w.in.heard) - w.r.Buffered()
		if resp.ProtoMajor != 1 || !sound(w.in.heard[begin:end]) {
			return nil, errFraming
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			if len(resp.TransferEncoding) > 0 && resp.Body != http.NoBody {
				resp.Body = &chunks{r: w.r}
			}
			return resp, nil
		}
		begin = end
	}
}

// exchange sends a request and reads the answer up to its body. A receiver that
// will not take so much may answer, stop reading and close: its answer counts
// though the request could not be written.
func (w *wire) exchange(ctx context.Context, head, body []byte, deadline time.Time) (resp *http.Response, written bool, err error) {
	_ = w.conn.SetDeadline(deadline)
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	w.answered = false
	written, err = w.send(ctx, head, body, deadline)
	if err == nil {
		resp, err = w.receive()
		w.answered = err == nil
		return resp, true, err
	}
	if !written || ctx.Err() != nil || !time.Now().Before(deadline) {
		return nil, written, err
	}
	if soon := time.Now().Add(lastWords); soon.Before(deadline) {
		_ = w.conn.SetReadDeadline(soon)
	}
	resp, unheard := w.receive()
	if op, ok := errors.AsType[*net.OpError](unheard); ok && op.Op == "remote error" {
		return nil, written, unheard // a TLS alert says more than a broken pipe
	}
	switch {
	case unheard == nil:
		resp.Close = true
		return resp, written, nil
	case errors.Is(err, errAnswered):
		return nil, written, unheard // what was there was no answer: most likely the end
	default:
		return nil, written, err
	}
}

// interrupt makes whatever waits on the connection fail at once.
func (w *wire) interrupt() { _ = w.conn.SetDeadline(past) }

// secure reports that the connection is TLS.
func (w *wire) secure() bool { return w.conn != net.Conn(w.tcp) }

// quiet reports that an idle connection is still good: open, and nothing on it
// that nobody asked for.
func (w *wire) quiet() bool {
	if w.r.Buffered() > 0 || w.secure() && !w.silent() {
		return false
	}
	n, err := w.peek()
	return n < 0 && errors.Is(err, syscall.EAGAIN)
}

// silent reports that TLS has nothing for us. It reads ahead, so that a second
// answer, or the end, may have left the socket together with the answer that was
// read. A deadline that has passed lets it tell what it has, does not let it read
// on, and spoils nothing: errors of that kind are not for ever. With something
// on the socket it may read on for a glance: session tickets and new keys come
// when the receiver likes, and mean nothing to us.
func (w *wire) silent() bool {
	until := past
	if w.pending() {
		until = time.Now().Add(glance)
	}
	_ = w.conn.SetDeadline(until)
	_, err := w.r.Peek(1)
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// pending reports that something can be read, or that the receiver has closed.
func (w *wire) pending() bool {
	_, err := w.peek()
	return !errors.Is(err, syscall.EAGAIN)
}

// peek looks for a byte on the socket without taking it and without waiting. It
// goes by Control, since Read fails on a connection whose last attempt's deadline
// has passed, which says nothing about the next one.
func (w *wire) peek() (n int, err error) {
	raw, err := w.tcp.SyscallConn()
	if err != nil {
		return 0, err
	}
	var b [1]byte
	n = -1
	ctl := raw.Control(func(fd uintptr) {
		n, _, err = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	})
	return n, errors.Join(err, ctl)
}

// close closes the connection. TLS says good-bye first, for which it waits up to 5 s
// when the receiver does not read; so that is left out unless it has read and answered.
func (w *wire) close() {
	if w.answered {
		_ = w.conn.Close()
	} else {
		_ = w.tcp.Close()
	}
}

// wires are the connections to one receiver that nobody owns at the moment.
// Safe for concurrent use.
type wires struct {
	mu     sync.Mutex
	idle   []*wire // used last stands last
	closed bool
	ages   int         // how often all were dropped
	sweep  *time.Timer // set while there is an idle connection
}

// take returns an idle connection that is still good, or nil.
func (p *wires) take() *wire {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			return nil
		}
		w := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if w.quiet() {
			return w
		}
		w.close()
	}
}

// put keeps a connection for the next attempt.
func (p *wires) put(w *wire) {
	w.idle = time.Now()
	if !p.keep(w) {
		w.close()
	}
}

func (p *wires) keep(w *wire) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || w.age != p.ages || len(p.idle) >= maxIdle {
		return false
	}
	p.idle = append(p.idle, w)
	if p.sweep == nil {
		p.sweep = time.AfterFunc(idleTimeout, p.sweepIdle)
	}
	return true
}

// sweepIdle closes what was idle for too long.
func (p *wires) sweepIdle() { closeAll(p.swept(time.Now().Add(-idleTimeout))) }

// swept takes out what is idle since then or longer.
func (p *wires) swept(old time.Time) (out []*wire) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for n < len(p.idle) && !p.idle[n].idle.After(old) {
		n++
	}
	out = slices.Clone(p.idle[:n])
	p.idle = slices.Delete(p.idle, 0, n)
	p.sweep = nil
	if len(p.idle) > 0 && !p.closed {
		p.sweep = time.AfterFunc(p.idle[0].idle.Sub(old), p.sweepIdle)
	}
	return out
}

// closeAll closes connections, without a lock: TLS may have to wait for it.
func closeAll(wires []*wire) {
	for _, w := range wires {
		w.close()
	}
}

// age goes with each connection made from now on.
func (p *wires) age() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ages
}

// drop closes the idle connections, and those in use when they come back.
func (p *wires) drop() { closeAll(p.empty(false)) }

// close is drop for good.
func (p *wires) close() { closeAll(p.empty(true)) }

// empty takes out the idle connections, and has those in use closed when they come back.
func (p *wires) empty(forGood bool) []*wire {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ages++
	p.closed = p.closed || forGood
	if p.sweep != nil {
		p.sweep.Stop()
		p.sweep = nil
	}
	idle := p.idle
	p.idle = nil
	return idle
}
