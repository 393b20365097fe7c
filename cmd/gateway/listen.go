package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// listen takes an address; the error names the flag that chooses another.
func listen(address, flag string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, listenError(err, address, flag)
	}
	return l, nil
}

func listenError(err error, address, flag string) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s is in use; choose another address with --%s", address, flag)
	}
	return fmt.Errorf("cannot listen on %s (--%s): %w", address, flag, err)
}

// localURL is how a listener is reached from this machine.
func localURL(l net.Listener) string { return "http://" + hostFor(l, "127.0.0.1") }

// publicURL is how a listener is probably reached from elsewhere: by its own
// address, or by the host's name when it listens on all of them.
func publicURL(l net.Listener) string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		name = "127.0.0.1"
	}
	return "http://" + hostFor(l, name)
}

// advertisedURL is how other replicas probably reach a listener: by its own
// address, or by one of this host's when it listens on all of them. Unlike names,
// addresses mean the same to everybody.
func advertisedURL(l net.Listener) string {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		addresses = nil
	}
	return "http://" + hostFor(l, reachable(addresses))
}

// reachable is the first of a host's addresses that other hosts can dial, IPv4
// before IPv6; 127.0.0.1 if there is none.
func reachable(addresses []net.Addr) string {
	found := "127.0.0.1"
	for _, a := range addresses {
		network, ok := a.(*net.IPNet)
		switch {
		case !ok || !network.IP.IsGlobalUnicast():
		case network.IP.To4() != nil:
			return network.IP.String()
		case found == "127.0.0.1":
			found = network.IP.String()
		}
	}
	return found
}

// hostFor is the listener's host:port, with name for a wildcard.
func hostFor(l net.Listener, name string) string {
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return l.Addr().String()
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = name
	}
	return net.JoinHostPort(host, port)
}
