package delivery

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"github.com/kpush/kpush/webhooks/egress"
)

const tlsTimeout = 5 * time.Second // of a handshake

// dialer opens connections, straight to where the URL says: there is no proxy. The
// guard resolves names, connects, and bounds both.
type dialer struct {
	guard     *egress.Guard
	tls       *tls.Config
	handshake time.Duration
}

// dialerOf makes the dialer of cfg's webhook, which trusts whom the webhook says, and
// shows what the webhook has to show.
func dialerOf(cfg Config) (*dialer, error) {
	d := newDialer(cfg.Guard)
	var err error
	if d.tls.RootCAs, err = cfg.Webhook.TLS.Authorities(); err != nil {
		return nil, fmt.Errorf("webhook %q: tls.ca %w", cfg.Webhook.ID, err)
	}
	if d.tls.Certificates, err = cfg.Webhook.TLS.Identity(); err != nil {
		return nil, fmt.Errorf("webhook %q: tls.client_key %w", cfg.Webhook.ID, err)
	}
	return d, nil
}

// newDialer makes a dialer; without a guard it gets the strictest.
func newDialer(guard *egress.Guard) *dialer {
	if guard == nil {
		guard = egress.New(egress.Policy{}, egress.Options{})
	}
	return &dialer{
		guard:     guard,
		tls:       &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}},
		handshake: tlsTimeout,
	}
}

// dial connects to a host's port, over TLS if secure.
func (d *dialer) dial(ctx context.Context, host string, port uint16, secure bool, deadline time.Time) (*wire, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	tcp, err := d.guard.Dial(ctx, host, port, secure)
	if err != nil {
		return nil, err
	}
	if !secure {
		return newWire(tcp, tcp), nil
	}
	config := d.tls.Clone()
	config.ServerName = host
	under := &gathered{TCPConn: tcp}
	c := tls.Client(under, config)
	ctx, cancelHandshake := context.WithTimeout(ctx, d.handshake)
	defer cancelHandshake()
	if err := c.HandshakeContext(ctx); err != nil {
		tcp.Close()
		return nil, &tlsError{err}
	}
	w := newWire(c, tcp)
	w.under = under
	return w, nil
}

// tlsError is a handshake that failed, for whatever reason.
type tlsError struct{ cause error }

func (e *tlsError) Error() string { return "tls handshake: " + e.cause.Error() }
func (e *tlsError) Unwrap() error { return e.cause }
