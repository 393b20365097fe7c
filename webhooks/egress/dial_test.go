package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// answers is a resolver; the nth look-up of a name gets the nth list of addresses,
// the last one for ever.
type answers struct {
	names   map[string][]string
	mu      sync.Mutex
	lookups []string
}

func (a *answers) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	lists := a.names[host]
	if network != "ip" || len(lists) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	n := 0
	for _, asked := range a.lookups {
		if asked == host && n < len(lists)-1 {
			n++
		}
	}
	a.lookups = append(a.lookups, host)
	var found []netip.Addr
	for text := range strings.SplitSeq(lists[n], ", ") {
		found = append(found, netip.MustParseAddr(text))
	}
	return found, nil
}

func expectPassed(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("let pass %q, want %q", got, want)
	}
}

func TestA12_OurOwnAddresses(t *testing.T) {
	r := &answers{names: map[string][]string{
		"broker.example.com": {"10.1.0.7, 8.8.4.4"}, "alias.example.com": {"8.8.4.4"}, "innocent.example.com": {"8.8.8.8"},
	}}
	const interfaceAddress = "10.1.0.99"
	gateOf := func(own ...string) *gate {
		g := newGate(Policy{AllowedCIDRs: prefixes("127.0.0.0/8", "::1/128", "10.1.0.0/16"), Own: own}, r)
		g.locals = func() ([]net.Addr, error) {
			return []net.Addr{&net.IPNet{IP: net.ParseIP(interfaceAddress), Mask: net.CIDRMask(24, 32)}}, nil
		}
		return g
	}
	for _, test := range []struct {
		claim   string
		own     string
		host    string
		allowed bool
	}{
		{"a listener", "127.0.0.1:443", "127.0.0.1", false},
		{"another address of its machine", "127.0.0.1:443", "127.0.0.2", true},
		{"another port", "127.0.0.1:8443", "127.0.0.1", true},
		{"a listener on everything, by loopback", ":443", "127.0.0.2", false},
		{"a listener on everything, by IPv6", "0.0.0.0:443", "::1", false},
		{"a listener on everything, by an interface", "[::]:443", interfaceAddress, false},
		{"a listener on everything, and another machine", "[::]:443", "10.1.0.98", true},
		{"a broker by its name", "broker.example.com:443", "broker.example.com", false},
		{"a broker by one of its addresses", "broker.example.com:443", "10.1.0.7", false},
		{"a broker by another name", "broker.example.com:443", "alias.example.com", false},
		{"a broker in mapped form", "10.1.0.7:443", "::ffff:10.1.0.7", false},
		{"a neighbour of a broker", "broker.example.com:443", "innocent.example.com", true},
		{"a broker that cannot be found: nothing is known", "gone.example.com:443", "innocent.example.com", false},
	} {
		t.Run(test.claim, func(t *testing.T) {
			if passed := gateOf(test.own).dialAny(t, test.host); (len(passed) > 0) != test.allowed {
				t.Errorf("let pass %q, want allowed %v", passed, test.allowed)
			}
		})
	}
	g := newGate(Policy{DeniedCIDRs: prefixes("8.8.0.0/16"), AllowedCIDRs: prefixes("8.8.8.0/24")}, nil)
	expectPassed(t, g.dial(t, "8.8.8.8"))
}

func TestA14_OneForbiddenAnswerRefusesTheName(t *testing.T) {
	r := &answers{names: map[string][]string{
		"a.example.com": {"8.8.8.8, 127.0.0.1"}, "b.example.com": {"127.0.0.1, 8.8.8.8"}, "c.example.com": {"8.8.8.8, 2606:4700::1, ::1"},
		"many.example.com": {strings.Repeat("8.8.8.8, ", maxCandidates) + "10.0.0.1"},
	}}
	for name := range r.names {
		expectPassed(t, newGate(Policy{}, r).dial(t, name))
	}
}

func TestA15_Rebinding(t *testing.T) {
	g := newGate(Policy{}, &answers{names: map[string][]string{"rebind.example.com": {"8.8.8.8", "127.0.0.1"}}})
	if complaint := g.Complaint("https://rebind.example.com/"); complaint != "" {
		t.Fatalf("registration: %s", complaint)
	}
	expectPassed(t, g.dial(t, "rebind.example.com"), "8.8.8.8:443")
	expectPassed(t, g.dial(t, "rebind.example.com"))
}

