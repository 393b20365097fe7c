// Package faultproxy stands between two ends of TCP connections and does to them
// what networks do on their bad days: it delays, slices, holds back, loses, resets
// and refuses, in each direction by itself, until it is healed.
package faultproxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Direction is the way bytes go.
type Direction int

// The directions, seen from the client that connects.
const (
	Up   Direction = iota // from the client to the target
	Down                  // from the target to the client
)

// Fault is what happens to the bytes of one direction. The zero value is a good day.
type Fault struct {
	// Latency is how long each byte is under way; the order stays.
	Latency time.Duration

	// Slice writes at most so many bytes at once, with Pause after each piece. 0: as they come.
	Slice int
	Pause time.Duration

	// Hold keeps the bytes until the fault is over, then passes them on: an
	// interrupted network whose ends never noticed.
	Hold bool

	// Swallow takes the bytes and loses them: a connection that is half open. A
	// connection that lost bytes is reset when it would have to pass on others.
	Swallow bool

	// ResetAfter resets each connection after it passed on so many bytes in this
	// direction, counted from its beginning. 0: never.
	ResetAfter int64
}

// Proxy passes connections on. Its methods may be called concurrently.
type Proxy struct {
	listener net.Listener
	wait     sync.WaitGroup

	mu      sync.Mutex
	target  string
	faults  [2]Fault
	cut     bool
	resets  int           // how many there were
	changed chan struct{} // closed and replaced when faults change
	links   map[*link]struct{}
	closed  bool
}

// Listen starts a proxy on a port of 127.0.0.1 of its own. It has to be closed.
func Listen(target string) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for connections to %s: %w", target, err)
	}
	p := &Proxy{listener: listener, target: target, changed: make(chan struct{}), links: map[*link]struct{}{}}
	p.wait.Go(p.accept)
	return p, nil
}

// Addr is the address to connect to, host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// SetTarget says where new connections lead.
func (p *Proxy) SetTarget(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Set says what happens to the bytes of a direction from now on, on connections
// there are and those to come.
func (p *Proxy) Set(d Direction, f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults[d] = f
	p.announce()
}

// Cut resets all connections and refuses new ones, until Heal.
func (p *Proxy) Cut() {
	p.mu.Lock()
	p.cut = true
	p.mu.Unlock()
	p.Reset()
}

// Heal ends all faults.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults, p.cut = [2]Fault{}, false
	p.announce()
}

// Reset ends all connections there are with a reset; those to come are not affected.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resets++ // for the connections that are being made
	for l := range p.links {
		l.reset()
	}
}

// Connections is the number of connections that are open now.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// Close resets all connections and waits until nothing of the proxy runs.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	_ = p.listener.Close()
	p.Reset()
	p.wait.Wait()
}

// announce tells those who wait that faults have changed. p.mu is held.
func (p *Proxy) announce() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// fault is what happens in a direction now, and a channel that is closed when that changes.
func (p *Proxy) fault(d Direction) (Fault, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults[d], p.changed
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // the client was gone before it was accepted
		}
		p.wait.Go(func() { p.serve(conn.(*net.TCPConn)) })
	}
}

// dialTimeout bounds the way to the target, which is on the same machine.
const dialTimeout = 5 * time.Second

// serve links a connection with one to the target until both directions have ended.
func (p *Proxy) serve(client *net.TCPConn) {
	p.mu.Lock()
	target, refused, resets := p.target, p.cut || p.closed, p.resets
	p.mu.Unlock()
	var server net.Conn
	if !refused {
		var err error
		server, err = net.DialTimeout("tcp", target, dialTimeout)
		refused = err != nil
	}
	if refused {
		reset(client)
		return
	}
	l := &link{proxy: p, client: client, server: server.(*net.TCPConn), done: make(chan struct{})}
	p.mu.Lock()
	if p.resets != resets { // meanwhile; Cut and Close reset, too
		l.reset()
	} else {
		p.links[l] = struct{}{}
	}
	p.mu.Unlock()

	var both sync.WaitGroup
	both.Go(func() { l.pass(Up, l.server, l.client) })
	both.Go(func() { l.pass(Down, l.client, l.server) })
	both.Wait()
	l.close()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// link is one connection through the proxy.
type link struct {
	proxy          *Proxy
	client, server *net.TCPConn
	once           sync.Once
	done           chan struct{} // closed when the link has ended
}

// reset ends both halves without the usual farewell.
func (l *link) reset() {
	l.once.Do(func() {
		close(l.done)
		reset(l.client)
		reset(l.server)
	})
}

// close ends what has come to an orderly end in both directions; what was written
// last still goes out.
func (l *link) close() {
	l.once.Do(func() {
		close(l.done)
		_ = l.client.Close()
		_ = l.server.Close()
	})
}

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// chunk is what was read at once, and when it may be written.
type chunk struct {
	bytes []byte
	due   time.Time
}

// A direction holds at most maxChunks × chunkSize bytes that are under way.
const (
	chunkSize = 32 << 10
	maxChunks = 64
)

// pass moves the bytes of one direction until it ends. The end of the input is
// passed on, too; an error resets the link.
func (l *link) pass(d Direction, to, from *net.TCPConn) {
	underWay := make(chan chunk, maxChunks)
	var reader sync.WaitGroup
	defer reader.Wait()
	reader.Go(func() {
		defer close(underWay)
		for {
			buffer := make([]byte, chunkSize)
			n, err := from.Read(buffer)
			if n > 0 {
				f, _ := l.proxy.fault(d)
				select {
				case underWay <- chunk{buffer[:n], time.Now().Add(f.Latency)}:
				case <-l.done:
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					l.reset()
				}
				return
			}
		}
	})
	w := writer{link: l, direction: d, to: to}
	for c := range underWay {
		if !w.write(c) {
			l.reset()
			return
		}
	}
	if !w.lost {
		_ = to.CloseWrite()
	}
}

// writer is the end of one direction.
type writer struct {
	link      *link
	direction Direction
	to        *net.TCPConn
	passed    int64
	lost      bool // bytes were swallowed
}

// write passes a chunk on as the fault of the moment has it; false: the link has to end.
func (w *writer) write(c chunk) bool {
	if !w.link.sleep(time.Until(c.due)) {
		return false
	}
	for rest := c.bytes; len(rest) > 0; {
		f, changed := w.link.proxy.fault(w.direction)
		switch {
		case f.Hold:
			select {
			case <-changed:
			case <-w.link.done:
				return false
			}
			continue
		case f.Swallow:
			w.lost = true
			return true
		case w.lost:
			return false
		}
		piece := rest
		if f.Slice > 0 {
			piece = piece[:min(f.Slice, len(piece))]
		}
		if f.ResetAfter > 0 {
			piece = piece[:max(0, min(int64(len(piece)), f.ResetAfter-w.passed))]
		}
		n, err := w.to.Write(piece)
		w.passed += int64(n)
		if err != nil || f.ResetAfter > 0 && w.passed >= f.ResetAfter {
			return false
		}
		rest = rest[n:]
		if f.Slice > 0 && !w.link.sleep(f.Pause) {
			return false
		}
	}
	return true
}

// sleep waits; false: the link has ended meanwhile.
func (l *link) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.done:
		return false
	}
}
