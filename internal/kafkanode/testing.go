package kafkanode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
)

// requireVariable turns the skip of tests that cannot have a node into a failure.
const requireVariable = "KPUSH_REQUIRE_KAFKA"

// Available tells what is missing for running a node on this machine, nil for nothing.
func Available() error {
	if _, err := exec.LookPath("java"); err != nil {
		return errors.New("java is not on the path")
	}
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	if _, err := exec.LookPath("mvn"); err != nil && !present(jarsIn(root)) {
		return errors.New("mvn, which fetches Kafka's jars, is not on the path")
	}
	return nil
}

// Require skips the test where no node can be run; with KPUSH_REQUIRE_KAFKA=1 it
// fails the test instead.
func Require(t testing.TB) {
	t.Helper()
	err := Available()
	switch {
	case err == nil:
	case os.Getenv(requireVariable) == "1":
		t.Fatalf("needs Apache Kafka %s: %v (%s=1 forbids skipping)", Version, err, requireVariable)
	default:
		t.Skipf("needs Apache Kafka %s: %v", Version, err)
	}
}

// Start runs a node until the test ends. It skips or fails like Require. If the
// test fails, the end of the node's log goes with it.
func Start(t testing.TB, opts ...Option) *Node {
	t.Helper()
	Require(t)
	n, err := Run(t.Context(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	logIfFailed(t, n)
	return n
}

// logIfFailed adds the end of the node's log to a failed test's messages.
func logIfFailed(t testing.TB, n *Node) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the Kafka node's log ends:\n%s", n.Log())
		}
	})
}

// Shared is one node for all tests of a package, started when the first asks for
// it. Declare it as a variable and Stop it in TestMain, after m.Run.
type Shared struct {
	Options []Option

	once sync.Once
	node *Node
	err  error
}

// Node is the shared node. It skips or fails like Require. If the test fails,
// the end of the node's log goes with it.
func (s *Shared) Node(t testing.TB) *Node {
	t.Helper()
	Require(t)
	s.once.Do(func() {
		s.node, s.err = Run(context.Background(), s.Options...)
	})
	if s.err != nil {
		t.Fatal(fmt.Errorf("the shared node: %w", s.err))
	}
	logIfFailed(t, s.node)
	return s.node
}

// Stop ends the node if it was started.
func (s *Shared) Stop() {
	if s.node != nil {
		s.node.Stop()
	}
}

// StartCluster runs a cluster until the test ends. It skips or fails like Require.
// If the test fails, the ends of the nodes' logs go with it.
func StartCluster(t testing.TB, size int, opts ...Option) *Cluster {
	t.Helper()
	Require(t)
	c, err := RunCluster(t.Context(), size, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	for _, n := range c.nodes {
		logIfFailed(t, n)
	}
	return c
}

// SharedCluster is one cluster for all tests of a package, as Shared is one node.
// A test that ends nodes starts them again, or its successors find them gone.
type SharedCluster struct {
	Size    int
	Options []Option

	once    sync.Once
	cluster *Cluster
	err     error
}

// Cluster is the shared cluster. It skips or fails like Require. If the test
// fails, the ends of the nodes' logs go with it.
func (s *SharedCluster) Cluster(t testing.TB) *Cluster {
	t.Helper()
	Require(t)
	s.once.Do(func() {
		s.cluster, s.err = RunCluster(context.Background(), s.Size, s.Options...)
	})
	if s.err != nil {
		t.Fatal(fmt.Errorf("the shared cluster: %w", s.err))
	}
	for _, n := range s.cluster.nodes {
		logIfFailed(t, n)
	}
	return s.cluster
}

// Stop ends the cluster if it was started.
func (s *SharedCluster) Stop() {
	if s.cluster != nil {
		s.cluster.Stop()
	}
}
