package egress

import "net/netip"

// The rule for addresses: of IPv4 everything but what is listed here, of IPv6
// nothing but global unicast without what is listed here. The lists are those of
// IANA's special-purpose registries, whether they call a block reachable or not:
// nobody has a receiver in any of them.
var (
	specialV4 = prefixes(
		"0.0.0.0/8",       // this network
		"10.0.0.0/8",      // private, RFC 1918
		"100.64.0.0/10",   // carrier-grade NAT, RFC 6598
		"127.0.0.0/8",     // loopback
		"169.254.0.0/16",  // link-local, where metadata services are
		"172.16.0.0/12",   // private
		"192.0.0.0/24",    // protocol assignments, RFC 6890
		"192.0.2.0/24",    // documentation, RFC 5737
		"192.31.196.0/24", // AS112, RFC 7535
		"192.52.193.0/24", // AMT, RFC 7450
		"192.88.99.0/24",  // 6to4 relays, RFC 7526
		"192.168.0.0/16",  // private
		"192.175.48.0/24", // AS112, RFC 7534
		"198.18.0.0/15",   // benchmarking, RFC 2544
		"198.51.100.0/24", // documentation
		"203.0.113.0/24",  // documentation
		"224.0.0.0/4",     // multicast
		"240.0.0.0/4",     // reserved, and broadcast
	)
	globalV6  = netip.MustParsePrefix("2000::/3")
	sixToFour = netip.MustParsePrefix("2002::/16") // RFC 3056
	specialV6 = prefixes(
		"2001::/23",         // protocol assignments, RFC 2928: Teredo, ORCHID and more
		"2001:db8::/32",     // documentation, RFC 3849
		"2002::/16",         // 6to4
		"2620:4f:8000::/48", // AS112, RFC 7534
		"3fff::/20",         // documentation, RFC 9637
	)
)

// nowhere is where no receiver is, whatever a policy allows. To dial 0.0.0.0 or ::
// is to dial this machine.
var nowhere = prefixes("0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "::/128", "ff00::/8")

// platform is where clouds hand out credentials and configuration. An allowed range
// that covers one of these does not open it: see Policy.AllowMetadata.
var platform = prefixes(
	"169.254.0.0/16",     // almost everybody's metadata service, and ECS's and EKS's credentials
	"168.63.129.16/32",   // Azure
	"100.100.100.200/32", // Alibaba Cloud
	"192.0.0.192/32",     // Oracle Cloud
	"fe80::/10",          // link-local
	"fd00:ec2::/32",      // AWS
	"fd20:ce::/32",       // Google Cloud
)

var (
	loopbackV4 = netip.MustParsePrefix("127.0.0.0/8")
	loopbackV6 = netip.MustParsePrefix("::1/128")
)

// public tells whether an address, unmapped and without a zone, is one of the
// internet's.
func public(a netip.Addr) bool {
	if a.Is4() {
		return !contains(specialV4, a)
	}
	return globalV6.Contains(a) && !contains(specialV6, a) && !isISATAP(a)
}

// isISATAP tells whether the interface id of an IPv6 address says that an IPv4 one
// is in it (RFC 5214, 6.1).
func isISATAP(a netip.Addr) bool {
	b := a.As16()
	return b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
}

// embedding are the ranges whose addresses end in an IPv4 one: IPv4-compatible,
// SIIT (RFC 2765), NAT64 (RFC 6052, RFC 8215).
var embedding = prefixes("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")

// isPlatform tells whether an address, unmapped and without a zone, belongs to a
// cloud's platform, or is IPv6 from which some network may make such an IPv4 one.
func isPlatform(a netip.Addr) bool {
	if contains(platform, a) {
		return true
	}
	if a.Is4() {
		return false
	}
	b := a.As16()
	last, first := netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[2:6]))
	return (contains(embedding, a) || isISATAP(a)) && contains(platform, last) ||
		sixToFour.Contains(a) && contains(platform, first)
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}