// setter is a resolver during whose work the policy changes.
type setter struct {
	answers
	set func()
}

func (s *setter) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	s.set()
	return s.answers.LookupNetIP(ctx, network, host)
}

func TestA16_TheDialledAddressIsTheJudgedOne(t *testing.T) {
	r := &answers{names: map[string][]string{"alternating.example.com": {"8.8.8.8", "127.0.0.1", "8.8.8.8", "127.0.0.1"}}}
	g := newGate(Policy{}, r)
	for n, want := range [][]string{{"8.8.8.8:443"}, nil, {"8.8.8.8:443"}, nil} {
		expectPassed(t, g.dial(t, "alternating.example.com"), want...)
		if len(r.lookups) != n+1 {
			t.Fatalf("%d look-ups for %d dials, want one each", len(r.lookups), n+1)
		}
	}

	// What is judged before and is forbidden on the socket is refused there.
	s := &setter{answers: answers{names: map[string][]string{"a.example.com": {"8.8.8.8"}}}}
	g = newGate(Policy{}, s)
	s.set = func() { g.Set(Policy{DeniedCIDRs: prefixes("8.8.8.8/32")}) }
	expectPassed(t, g.dial(t, "a.example.com"))
}

// nameServer answers questions on a UDP and a TCP port of loopback, and is the
// resolver that asks it.
type nameServer struct {
	*net.Resolver
	answer func(name string, kind dnsmessage.Type) (rcode dnsmessage.RCode, resources []dnsmessage.Resource, silent bool)
}

func startNameServer(t *testing.T, s *nameServer) *nameServer {
	t.Helper()
	stream, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", stream.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for question := make([]byte, 1<<10); ; {
			n, from, err := packets.ReadFrom(question)
			if err != nil {
				return
			}
			if reply := s.reply(t, question[:n], 512); reply != nil {
				packets.WriteTo(reply, from)
			}
		}
	})
	serving.Go(func() {
		for {
			conn, err := stream.Accept()
			if err != nil {
				return
			}
			head := make([]byte, 2)
			conn.Read(head)
			question := make([]byte, int(head[0])<<8|int(head[1]))
			conn.Read(question)
			if reply := s.reply(t, question, 65535); reply != nil {
				conn.Write(append([]byte{byte(len(reply) >> 8), byte(len(reply))}, reply...))
			}
			conn.Close()
		}
	})
	t.Cleanup(func() { stream.Close(); packets.Close(); serving.Wait() })
	s.Resolver = newResolver(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, stream.Addr().String())
	})
	return s
}

func (s *nameServer) reply(t *testing.T, question []byte, most int) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil {
		t.Errorf("a question: %v", err)
		return nil
	}
	q := m.Questions[0]
	rcode, resources, silent := s.answer(strings.TrimSuffix(q.Name.String(), "."), q.Type)
	if silent {
		return nil
	}
	m = dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true, RCode: rcode}, Questions: m.Questions, Answers: resources}
	packed, err := m.Pack()
	if err == nil && len(packed) > most {
		m.Truncated, m.Answers = true, nil
		packed, err = m.Pack()
	}
	if err != nil {
		t.Errorf("an answer: %v", err)
	}
	return packed
}

func a4(name string, address ...byte) dnsmessage.Resource {
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name + "."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET},
		Body:   &dnsmessage.AResource{A: [4]byte(address)},
	}
}

func aaaa(name, address string) dnsmessage.Resource {
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name + "."), Type: dnsmessage.TypeAAAA, Class: dnsmessage.ClassINET},
		Body:   &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(address).As16()},
	}
}

func cname(name, target string) dnsmessage.Resource {
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name + "."), Type: dnsmessage.TypeCNAME, Class: dnsmessage.ClassINET},
		Body:   &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(target + ".")},
	}
}

