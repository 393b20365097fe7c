package egress

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Complaint tells why the policy does not allow a well-formed http or https URL, in
// words that complete "<field> ..." and repeat nothing of it; "" if it does. Names
// are not resolved: what is behind one is judged when it is dialled, and is nobody's
// business before.
func (g *Guard) Complaint(text string) string {
	p := g.policy.Load()
	u, err := url.Parse(text)
	if err != nil {
		return "is not a URL"
	}
	secure := u.Scheme == "https"
	port, err := Port(u)
	switch {
	case !secure && !p.AllowHTTP:
		return "must begin with https://: this installation does not allow http"
	case err != nil || !p.allowsPort(port, secure):
		return "must have a port that this installation allows, such as that of https"
	case p.isOwn(g, u.Hostname(), port):
		return "must not be the gateway's own address"
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		if !p.allowsAddress(a) {
			return "must not be an address that this installation does not allow"
		}
		return ""
	}
	if !p.allowsName(plainName(u.Hostname())) {
		return "must not have a host name of a private network"
	}
	return ""
}

// Port is the port of an http or https URL, that of its scheme where it names none.
func Port(u *url.URL) (uint16, error) {
	text := u.Port()
	if text == "" {
		text = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	port, err := strconv.ParseUint(text, 10, 16)
	return uint16(port), err
}

func samePort(text string, port uint16) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && uint16(n) == port
}

// plainName is a host name as names are compared.
func plainName(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

// privateSuffixes end names that mean something within a network alone. What ends
// in svc.cluster.local is among them.
var privateSuffixes = []string{".internal", ".local", ".localdomain"}

// allowsName judges a host name, which is what people see; its addresses are judged
// when it is dialled.
func (p *Policy) allowsName(name string) bool {
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return p.opensLoopback()
	}
	if name == "metadata.google.internal" {
		return p.AllowMetadata
	}
	private := !strings.Contains(name, ".")
	for _, suffix := range privateSuffixes {
		private = private || strings.HasSuffix(name, suffix)
	}
	return !private || p.opensPrivate()
}

// isOwn tells whether host and port are those of the gateway or of a broker, as far
// as can be told without asking anybody.
func (p *Policy) isOwn(g *Guard, host string, port uint16) bool {
	for _, text := range p.OwnURLs {
		own, err := url.Parse(text)
		if err != nil {
			continue
		}
		if n, err := Port(own); err == nil && n == port && plainName(own.Hostname()) == plainName(host) {
			return true
		}
	}
	target, err := netip.ParseAddr(host)
	isAddress := err == nil
	for _, address := range p.Own {
		ownHost, text, err := net.SplitHostPort(address)
		if err != nil || !samePort(text, port) {
			continue
		}
		a, err := netip.ParseAddr(ownHost)
		switch {
		case ownHost == "" || err == nil && a.IsUnspecified():
			if isAddress && contains(g.machine(), p.plain(target)) || plainName(host) == "localhost" {
				return true
			}
		case err == nil:
			if isAddress && single(a) == single(p.plain(target)) {
				return true
			}
		case plainName(ownHost) == plainName(host):
			return true
		}
	}
	return false
}
