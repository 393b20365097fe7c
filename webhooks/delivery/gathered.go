package delivery

import (
	"net"
	"sync"
)

// gatheredSize is how much is handed to the kernel in one call.
const gatheredSize = 64 << 10

// gatheredPool has buffers with room for what makes one full, a record of TLS.
var gatheredPool = sync.Pool{New: func() any {
	b := make([]byte, 0, gatheredSize+17<<10)
	return &b
}}

// gathered is the connection under TLS, which cuts what is written into records of at
// most 16 KiB and writes each by itself. Between begin and end they are gathered, so
// that a request takes few calls into the kernel: `make bench` tells what TLS adds.
//
// begin and end are called by who owns the wire; a reader beside it may have TLS write
// meanwhile, to renew a key. So a lock is held while something is written, as it is
// in crypto/tls.
type gathered struct {
	*net.TCPConn
	sent bool // the kernel has taken something since begin; for the owner, after end

	mu  sync.Mutex
	buf *[]byte // nil: what is written goes at once
}

func (g *gathered) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.buf, g.sent = gatheredPool.Get().(*[]byte), false
}

// end writes what is left, unless it is known that writing failed, and returns the
// first error.
func (g *gathered) end(err error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil {
		err = g.flush()
	}
	*g.buf = (*g.buf)[:0]
	gatheredPool.Put(g.buf)
	g.buf = nil
	return err
}

// Write takes what TLS writes.
func (g *gathered) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.buf == nil {
		return g.TCPConn.Write(p)
	}
	if *g.buf = append(*g.buf, p...); len(*g.buf) >= gatheredSize {
		if err := g.flush(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// flush writes what was gathered; g.mu is held.
func (g *gathered) flush() error {
	n, err := g.TCPConn.Write(*g.buf)
	g.sent = g.sent || n > 0
	*g.buf = (*g.buf)[:0]
	return err
}
