package webhooks

import (
	"errors"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/net/idna"
)

var (
	hostPattern = regexp.MustCompile(`^[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?(\.[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?)*\.?$`)

	// numberPattern matches a label that makes a host an IPv4 address to browsers and
	// to C libraries when it is the last (WHATWG URL, "ends in a number").
	numberPattern = regexp.MustCompile(`^([0-9]+|0[xX][0-9a-fA-F]*)$`)
)

// checkURL checks the form of a URL. What is refused for its own sake, and would be
// under any policy, is not allowed; what only does not fit is not valid. Which
// schemes, ports, names and addresses an installation allows is package egress's
// to say.
func checkURL(c *complaints, pointer, text string) {
	if text == "" {
		c.add(pointer, "is required")
		return
	}
	if len(text) > maxURL {
		c.refuse(pointer, "must be at most %d bytes", maxURL)
		return
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }) {
		c.refuse(pointer, "must not hold spaces, control characters or backslashes: write them percent-encoded")
		return
	}
	u, err := url.Parse(text)
	if _, escape := errors.AsType[url.EscapeError](err); escape {
		c.add(pointer, "has a percent sign that encodes nothing")
		return
	}
	switch {
	case err != nil:
		c.refuse(pointer, "is not a URL with a host, and a port from 1 to 65535 if any")
	case u.Scheme != "http" && u.Scheme != "https":
		c.refuse(pointer, "must be absolute and begin with https:// or http://")
	case u.User != nil:
		c.refuse(pointer, "must not hold a user name or password")
	case strings.Contains(text, "#"):
		c.refuse(pointer, "must not have a fragment")
	case u.Hostname() == "" || strings.Contains(u.Hostname(), ":") && u.Host[0] != '[' || !validPort(u):
		c.refuse(pointer, "must name a host, and a port from 1 to 65535 if any")
	case !isASCII(u.Host):
		c.refuse(pointer, "must have a host name in plain lower case: letters and digits of other widths and forms are not taken")
	case u.Host[0] == '[' && !validIPv6(u.Hostname()), oddNumber(u.Hostname()):
		c.refuse(pointer, "must have an address, if it has one, as IPv4 in four decimal numbers or as IPv6 in brackets without a zone")
	case u.Host[0] != '[' && (len(u.Hostname()) > 253 || !hostPattern.MatchString(u.Hostname())):
		c.add(pointer, "must have a host name of letters, digits, hyphens and dots")
	case !isASCII(text):
		c.add(pointer, "must be ASCII but for its host: write other characters percent-encoded")
	}
}

func validPort(u *url.URL) bool {
	port := u.Port()
	if port == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n != 0
}

func validIPv6(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.Is6() && a.Zone() == ""
}

// oddNumber tells whether a host is a number to some resolver and yet not an IPv4
// address in its plain form: 2130706433, 0x7f000001, 0177.0.0.1, 127.1, 127.0.0.1.
func oddNumber(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Zone() != ""
	}
	host = strings.TrimSuffix(host, ".")
	return numberPattern.MatchString(host[strings.LastIndexByte(host, '.')+1:])
}

func isASCII(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r > '~' })
}

// punycode writes the host of a URL in ASCII (RFC 5891, 4), if it can be: that is
// what is dialled, and what people should see who look whether it is the name they
// mean. A name is not made to fit: what would first have to become another form
// of itself, as full-width digits, is left as it is, and checkURL refuses it.
func punycode(text string) string {
	if isASCII(text) {
		return text
	}
	u, err := url.Parse(text)
	if err != nil || isASCII(u.Hostname()) {
		return text
	}
	name := strings.TrimSuffix(u.Hostname(), ".")
	for label := range strings.SplitSeq(name, ".") {
		if !strings.ContainsFunc(label, func(r rune) bool { return !unicode.IsDigit(r) }) {
			return text // a number, to somebody
		}
	}
	host, err := idna.Registration.ToASCII(name)
	if err != nil {
		return text
	}
	scheme, rest, _ := strings.Cut(text, "://")
	return scheme + "://" + strings.Replace(rest, name, host, 1)
}
