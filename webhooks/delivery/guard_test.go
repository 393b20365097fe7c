package delivery

import (
	"bufio"
	"io"
	"net"
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
