package delivery

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/egress"
)

// guardedClient is a client whose guard the test has.
func guardedClient(t *testing.T, url string, o egress.Options, edits ...func(*webhooks.Webhook)) (*Client, *egress.Guard) {
	t.Helper()
	cfg := testConfig(testWebhook(url, edits...))
	cfg.Guard = testGuard(o)
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, cfg.Guard
}

// TestA18_AChangedPolicyClosesConnections: neither one that is kept for the next
// delivery nor one that is in use outlives the policy under which it was made.
func TestA18_AChangedPolicyClosesConnections(t *testing.T) {
	arrived, answer, gone := make(chan struct{}), make(chan struct{}), make(chan struct{}, 2)
	url := listen(t, func(conn net.Conn, _ int) {
		for in := bufio.NewReader(conn); ; {
			if _, err := readRequest(in); err != nil {
				gone <- struct{}{}
				return
			}
			arrived <- struct{}{}
			<-answer
			io.WriteString(conn, okHead+"Content-Length: 0\r\n\r\n")
		}
	})
	c, guard := guardedClient(t, url, egress.Options{})
	awaitGone := func() {
		t.Helper()
		select {
		case <-gone:
		case <-time.After(5 * time.Second):
			t.Fatal("the connection is still open")
		}
	}
	serve := func(meanwhile func()) {
		<-arrived
		meanwhile()
		answer <- struct{}{}
	}

	go serve(func() {})
	expect(t, deliver(t, c), Acked, 200, "")
	guard.Set(egress.Policy{})
	awaitGone() // without another delivery
	expect(t, deliver(t, c), Failed, 0, CodeAddressDenied)

	guard.Set(testPolicy())
	go serve(func() { guard.Set(egress.Policy{}) })
	expect(t, deliver(t, c), Acked, 200, "") // what is under way ends as it would have
	awaitGone()
	expect(t, deliver(t, c), Failed, 0, CodeAddressDenied)
}

func TestAClosedClientWatchesNoPolicy(t *testing.T) {
	c, guard := guardedClient(t, answering(t, okHead+"Content-Length: 0\r\n\r\n"), egress.Options{})
	expect(t, deliver(t, c), Acked, 200, "")
	c.Close()
	before := c.wires.age()
	guard.Set(testPolicy())
	if got := c.wires.age(); got != before {
		t.Errorf("a change of the policy was told to a closed client: age %d, want %d", got, before)
	}
}

// TestA19_ProxiesOfTheEnvironmentAreIgnored: a proxy would be dialled in place of the
// receiver, and judged in its place.
func TestA19_ProxiesOfTheEnvironmentAreIgnored(t *testing.T) {
	var asked atomic.Int32
	proxy := listen(t, func(net.Conn, int) { asked.Add(1) })
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		t.Setenv(name, proxy)
	}
	expect(t, deliver(t, testClient(t, "http://receiver.invalid")), Failed, 0, CodeDNS)
	expect(t, deliver(t, testClient(t, "https://receiver.invalid")), Failed, 0, CodeDNS)
	expect(t, deliver(t, testClient(t, answering(t, okHead+"Content-Length: 0\r\n\r\n"))), Acked, 200, "")
	if n := asked.Load(); n != 0 {
		t.Errorf("the proxy was asked %d times, want never", n)
	}
}

// TestWithoutAGuardNothingInsideIsReached: who forgets to give one gets the strictest.
func TestWithoutAGuardNothingInsideIsReached(t *testing.T) {
	var reached atomic.Int32
	url := listen(t, func(net.Conn, int) { reached.Add(1) })
	cfg := testConfig(testWebhook(url))
	cfg.Guard = nil
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	expect(t, deliver(t, c), Failed, 0, CodeAddressDenied)
	if n := reached.Load(); n != 0 {
		t.Errorf("%d connections came, want none", n)
	}
}

// rebinding is a name server whose first answer is innocent.
type rebinding struct{ lookups atomic.Int32 }

func (r *rebinding) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	if r.lookups.Add(1) == 1 {
		return []netip.Addr{netip.MustParseAddr("8.8.8.8")}, nil
	}
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

// TestA15_RebindingReachesNothing: what a name led to when it was registered counts for nothing.
func TestA15_RebindingReachesNothing(t *testing.T) {
	var reached atomic.Int32
	url := listen(t, func(net.Conn, int) { reached.Add(1) })
	policy := testPolicy()
	policy.AllowedCIDRs = nil
	names := &rebinding{}
	cfg := testConfig(testWebhook(strings.Replace(url, "127.0.0.1", "rebind.example.com", 1)))
	cfg.Webhook.Lifecycle = &webhooks.Lifecycle{URL: cfg.Webhook.URL}
	cfg.Guard = egress.New(policy, egress.Options{Resolver: names, Control: func(string, string, syscallConn) error {
		return errors.New("not in a test")
	}})
	if err := cfg.Webhook.Admit(cfg.Guard); err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n, err := NewNotifier(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	expect(t, deliver(t, c), Failed, 0, CodeConnectFailed) // let pass, to a public address
	expect(t, deliver(t, c), Failed, 0, CodeAddressDenied)
	expect(t, n.Notify(t.Context(), "lc_1", testNotice()), Failed, 0, CodeAddressDenied)
	if n := reached.Load(); n != 0 {
		t.Errorf("127.0.0.1 was reached %d times", n)
	}
}

// TestU8_OurOwn508: only our own installation's answer says that there is a loop.
func TestU8_OurOwn508(t *testing.T) {
	const length = "Content-Length: 0\r\n\r\n"
	for _, test := range []struct {
		claim, answer string
		verdict       Verdict
		code          string
	}{
		{"with our marker", "HTTP/1.1 508 X\r\nkpush-loop: marker\r\n" + length, Looped, CodeLoop},
		{"with another's", "HTTP/1.1 508 X\r\nkpush-loop: other\r\n" + length, Failed, "http_508"},
		{"without any", "HTTP/1.1 508 X\r\n" + length, Failed, "http_508"},
		{"with our marker in another failure", "HTTP/1.1 500 X\r\nkpush-loop: marker\r\n" + length, Failed, "http_500"},
	} {
		res := deliver(t, testClient(t, answering(t, test.answer)))
		if res.Verdict != test.verdict || res.Code != test.code {
			t.Errorf("508 %s: verdict %d, code %q; want %d, %q", test.claim, res.Verdict, res.Code, test.verdict, test.code)
		}
	}
}
