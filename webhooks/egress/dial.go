package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

const (
	// maxCandidates is how many of a name's addresses are tried.
	maxCandidates = 6

	// fallbackDelay is the head start of the family of addresses that the resolver
	// prefers (RFC 8305, 5).
	fallbackDelay = 300 * time.Millisecond

	// leastShare is how long one candidate gets at least, if so much is left.
	leastShare = time.Second
)

// ErrDenied says that the policy refuses a target. It does not tell more: whoever
// chose the target is not to learn what is behind a name.
var ErrDenied = errors.New("the policy refuses the target")

// Dial connects to host, a name or an address, over TCP; secure tells that TLS
// follows. The name is resolved and all its addresses are judged before the first
// packet: one that is forbidden refuses the name. What is dialled is what was
// judged, and it is judged again on the socket, by the policy of that moment.
// Errors are ErrDenied, *net.DNSError, and *net.OpError of the operation "dial".
func (g *Guard) Dial(ctx context.Context, host string, port uint16, secure bool) (*net.TCPConn, error) {
	p := g.policy.Load()
	if !p.allowsPort(port, secure) {
		return nil, ErrDenied
	}
	addresses, err := g.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	own, err := g.own(ctx, p, port)
	if err != nil {
		return nil, err
	}
	for _, a := range addresses {
		if !p.allowsAddress(a) || contains(own, p.plain(a)) {
			return nil, ErrDenied
		}
	}
	candidates := make([]netip.AddrPort, min(len(addresses), maxCandidates))
	for i := range candidates {
		candidates[i] = netip.AddrPortFrom(addresses[i].Unmap(), port)
	}
	ctx, cancel := context.WithTimeout(ctx, g.options.ConnectTimeout)
	defer cancel()
	return g.connect(ctx, candidates)
}

// resolve finds the addresses of a host, at least one, in the order in which they
// are to be tried.
func (g *Guard) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.options.LookupTimeout)
	defer cancel()
	addresses, err := g.options.Resolver.LookupNetIP(ctx, "ip", host)
	if err == nil && len(addresses) > 0 {
		return addresses, nil
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return nil, err
	}
	failure := &net.DNSError{Err: "no addresses", Name: host, IsNotFound: true}
	if err != nil {
		failure = &net.DNSError{UnwrapErr: err, Err: err.Error(), Name: host}
	}
	return nil, failure
}

// own lists where, on a port, the gateway itself and its brokers are. Should the
// name of one not resolve, nothing is known of the target either.
func (g *Guard) own(ctx context.Context, p *Policy, port uint16) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, address := range p.Own {
		host, text, err := net.SplitHostPort(address)
		if err != nil || !samePort(text, port) {
			continue
		}
		if a, err := netip.ParseAddr(host); host == "" || err == nil && a.IsUnspecified() {
			all = append(all, g.machine()...)
			continue
		}
		addresses, err := g.resolve(ctx, host)
		if err != nil {
			return nil, err
		}
		for _, a := range addresses {
			all = append(all, single(a))
		}
	}
	return all, nil
}

// machine lists the addresses of this machine.
func (g *Guard) machine() []netip.Prefix {
	all := []netip.Prefix{loopbackV4, loopbackV6}
	addresses, _ := g.locals() // what cannot be listed stays loopback alone
	for _, address := range addresses {
		if network, ok := address.(*net.IPNet); ok {
			if a, ok := netip.AddrFromSlice(network.IP); ok {
				all = append(all, single(a))
			}
		}
	}
	return all
}

// single is the range of one address.
func single(a netip.Addr) netip.Prefix {
	a = a.WithZone("").Unmap()
	return netip.PrefixFrom(a, a.BitLen())
}

// connect dials candidates of one family one after the other, and those of two
// side by side, with a head start for the family of the first. When it returns no
// other connection is left, nor being made.
func (g *Guard) connect(ctx context.Context, candidates []netip.AddrPort) (*net.TCPConn, error) {
	isFirst := func(c netip.AddrPort) bool { return c.Addr().Is4() == candidates[0].Addr().Is4() }
	first := slices.DeleteFunc(slices.Clone(candidates), func(c netip.AddrPort) bool { return !isFirst(c) })
	second := slices.DeleteFunc(slices.Clone(candidates), isFirst)
	if len(second) == 0 {
		return g.series(ctx, first)
	}

	type outcome struct {
		conn *net.TCPConn
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	outcomes := make(chan outcome, 2)
	running := 0
	start := func(list []netip.AddrPort) {
		running++
		go func() {
			conn, err := g.series(ctx, list)
			outcomes <- outcome{conn, err}
		}()
	}
	start(first)
	headStart := time.NewTimer(fallbackDelay)
	defer headStart.Stop()
	var winner *net.TCPConn
	var failure error
	for running > 0 {
		select {
		case <-headStart.C:
		case o := <-outcomes:
			running--
			switch {
			case o.err != nil && failure == nil:
				failure = o.err
			case o.err == nil && winner == nil:
				winner, second = o.conn, nil
				cancel()
			case o.err == nil:
				o.conn.Close()
			}
		}
		if len(second) > 0 {
			start(second)
			second = nil
		}
	}
	if winner != nil {
		return winner, nil
	}
	return nil, failure
}

// series dials candidates one after the other until one connects. The error is
// that of the first.
func (g *Guard) series(ctx context.Context, candidates []netip.AddrPort) (*net.TCPConn, error) {
	var failure error
	for i, c := range candidates {
		conn, err := g.dial(ctx, c, len(candidates)-i)
		if err == nil {
			return conn, nil
		}
		if failure == nil {
			failure = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, failure
}

// dial dials the first of so many candidates, for its share of the time that is left.
func (g *Guard) dial(ctx context.Context, c netip.AddrPort, candidates int) (*net.TCPConn, error) {
	if deadline, ok := ctx.Deadline(); ok && candidates > 1 {
		share := max(time.Until(deadline)/time.Duration(candidates), leastShare)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, share)
		defer cancel()
	}
	dialer := net.Dialer{Control: g.control}
	conn, err := dialer.DialContext(ctx, "tcp", c.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil // which is what "tcp" gives
}

// control sees the address that the kernel is told, after which nothing is
// resolved any more.
func (g *Guard) control(network, address string, conn syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil || !g.policy.Load().allowsAddress(target.Addr()) {
		return ErrDenied
	}
	if g.options.Control != nil {
		return g.options.Control(network, address, conn)
	}
	return nil
}
