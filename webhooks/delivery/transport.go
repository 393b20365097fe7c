package delivery

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

const (
	connectTimeout = 3 * time.Second // name resolution and TCP
	tlsTimeout     = 5 * time.Second // TLS handshake
	idleTimeout    = 90 * time.Second

	// maxIdle connections are kept open, more than a process has deliveries in
	// flight to one receiver, so that none of them reconnects.
	maxIdle = 1024

	// maxAnswerHeader bounds what is read before the body, informational answers
	// included.
	maxAnswerHeader = 64 << 10

	// lastWords is how long an answer is waited for on a connection that takes no
	// more of the request.
	lastWords = 500 * time.Millisecond

	// writeBuffer lets a small delivery go out in one write, headers and all.
	writeBuffer = 8 << 10

	// An HTTP/2 connection on which nothing was heard for pingAfter is asked for a
	// sign of life, and given up after pingTimeout: requests share it, and would
	// otherwise time out on it one after the other.
	pingAfter   = 15 * time.Second
	pingTimeout = 10 * time.Second
)

// newTransport makes a transport that goes only where the URL says: it uses no
// proxy, and follows nothing.
func newTransport(d *dialer) *http.Transport {
	return &http.Transport{
		Proxy:                  nil,
		DialContext:            d.dial,
		DialTLSContext:         d.dialTLS,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		DisableCompression:     true,
		MaxIdleConns:           0, // one host, bounded by the line below
		MaxIdleConnsPerHost:    maxIdle,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxAnswerHeader,
		WriteBufferSize:        writeBuffer,
	}
}

// dialer opens connections. net/http finishes a dial even when the request that
// asked for it is gone, so each step has a time limit of its own.
type dialer struct {
	tcp       net.Dialer
	tls       *tls.Config
	handshake time.Duration
}

// newDialer makes a dialer; control may be nil.
func newDialer(control func(network, address string, conn syscall.RawConn) error) *dialer {
	return &dialer{
		tcp:       net.Dialer{Timeout: connectTimeout, Control: control},
		tls:       &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}},
		handshake: tlsTimeout,
	}
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.tcp.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, ending: make(chan struct{})}, nil
}

func (d *dialer) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dialing: %w", err)
	}
	plain, err := d.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	config := d.tls.Clone()
	config.ServerName = host
	c := tls.Client(plain, config)
	ctx, cancel := context.WithTimeout(ctx, d.handshake)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		plain.Close()
		return nil, &tlsError{err}
	}
	return c, nil // *tls.Conn itself: net/http asks it for the protocol agreed on
}

// tlsError is a handshake that failed, for whatever reason.
type tlsError struct{ cause error }

func (e *tlsError) Error() string { return "tls handshake: " + e.cause.Error() }
func (e *tlsError) Unwrap() error { return e.cause }

// conn is a TCP connection that serves net/http in two ways it cannot help
// itself: a body goes out with one call and no copy, and the answer of a receiver
// that did not want all of it is not lost.
type conn struct {
	net.Conn
	once   sync.Once
	ending chan struct{} // closed when no answer is waited for any more
}

// ReadFrom is called by net/http with what is left of a request's body, limited
// to the content length, which the body never exceeds. net/http would have it
// copied, piece by piece, through a buffer made for each request.
func (c *conn) ReadFrom(r io.Reader) (n int64, err error) {
	if limited, ok := r.(*io.LimitedReader); ok {
		if body, ok := limited.R.(io.WriterTo); ok {
			n, err = body.WriteTo(c.Conn)
			limited.N -= n
			c.linger(err)
			return n, err
		}
	}
	return io.Copy(struct{ io.Writer }{c}, r)
}

// Write holds back an error for as long as an answer may still be read.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.linger(err)
	return n, err
}

// linger waits before a failed write is reported. A receiver that will not take
// so much answers 413 and closes; the write then fails with the answer already
// here, and net/http would drop it for the error. As soon as the reading side is
// through with the connection it closes it, which ends the wait.
func (c *conn) linger(err error) {
	if err == nil {
		return
	}
	t := time.NewTimer(lastWords)
	defer t.Stop()
	select {
	case <-c.ending:
	case <-t.C:
	}
}

func (c *conn) Close() error {
	c.once.Do(func() { close(c.ending) })
	return c.Conn.Close()
}

// SetWriteDeadline is called by crypto/tls alone, before the farewell it sends
// while closing: nothing waits for an answer to that.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.once.Do(func() { close(c.ending) })
	return c.Conn.SetWriteDeadline(t)
}
