// Package kafkanode runs real Apache Kafka for tests and measurements: a single
// node, or a cluster of several, each broker and controller in one, started from
// Maven's jars without any container. It needs a JDK 17 and, the first time, Maven.
package kafkanode

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/childprocess"
)

const (
	startTimeout = time.Minute      // until a node answers; three seconds are usual
	stopTimeout  = 20 * time.Second // for an orderly end, before it is killed
	attempts     = 3                // ports that were free when picked may be taken when used
	logTail      = 16 << 10         // of the log, for a message
)

//go:embed log4j2.properties
var logConfig []byte

// Node is a node, running or not. Its methods may be called by one goroutine at a
// time; Brokers, Detour, Log and Tool by any.
type Node struct {
	dir      string // everything of this node, deleted by Stop
	jars     string
	opts     *options
	seat     seat
	stopOnce sync.Once

	process *childprocess.Process // nil before the first start
}

// Run starts a single node with a data folder of its own and returns when it
// answers. The caller has to Stop it; if this process dies, the node dies with it.
func Run(ctx context.Context, opts ...Option) (*Node, error) {
	c, err := RunCluster(ctx, 1, opts...)
	if err != nil {
		return nil, err
	}
	return c.nodes[0], nil
}

// prepare writes the node's configuration and formats its storage.
func (n *Node) prepare(ctx context.Context, properties map[string]string, cluster string) error {
	maps.Copy(properties, n.opts.properties)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		fmt.Fprintf(&text, "%s=%s\n", name, properties[name])
	}
	if err := os.WriteFile(n.path("server.properties"), []byte(text.String()), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(n.path("log4j2.properties"), logConfig, 0o644); err != nil {
		return err
	}
	_, err := n.java(ctx, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", n.path("server.properties"))
	return err
}

// start launches the node and waits until it answers.
func (n *Node) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	log, err := os.OpenFile(n.path("node.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own
	args := n.javaArgs("info", "-Xmx"+n.opts.heap, "kafka.Kafka", n.path("server.properties"))
	if n.opts.cpus != "" {
		args = append([]string{"taskset", "-c", n.opts.cpus}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = n.dir, log, log
	process, err := childprocess.Start(cmd)
	if err != nil {
		return err
	}
	n.process = process
	if err := n.ready(ctx); err != nil {
		n.Kill()
		return fmt.Errorf("%w; its log ends:\n%s", err, n.Log())
	}
	return nil
}

// ready waits until the node knows itself as a broker of its cluster.
func (n *Node) ready(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(n.seat.broker))
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		brokers, err := admin.ListBrokers(attempt)
		cancel()
		if err == nil && slices.Contains(brokers.NodeIDs(), int32(n.seat.id)) {
			return nil
		}
		select {
		case <-n.process.Done():
			_, err := n.process.State()
			return fmt.Errorf("the node ended: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("the node does not answer: %w", errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

// Brokers is the address for bootstrap.servers. It stays the same over restarts.
func (n *Node) Brokers() string { return n.seat.broker }

// Detour is where the node listens for clients that come by way of something in
// between, empty without WithDetour. It stays the same over restarts.
func (n *Node) Detour() string { return n.seat.detour }

// ID is the node's id in its cluster, from 1.
func (n *Node) ID() int32 { return int32(n.seat.id) }

// Log is the end of what the node has said.
func (n *Node) Log() string {
	text, err := os.ReadFile(n.path("node.log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-logTail):])
}

// Kill ends the node at once, as a power cut would; its data stays for Restart.
func (n *Node) Kill() {
	if n.process != nil {
		n.process.Kill()
	}
}

// Shutdown ends the node in an orderly way, handing over what it leads; its data
// stays for Restart. A node that takes too long, or is paused, is killed.
func (n *Node) Shutdown() {
	_ = n.process.Signal(syscall.SIGTERM) // it is killed if it does not hear
	select {
	case <-n.process.Done():
	case <-time.After(stopTimeout):
		n.Kill()
	}
}

// Restart ends the node in an orderly way if it still runs, and starts it again
// with the same address and data.
func (n *Node) Restart(ctx context.Context) error {
	n.Shutdown()
	if err := n.start(ctx); err != nil {
		return fmt.Errorf("restarting Kafka: %w", err)
	}
	return nil
}

// Pause stops the node where it stands: its connections stay open and silent.
func (n *Node) Pause() error { return n.process.Pause() }

// Continue lets a paused node go on.
func (n *Node) Continue() error { return n.process.Continue() }

// Stop ends the node for good and deletes all it had.
func (n *Node) Stop() {
	n.stopOnce.Do(func() {
		n.Kill()
		_ = os.RemoveAll(n.dir)
	})
}

// Tool runs one of Kafka's command line tools, named by its class, like
// org.apache.kafka.tools.ConsumerGroupCommand, and returns all that it printed.
// --bootstrap-server is added where args do not have it.
func (n *Node) Tool(ctx context.Context, class string, args ...string) (string, error) {
	if !slices.Contains(args, "--bootstrap-server") {
		args = append([]string{"--bootstrap-server", n.seat.broker}, args...)
	}
	return n.java(ctx, class, args...)
}

// java runs a class to its end.
func (n *Node) java(ctx context.Context, class string, args ...string) (string, error) {
	all := append(n.javaArgs("warn", "-Xmx128m", "-XX:TieredStopAtLevel=1", class), args...)
	var out strings.Builder
	cmd := exec.Command(all[0], all[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := childprocess.Start(cmd)
	if err != nil {
		return "", err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Kill()
		return out.String(), fmt.Errorf("%s: %w", class, ctx.Err())
	}
	if _, err := p.State(); err != nil {
		return out.String(), fmt.Errorf("%s: %w\n%s", class, err, out.String())
	}
	return out.String(), nil
}

// javaArgs is a command line of java, up to and including args.
func (n *Node) javaArgs(level string, args ...string) []string {
	return append([]string{
		"java", "-cp", filepath.Join(n.jars, "*"),
		"-Dlog4j2.configurationFile=" + n.path("log4j2.properties"),
		"-Dkpush.level=" + level,
	}, args...)
}

func (n *Node) path(name string) string { return filepath.Join(n.dir, name) }
