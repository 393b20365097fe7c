package egress

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	lookupTimeout  = 5 * time.Second // of a name, all of its addresses
	connectTimeout = 3 * time.Second // TCP, over all candidates
)

// Options are what a Guard works with. The zero value is right outside of tests.
type Options struct {
	// Resolver finds addresses. Default: newResolver's.
	Resolver Resolver

	// LookupTimeout bounds the resolving of a name. Default 5s.
	LookupTimeout time.Duration

	// ConnectTimeout bounds connecting, over all addresses tried. Default 3s.
	ConnectTimeout time.Duration

	// Control is called as net.Dialer.Control with each address about to be dialled,
	// after the guard has let it pass.
	Control func(network, address string, conn syscall.RawConn) error
}

// Guard dials what its policy allows and nothing else. All methods may be called
// concurrently.
type Guard struct {
	options Options
	policy  atomic.Pointer[Policy]
	locals  func() ([]net.Addr, error) // addresses of this machine

	mu       sync.Mutex
	watchers map[*func()]struct{}
}

// New makes a guard.
func New(p Policy, o Options) *Guard {
	if o.Resolver == nil {
		o.Resolver = newResolver(new(net.Dialer).DialContext)
	}
	if o.LookupTimeout == 0 {
		o.LookupTimeout = lookupTimeout
	}
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = connectTimeout
	}
	g := &Guard{options: o, locals: net.InterfaceAddrs, watchers: map[*func()]struct{}{}}
	g.policy.Store(&p)
	return g
}

// Set puts another policy in place. What is dialled from now on is judged by it,
// connections that Watch's callers keep for later are closed, and those in use end
// with what they are used for.
func (g *Guard) Set(p Policy) {
	g.policy.Store(&p)
	g.mu.Lock()
	defer g.mu.Unlock()
	for changed := range g.watchers {
		(*changed)()
	}
}

// Watch calls changed after each change of the policy, until stop. It must not
// wait for anything, nor call the guard.
func (g *Guard) Watch(changed func()) (stop func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.watchers[&changed] = struct{}{}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.watchers, &changed)
	}
}