func TestA17_EveryCandidateIsJudged(t *testing.T) {
	s := startNameServer(t, &nameServer{answer: func(name string, kind dnsmessage.Type) (dnsmessage.RCode, []dnsmessage.Resource, bool) {
		switch {
		case name == "chain.example.com" && kind == dnsmessage.TypeA:
			return 0, []dnsmessage.Resource{
				cname(name, "middle.example.com"), cname("middle.example.com", "db.corp.internal"), a4("db.corp.internal", 10, 0, 0, 7),
			}, false
		case name == "only6.example.com" && kind == dnsmessage.TypeAAAA:
			return 0, []dnsmessage.Resource{aaaa(name, "fd00::7")}, false
		case name == "good6.example.com" && kind == dnsmessage.TypeAAAA:
			return 0, []dnsmessage.Resource{aaaa(name, "2606:4700::1")}, false
		case name == "both.example.com" && kind == dnsmessage.TypeA:
			return 0, []dnsmessage.Resource{a4(name, 8, 8, 8, 8)}, false
		case name == "both.example.com" && kind == dnsmessage.TypeAAAA:
			return 0, []dnsmessage.Resource{aaaa(name, "::ffff:127.0.0.1")}, false
		}
		return 0, nil, false
	}})
	g := newGate(Policy{}, s)
	expectPassed(t, g.dial(t, "chain.example.com"))
	expectPassed(t, g.dial(t, "only6.example.com"))
	expectPassed(t, g.dial(t, "good6.example.com"), "[2606:4700::1]:443")
	expectPassed(t, g.dial(t, "both.example.com"))

	// Of two families both are tried, and each address passes the gate by itself.
	r := &answers{names: map[string][]string{"two.example.com": {"2606:4700::1, 8.8.8.8, 2606:4700::2"}}}
	expectPassed(t, newGate(Policy{}, r).dial(t, "two.example.com"), "[2606:4700::1]:443", "[2606:4700::2]:443", "8.8.8.8:443")
}

// TestTheFirstToAnswerWins races a family that hangs against one that answers, and
// leaves no second connection.
func TestTheFirstToAnswerWins(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	hung := make(chan struct{})
	g := New(Policy{AllowHTTP: true, AllowedPorts: Ports{{1, 65535}}, AllowedCIDRs: prefixes("127.0.0.0/8", "fd12::/16")}, Options{
		Resolver: &answers{names: map[string][]string{"two.example.com": {"fd12::1, 127.0.0.1"}}},
		Control: func(network, _ string, _ syscall.RawConn) error {
			if network == "tcp6" {
				<-hung
				return errors.New("too late")
			}
			time.AfterFunc(100*time.Millisecond, func() { close(hung) })
			return nil
		},
	})
	conn, err := g.Dial(t.Context(), "two.example.com", port, false)
	if err != nil {
		t.Fatalf("dialing: %v", err)
	}
	defer conn.Close()
	if got := conn.RemoteAddr().String(); got != l.Addr().String() {
		t.Errorf("connected to %s, want %s", got, l.Addr())
	}
}

// TestT2_NobodyTakesTheConnection dials a listener whose queue is full, so that the
// kernel drops what asks for more.
func TestT2_NobodyTakesTheConnection(t *testing.T) {
	if connectTimeout != 3*time.Second {
		t.Errorf("connecting may take %v, want 3s", connectTimeout)
	}
	full := fullListener(t)
	g := New(Policy{AllowHTTP: true, AllowedPorts: Ports{{1, 65535}}, AllowedCIDRs: prefixes("127.0.0.0/8")}, Options{ConnectTimeout: 300 * time.Millisecond})
	began := time.Now()
	conn, err := g.Dial(t.Context(), "127.0.0.1", full, false)
	if took := time.Since(began); took < 300*time.Millisecond || took > 2*time.Second {
		t.Errorf("it took %v, want the connect timeout", took)
	}
	if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "dial" || !op.Timeout() {
		t.Errorf("got %v and %v, want a dial that timed out", conn, err)
	}
}

