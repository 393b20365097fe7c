package faults

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/gatewaytest"
)

// broken has the gateways built so that they break one of their promises on purpose:
// see groupmanager/unsound.go.
func broken(promise string) func(*gatewaytest.Config) {
	return func(c *gatewaytest.Config) {
		c.Tags = []string{"unsound"}
		c.Env = append(c.Env, "UNSOUND_KPUSH="+promise)
	}
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

// TestBrokenFencingIsFound moves partitions, and has their former owners commit them
// once more, in a generation that the broker has no reason to refuse.
func TestBrokenFencingIsFound(t *testing.T) {
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, lively, broken("fencing"))
	f.run(t, nil)
	f.shuffle(t, 2)
	f.expect(t, "S2")
}

// TestBrokenAcksAreFound has commits run ahead of what was acked.
func TestBrokenAcksAreFound(t *testing.T) {
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, lively, broken("acks"))
	f.run(t, nil)
	pass(t, time.Second)
	f.expect(t, "S1")
}

// TestBrokenDrainIsFound has requests take their time: a gateway that gives its
// partitions up without waiting for them has the next owner send them again.
func TestBrokenDrainIsFound(t *testing.T) {
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, func(*gatewaytest.Delivery) gatewaytest.Answer {
		time.Sleep(100 * time.Millisecond) // and the records are done, whether or not anybody reads the answer
		return gatewaytest.Answer{}
	}, broken("drain"))
	f.run(t, nil)
	f.known.Clean = true
	f.shuffle(t, 2)
	f.expect(t, "D1")
}

// TestBrokenMonotonicRuleIsFound has every other commit lie below the one before.
func TestBrokenMonotonicRuleIsFound(t *testing.T) {
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, lively, broken("monotonic"))
	f.run(t, nil)
	pass(t, time.Second)
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
