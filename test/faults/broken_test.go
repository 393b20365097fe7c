package faults

import (
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/gatewaytest"
)

// broken has the gateways built with a tag that breaks them on purpose. It skips
// the test where no file knows the tag.
func broken(t *testing.T, tag string) func(*gatewaytest.Config) {
	t.Helper()
	files := func(args ...string) string {
		cmd := exec.Command("go", append([]string{"list", "-f", "{{.GoFiles}}"}, args...)...)
		cmd.Dir = "../../groupmanager"
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("listing the files of groupmanager: %v", err)
		}
		return string(out)
	}
	if files() == files("-tags", tag) {
		t.Skipf("no file of groupmanager is built with the tag %s", tag)
	}
	return func(c *gatewaytest.Config) { c.Tags = []string{tag} }
}

// expect audits without failing the test for what it finds, and fails it unless
// one of the rules was broken.
func (f *field) expect(t *testing.T, rules ...string) {
	t.Helper()
	f.flow.Stop(t)
	report := f.judge(t)
	t.Logf("found %v", report.Rules())
	if !slices.ContainsFunc(report.Anomalies, func(a gatewaytest.Anomaly) bool { return slices.Contains(rules, a.Rule) }) {
		t.Errorf("found %v, want some of %s", report.Rules(), strings.Join(rules, ", "))
	}
}

// lateAcks answers every delivery with 202 and acks it after a while, at the
// gateway that sent it, as the ack's address says.
func (f *field) lateAcks(t *testing.T, after time.Duration) gatewaytest.Script {
	return func(d *gatewaytest.Delivery) gatewaytest.Answer {
		time.AfterFunc(after, func() {
			api := gatewaytest.NewAPI(strings.TrimSuffix(d.AckURL, "/ack"), "")
			_, _ = api.AckDelivery(t.Context(), f.receiver, d, d.Last(), "") // refused, or its gateway has ended
		})
		return gatewaytest.Answer{Status: http.StatusAccepted}
	}
}

// TestBrokenFencingIsFound has acks come late, while partitions move: a gateway
// that takes them for tenures that have ended commits them.
func TestBrokenFencingIsFound(t *testing.T) {
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, lively, broken(t, "broken_fencing"))
	f.receiver.SetScript(f.lateAcks(t, 300*time.Millisecond))
	f.run(t, nil)
	f.shuffle(t, 6)
	f.expect(t, "S1", "S2", "S3", "S4")
}

// TestBrokenDrainIsFound has requests take their time: a gateway that gives its
// partitions up without waiting for them has the next owner send them again.
func TestBrokenDrainIsFound(t *testing.T) {
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, taking(100*time.Millisecond), broken(t, "broken_drain"))
	f.run(t, nil)
	f.known.Clean = true
	f.shuffle(t, 3)
	f.expect(t, "D1")
}

// TestBrokenMonotonicRuleIsFound moves partitions back and forth: a gateway that
// commits whatever it thinks, lower or not, takes the committed offset down.
func TestBrokenMonotonicRuleIsFound(t *testing.T) {
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, lively, broken(t, "broken_monotonic"))
	f.receiver.SetScript(f.lateAcks(t, 300*time.Millisecond))
	f.run(t, nil)
	f.shuffle(t, 6)
	f.expect(t, "S5")
}

// shuffle has gateway c leave and come back so many times.
func (f *field) shuffle(t *testing.T, times int) {
	t.Helper()
	for range times {
		f.gateways["c"].Terminate(t)
		pass(t, time.Second)
		f.start(t, "c")
		gatewaytest.Await(t, later, func() error { return f.shared(t) })
		pass(t, time.Second)
	}
}