// fullListener is the port of a listener that takes no connection any more.
func fullListener(t *testing.T) uint16 {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := name.(*syscall.SockaddrInet4).Port
	for range 8 {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 200*time.Millisecond)
		if err != nil {
			return uint16(port)
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Skip("this kernel takes connections that nobody accepts")
	return 0
}

func TestT17_NameServers(t *testing.T) {
	if lookupTimeout != 5*time.Second {
		t.Errorf("a look-up may take %v, want 5s", lookupTimeout)
	}
	var asked sync.Map
	s := startNameServer(t, &nameServer{answer: func(name string, kind dnsmessage.Type) (dnsmessage.RCode, []dnsmessage.Resource, bool) {
		asked.Store(name, true)
		switch name {
		case "silent.example.com":
			return 0, nil, true
		case "servfail.example.com":
			return dnsmessage.RCodeServerFailure, nil, false
		case "many.example.com", "trap.example.com":
			if kind != dnsmessage.TypeA {
				return 0, nil, false
			}
			var all []dnsmessage.Resource
			for n := range 1000 {
				all = append(all, a4(name, 8, 8, byte(n>>8), byte(n)))
			}
			if name == "trap.example.com" {
				all = append(all, a4(name, 10, 0, 0, 1))
			}
			return 0, all, false
		}
		return dnsmessage.RCodeNameError, nil, false
	}})
	g := newGate(Policy{}, s)
	g.options.LookupTimeout = 300 * time.Millisecond
	for _, name := range []string{"silent.example.com", "servfail.example.com", "nothing.example.com"} {
		began := time.Now()
		conn, err := g.Dial(t.Context(), name, 443, true)
		if _, ok := errors.AsType[*net.DNSError](err); !ok || conn != nil {
			t.Errorf("%s: %v, want a DNS error", name, err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s took %v, want the budget at most", name, took)
		}
		if _, ok := asked.Load(name); !ok {
			t.Errorf("the name server was not asked for %s", name)
		}
	}
	g.options.LookupTimeout = lookupTimeout
	if passed := g.dial(t, "many.example.com"); len(passed) != maxCandidates {
		t.Errorf("of a thousand addresses %d were tried, want %d", len(passed), maxCandidates)
	}
	expectPassed(t, g.dial(t, "trap.example.com"))
}

// TestPortsAndSchemesAreJudgedAtDial: a webhook may be older than the policy.
func TestPortsAndSchemesAreJudgedAtDial(t *testing.T) {
	ports := func(list ...string) Ports {
		p, err := ParsePorts(list)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, test := range []struct {
		claim  string
		policy Policy
		port   uint16
		secure bool
		good   bool
	}{
		{"https", Policy{}, 443, true, true},
		{"http", Policy{}, 80, false, false},
		{"https on the port of http", Policy{}, 80, true, false},
		{"http where it is allowed", Policy{AllowHTTP: true}, 80, false, true},
		{"http on the port of https", Policy{AllowHTTP: true}, 443, false, true},
		{"another port", Policy{AllowHTTP: true}, 8080, false, false},
		{"a port of the list", Policy{AllowedPorts: ports("8443")}, 8443, true, true},
		{"443, which the list leaves out", Policy{AllowedPorts: ports("8443")}, 443, true, false},
		{"within a range", Policy{AllowedPorts: ports("443", "8000-8099")}, 8099, true, true},
		{"beyond a range", Policy{AllowedPorts: ports("443", "8000-8099")}, 8100, true, false},
		{"any", Policy{AllowedPorts: ports(AnyPort)}, 9092, true, true},
		{"port 0 is none", Policy{AllowedPorts: ports(AnyPort)}, 0, true, false},
	} {
		g := newGate(test.policy, nil)
		_, err := g.Dial(t.Context(), "8.8.8.8", test.port, test.secure)
		if denied := errors.Is(err, ErrDenied); denied == test.good || denied && len(g.passed) > 0 {
			t.Errorf("%s: %v, passed %q; want good = %v", test.claim, err, g.passed, test.good)
		}
	}
}

func TestPolicyText(t *testing.T) {
	for text, good := range map[string]bool{
		"443": true, "1-65535": true, "8000-8099": true, "any": true,
		"": false, "0": false, "65536": false, "443-": false, "-1": false, "9-8": false, "https": false, "1-2-3": false, "+1": false,
	} {
		if _, err := ParsePorts([]string{text}); (err == nil) != good {
			t.Errorf("ParsePorts(%q): %v, want good = %v", text, err, good)
		}
	}
	for text, good := range map[string]bool{
		"10.1.0.0/16": true, "fd00::/8": true, "10.0.0.1/32": true, "0.0.0.0/0": true,
		"": false, "10.1.0.0": false, "10.1.2.3/16": false, "::ffff:10.0.0.0/104": false, "10.0.0.0/33": false, "fe80::1%eth0/64": false,
	} {
		if _, err := ParseCIDRs([]string{text}); (err == nil) != good {
			t.Errorf("ParseCIDRs(%q): %v, want good = %v", text, err, good)
		}
	}
	for text, good := range map[string]bool{"64:ff9b::/96": true, "64:ff9b::/64": false, "x": false} {
		if _, err := ParseNAT64([]string{text}); (err == nil) != good {
			t.Errorf("ParseNAT64(%q): %v, want good = %v", text, err, good)
		}
	}
}
