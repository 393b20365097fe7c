package egress

import (
	"errors"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"

	"code.dny.dev/ssrf"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errLetPass = errors.New("the guard has let it pass")

// gate is a guard from which no packet gets out: what it lets pass is noted.
type gate struct {
	*Guard
	mu     sync.Mutex
	passed []string
}

func newGate(p Policy, r Resolver) *gate {
	g := &gate{}
	g.Guard = New(p, Options{Resolver: r, Control: func(_, address string, _ syscall.RawConn) error {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.passed = append(g.passed, address)
		return errLetPass
	}})
	return g
}

// dial dials host over https and tells whether the guard let it pass, and what.
func (g *gate) dial(t *testing.T, host string) (passed []string) {
	t.Helper()
	g.passed = nil
	conn, err := g.Dial(t.Context(), host, 443, true)
	switch {
	case conn != nil:
		t.Fatalf("%s: there is a connection", host)
	case errors.Is(err, ErrDenied):
		if len(g.passed) > 0 {
			t.Errorf("%s is denied, but %q passed", host, g.passed)
		}
	case !errors.Is(err, errLetPass) || len(g.passed) == 0:
		t.Errorf("%s: %v, want it denied or let pass", host, err)
	}
	return g.passed
}

// checkAddresses dials addresses, parted by commas.
func checkAddresses(t *testing.T, p Policy, addresses string, allowed bool) {
	t.Helper()
	g := newGate(p, nil)
	for a := range strings.SplitSeq(addresses, ", ") {
		if got := len(g.dial(t, a)) > 0; got != allowed {
			t.Errorf("%s: allowed %v, want %v", a, got, allowed)
		}
	}
}

const (
	metadata = "169.254.169.254, 169.254.170.2, fd00:ec2::254, fd20:ce::254, fe80::1, 192.0.0.192, 100.100.100.200, 168.63.129.16"
	nat64    = "64:ff9b::7f00:1, 64:ff9b:1::a9fe:a9fe"
)

func TestA1_ThisMachine(t *testing.T) {
	checkAddresses(t, Policy{}, "127.0.0.1, 127.255.255.254, 0.0.0.0, ::, ::1", false)
}

func TestA2_PrivateNetworks(t *testing.T) {
	checkAddresses(t, Policy{}, "10.0.0.1, 172.16.0.1, 172.31.255.255, 192.168.1.1, fc00::1", false)
	checkAddresses(t, Policy{}, "172.32.0.1, 172.15.255.255", true)
}

func TestA3_CloudMetadata(t *testing.T) {
	checkAddresses(t, Policy{}, metadata, false)
	wide := Policy{AllowedCIDRs: prefixes("169.254.0.0/16", "0.0.0.0/0", "::/0")}
	checkAddresses(t, wide, metadata+", ::a9fe:a9fe, ::ffff:0:169.254.169.254, 64:ff9b::a9fe:a9fe, 2002:a9fe:a9fe::1, fd12::5efe:a9fe:a9fe", false)
	wide.AllowMetadata = true
	checkAddresses(t, wide, metadata, true)
	checkAddresses(t, Policy{AllowMetadata: true}, metadata, false)                                                        // the switch alone opens nothing
	checkAddresses(t, Policy{AllowedCIDRs: prefixes("fd12::/16")}, "fd12::a9fe:a9fe", true)                                // looks like one, and is none
	checkAddresses(t, Policy{AllowedCIDRs: prefixes("::/0", "0.0.0.0/0")}, "0.0.0.0, ::, 255.255.255.255, ff02::1", false) // nowhere stays nowhere
}

func TestA4_SpecialPurpose(t *testing.T) {
	checkAddresses(t, Policy{}, "100.64.0.1, 198.18.0.1, 192.0.2.1, 198.51.100.1, 203.0.113.1, 192.88.99.1", false)
}

func TestA5_MulticastAndReserved(t *testing.T) {
	checkAddresses(t, Policy{}, "224.0.0.1, 240.0.0.1, 255.255.255.255, ff02::1", false)
}

func TestA6_MappedIPv4(t *testing.T) {
	checkAddresses(t, Policy{}, "::ffff:127.0.0.1, ::ffff:169.254.169.254", false)
	checkAddresses(t, Policy{}, "::ffff:8.8.8.8", true)
}

func TestA7_CompatibleIPv4(t *testing.T) {
	checkAddresses(t, Policy{}, "::127.0.0.1, ::a9fe:a9fe, ::ffff:0:127.0.0.1", false)
}

func TestA8_NAT64(t *testing.T) {
	checkAddresses(t, Policy{}, nat64+", 64:ff9b::808:808", false)
	with := Policy{NAT64: prefixes("64:ff9b::/96")}
	checkAddresses(t, with, nat64, false)
	checkAddresses(t, with, "64:ff9b::808:808", true)
	// A network's own prefix is global unicast by itself: only the option knows better.
	own := Policy{NAT64: prefixes("2a00:64::/96")}
	checkAddresses(t, own, "2a00:64::7f00:1, 2a00:64::a9fe:a9fe", false)
	checkAddresses(t, own, "2a00:64::808:808", true)
}

func TestA9_Tunnels(t *testing.T) {
	checkAddresses(t, Policy{}, "2002:7f00:1::, 2002:a9fe:a9fe::1, 2001:0:4136:e378:8000:63bf:80ff:fffe, 2606:4700::5efe:7f00:1, 2606:4700::200:5efe:7f00:1", false)
}

func TestA10_SpecialPurposeIPv6(t *testing.T) {
	checkAddresses(t, Policy{}, "fec0::1, 100::1, 5f00::1, 3fff::1, 2001:db8::1, 2001:10::1, 2001:20::1", false)
}

// TestA11_Zones: a prefix contains no address with a zone, and other libraries have
// been seen to panic over one.
func TestA11_Zones(t *testing.T) {
	checkAddresses(t, Policy{}, "fe80::1%eth0, ::ffff:10.0.0.1%eth0, ::1%lo, fd00:ec2::254%1, 2606:4700::5efe:7f00:1%x", false)
	for _, host := range []string{"10.0.0.1%eth0", "fe80::1%25eth0"} { // no address to Go: never let pass
		if g := newGate(Policy{}, nil); len(g.dialAny(t, host)) > 0 {
			t.Errorf("%s was let pass", host)
		}
	}
}

// dialAny is dial for a host that may as well fail to resolve.
func (g *gate) dialAny(t *testing.T, host string) []string {
	t.Helper()
	if conn, err := g.Dial(t.Context(), host, 443, true); conn != nil || err == nil {
		t.Fatalf("%s: there is a connection", host)
	}
	return g.passed
}

func TestA13_PublicAddresses(t *testing.T) {
	checkAddresses(t, Policy{}, "8.8.8.8, 1.1.1.1, 2606:4700:4700::1111, 2a00:1450::1", true)
}

func TestA20_AllowedRanges(t *testing.T) {
	p := Policy{AllowedCIDRs: prefixes("10.1.0.0/16", "fd12:3456::/48")}
	checkAddresses(t, p, "10.1.2.3, ::ffff:10.1.2.3, fd12:3456::1, 8.8.8.8", true)
	checkAddresses(t, p, "10.2.2.3, 127.0.0.1, fd12:3457::1", false)
	p.DeniedCIDRs = prefixes("10.1.2.0/24", "8.8.8.0/24")
	checkAddresses(t, p, "10.1.3.3", true)
	checkAddresses(t, p, "10.1.2.3, 8.8.8.8", false)
}

// FuzzTheRuleAgainstALibrary: what code.dny.dev/ssrf refuses, from tables that are
// generated from IANA's registries, we refuse. The other way round we refuse more.
func FuzzTheRuleAgainstALibrary(f *testing.F) {
	for _, a := range []string{"127.0.0.1", "8.8.8.8", "64:ff9b::808:808", "2606:4700::1", "2002:7f00:1::", "192.88.99.1", "fe80::1"} {
		b := netip.MustParseAddr(a).As16()
		f.Add(b[:])
	}
	library := ssrf.New(ssrf.WithAnyPort())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != 16 {
			t.Skip()
		}
		a := netip.AddrFrom16([16]byte(b))
		network, plain := "tcp6", a.Unmap()
		if plain.Is4() {
			network = "tcp4"
		}
		ours := (&Policy{}).allowsAddress(a)
		if theirs := library.Safe(network, netip.AddrPortFrom(plain, 443).String(), nil); ours && theirs != nil {
			t.Errorf("we allow %v, the library says: %v", a, theirs)
		}
	})
}
