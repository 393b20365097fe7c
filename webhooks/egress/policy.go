package egress

import (
	"fmt"
	"net/netip"
)

// Policy is what the operator of an installation allows its webhooks to reach. It
// is for the whole installation and never a user's to set. The zero value allows
// https on port 443 to public addresses. A Policy that a Guard has is not changed
// any more: another one is put in its place.
type Policy struct {
	// AllowHTTP allows http URLs, whose deliveries everybody on the way can read.
	AllowHTTP bool

	// AllowedPorts are the ports that may be dialled. Default: 443, and 80 with
	// AllowHTTP.
	AllowedPorts Ports

	// AllowedCIDRs are ranges that may be dialled though they are not public.
	AllowedCIDRs []netip.Prefix

	// DeniedCIDRs are ranges that may not be dialled, whatever else is said.
	DeniedCIDRs []netip.Prefix

	// AllowMetadata makes AllowedCIDRs count for link-local addresses and those of a
	// cloud's metadata services, too, which hand out the machine's credentials.
	AllowMetadata bool

	// NAT64 are the /96 prefixes by which this network reaches IPv4 (RFC 6052):
	// of an address in one of them the IPv4 address in it is judged.
	NAT64 []netip.Prefix

	// Own are the gateway's listeners and its Kafka brokers, as host:port. Without a
	// host, or with the unspecified address, every address of this machine is meant.
	// They are never dialled. A name is resolved whenever a receiver has its port.
	Own []string

	// OwnURLs are the URLs under which the gateway is known. No webhook's URL may
	// have host and port of one of them.
	OwnURLs []string
}

// ParseCIDRs reads ranges like 10.1.0.0/16. A single address needs its /32 or /128;
// a range whose address has bits beyond its length, which may be a mistake for a
// longer or a shorter one, is refused.
func ParseCIDRs(list []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range list {
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil || p.Addr().Is4In6():
			return nil, fmt.Errorf("%q is not a range like 10.1.0.0/16 or fd12:3456::/48", text)
		case p != p.Masked():
			return nil, fmt.Errorf("%q has bits beyond its length; %v would be right", text, p.Masked())
		}
		all = append(all, p)
	}
	return all, nil
}

// ParseNAT64 reads the prefixes of NAT64, like 64:ff9b::/96.
func ParseNAT64(list []string) ([]netip.Prefix, error) {
	all, err := ParseCIDRs(list)
	for _, p := range all {
		if p.Bits() != 96 {
			return nil, fmt.Errorf("%v is not a /96", p)
		}
	}
	return all, err
}

// plain is the address that is meant by one: without a zone, with which no prefix
// would contain it, and IPv4 where IPv6 is a way to write or to reach it.
func (p *Policy) plain(a netip.Addr) netip.Addr {
	a = a.WithZone("").Unmap()
	if contains(p.NAT64, a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	return a
}

// allowsAddress judges an address, whatever its form.
func (p *Policy) allowsAddress(a netip.Addr) bool {
	a = p.plain(a)
	switch {
	case !a.IsValid() || contains(nowhere, a) || contains(p.DeniedCIDRs, a):
		return false
	case isPlatform(a) && !p.AllowMetadata:
		return false
	case contains(p.AllowedCIDRs, a):
		return true
	default:
		return public(a) && !isPlatform(a)
	}
}

// allowsPort judges a port and what would be spoken on it.
func (p *Policy) allowsPort(port uint16, secure bool) bool {
	switch {
	case !secure && !p.AllowHTTP:
		return false
	case p.AllowedPorts != nil:
		return p.AllowedPorts.contain(port)
	default:
		return port == 443 || port == 80 && p.AllowHTTP
	}
}

// opensLoopback tells whether this machine's own addresses are allowed, and
// opensPrivate whether some others are that are not public.
func (p *Policy) opensLoopback() bool {
	for _, allowed := range p.AllowedCIDRs {
		if allowed.Overlaps(loopbackV4) || allowed.Overlaps(loopbackV6) {
			return true
		}
	}
	return false
}

func (p *Policy) opensPrivate() bool {
	for _, allowed := range p.AllowedCIDRs {
		if !within(loopbackV4, allowed) && !within(loopbackV6, allowed) {
			return true
		}
	}
	return false
}

// within tells whether a range lies wholly in another.
func within(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}
