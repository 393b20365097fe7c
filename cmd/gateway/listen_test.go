package main

import (
	"net"
	"testing"

	"github.com/kpush/kpush/replica"
)

func TestReachable(t *testing.T) {
	tests := map[string]struct {
		addresses []string
		want      string
	}{
		"nothing":                       {nil, "127.0.0.1"},
		"loopback alone":                {[]string{"127.0.0.1/8", "::1/128"}, "127.0.0.1"},
		"the first that is no loopback": {[]string{"127.0.0.1/8", "10.1.2.3/16", "192.168.0.7/24"}, "10.1.2.3"},
		"link-local is not reached from elsewhere": {[]string{"fe80::1/64", "169.254.1.1/16", "10.1.2.3/16"}, "10.1.2.3"},
		"IPv4 before IPv6":                         {[]string{"2001:db8::7/64", "10.1.2.3/16"}, "10.1.2.3"},
		"IPv6 alone":                               {[]string{"::1/128", "2001:db8::7/64", "2001:db8::8/64"}, "2001:db8::7"},
	}
	for name, tt := range tests {
		var addresses []net.Addr
		for _, a := range tt.addresses {
			ip, network, err := net.ParseCIDR(a)
			if err != nil {
				t.Fatal(err)
			}
			addresses = append(addresses, &net.IPNet{IP: ip, Mask: network.Mask})
		}
		if got := reachable(addresses); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

func TestTheAdvertisedURLIsOneThatReplicasTake(t *testing.T) {
	for _, address := range []string{":0", "0.0.0.0:0", "127.0.0.1:0", "localhost:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		got := advertisedURL(l)
		if err := replica.CheckURL(got); err != nil {
			t.Errorf("listening on %s: %s: %v", address, got, err)
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		if want := "http://127.0.0.1:" + port; address[0] != ':' && address[0] != '0' && got != want {
			t.Errorf("listening on %s: %s, want %s", address, got, want)
		}
	}
}
