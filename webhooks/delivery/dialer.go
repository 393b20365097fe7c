package delivery

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"syscall"
	"time"
)

const (
	connectTimeout = 3 * time.Second // name resolution and TCP
	tlsTimeout     = 5 * time.Second // TLS handshake
)

// dialer opens connections, straight to where the URL says: there is no proxy.
type dialer struct {
	tcp       net.Dialer
	tls       *tls.Config
	handshake time.Duration
}

// newDialer makes a dialer; control may be nil.
func newDialer(control func(network, address string, conn syscall.RawConn) error) *dialer {
	return &dialer{
		tcp:       net.Dialer{Timeout: connectTimeout, Control: control},
		tls:       &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}},
		handshake: tlsTimeout,
	}
}

var errNotTCP = errors.New("the connection is not TCP")

// dial connects to address (host:port), over TLS if secure.
func (d *dialer) dial(ctx context.Context, address string, secure bool, deadline time.Time) (*wire, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	plain, err := d.tcp.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	tcp, ok := plain.(*net.TCPConn)
	if !ok {
		plain.Close()
		return nil, errNotTCP
	}
	if !secure {
		return newWire(plain, tcp), nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		plain.Close()
		return nil, fmt.Errorf("dialing: %w", err)
	}
	config := d.tls.Clone()
	config.ServerName = host
	c := tls.Client(plain, config)
	ctx, cancelHandshake := context.WithTimeout(ctx, d.handshake)
	defer cancelHandshake()
	if err := c.HandshakeContext(ctx); err != nil {
		plain.Close()
		return nil, &tlsError{err}
	}
	return newWire(c, tcp), nil
}

// addressOf is host:port of a URL.
func addressOf(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// tlsError is a handshake that failed, for whatever reason.
type tlsError struct{ cause error }

func (e *tlsError) Error() string { return "tls handshake: " + e.cause.Error() }
func (e *tlsError) Unwrap() error { return e.cause }
