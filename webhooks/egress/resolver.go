package egress

import (
	"context"
	"net"
	"net/netip"
)

// A Resolver finds the addresses of a name; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// newResolver is Go's own resolver, which reads /etc/hosts and resolv.conf. A look-up
// in the C library could not be told to stop. Go's, too, leaves a question that is
// given up to its own timeouts, of many seconds; here its socket is closed.
func newResolver(dial func(ctx context.Context, network, address string) (net.Conn, error)) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err == nil {
			context.AfterFunc(ctx, func() { conn.Close() })
		}
		return conn, err
	}}
}
