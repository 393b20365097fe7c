// Package kafkanode runs real Apache Kafka for tests and measurements: a single
// node, broker and controller in one, started from Maven's jars without any
// container. It needs a JDK 17 and, the first time, Maven.
package kafkanode

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	startTimeout = time.Minute      // until a node answers; three seconds are usual
	stopTimeout  = 20 * time.Second // for an orderly end, before it is killed
	attempts     = 3                // ports that were free when picked may be taken when used
	logTail      = 16 << 10         // of the log, for a message
)

//go:embed log4j2.properties
var logConfig []byte

// Node is a running node. Its methods may be called by one goroutine at a time;
// Brokers, Log and Tool by any.
type Node struct {
	dir      string // everything of this node, deleted by Stop
	jars     string
	opts     *options
	broker   string // host:port
	stopOnce sync.Once

	process *process
}

// Run starts a node with a data folder of its own and returns when it answers.
// The caller has to Stop it; if this process dies, the node dies with it.
func Run(ctx context.Context, opts ...Option) (*Node, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*startTimeout)
	defer cancel()
	jars, err := jars(ctx)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		n, err := run(ctx, jars, newOptions(opts))
		if err == nil {
			return n, nil
		}
		if attempt == attempts || ctx.Err() != nil {
			return nil, fmt.Errorf("starting Kafka %s: %w", Version, err)
		}
	}
}

func run(ctx context.Context, jars string, opts *options) (*Node, error) {
	dir, err := os.MkdirTemp("", "kpush-kafka-")
	if err != nil {
		return nil, err
	}
	n := &Node{dir: dir, jars: jars, opts: opts}
	if err := n.prepare(ctx); err != nil {
		n.Stop()
		return nil, err
	}
	if err := n.start(ctx); err != nil {
		n.Stop()
		return nil, err
	}
	return n, nil
}

// prepare writes the node's configuration and formats its storage.
func (n *Node) prepare(ctx context.Context) error {
	ports, err := freePorts(2)
	if err != nil {
		return err
	}
	n.broker = address(ports[0])
	properties := n.properties(n.broker, address(ports[1]))
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
	var id [16]byte
	_, _ = rand.Read(id[:]) // it never fails
	uuid := base64.RawURLEncoding.EncodeToString(id[:])
	_, err = n.java(ctx, "kafka.tools.StorageTool", "format", "-t", uuid, "-c", n.path("server.properties"))
	return err
}

// properties are a node's settings: quick where a test would wait, small where a
// single node needs no more.
func (n *Node) properties(broker, controller string) map[string]string {
	return map[string]string{
		"process.roles":                  "broker,controller",
		"node.id":                        "1",
		"controller.quorum.voters":       "1@" + controller,
		"listeners":                      "PLAINTEXT://" + broker + ",CONTROLLER://" + controller,
		"advertised.listeners":           "PLAINTEXT://" + broker,
		"controller.listener.names":      "CONTROLLER",
		"listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"log.dirs":                       n.path("data"),
		"auto.create.topics.enable":      "false",

		"group.initial.rebalance.delay.ms":                            "0",
		"broker.session.timeout.ms":                                   "4000", // how long a killed node's ghost bars its return
		"broker.heartbeat.interval.ms":                                "500",
		"group.min.session.timeout.ms":                                "1000",
		"log.cleaner.backoff.ms":                                      "200",
		"transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",

		"offsets.topic.replication.factor":                 "1",
		"offsets.topic.num.partitions":                     "1",
		"transaction.state.log.replication.factor":         "1",
		"transaction.state.log.min.isr":                    "1",
		"transaction.state.log.num.partitions":             "1",
		"share.coordinator.state.topic.replication.factor": "1",
		"share.coordinator.state.topic.min.isr":            "1",
		"share.coordinator.state.topic.num.partitions":     "1",

		"num.network.threads":            "2",
		"num.io.threads":                 "4",
		"background.threads":             "2",
		"log.cleaner.dedupe.buffer.size": strconv.Itoa(4 << 20),
		"message.max.bytes":              strconv.Itoa(32 << 20),
		"replica.fetch.max.bytes":        strconv.Itoa(32 << 20),
	}
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
	if n.process, err = launch(cmd); err != nil {
		return err
	}
	if err := n.ready(ctx); err != nil {
		n.Kill()
		return fmt.Errorf("%w; its log ends:\n%s", err, n.Log())
	}
	return nil
}

// ready waits until the node knows itself as a broker of its cluster.
func (n *Node) ready(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(n.broker))
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
		if err == nil && len(brokers) > 0 {
			return nil
		}
		select {
		case <-n.process.done:
			return fmt.Errorf("the node ended: %v", n.process.err)
		case <-ctx.Done():
			return fmt.Errorf("the node does not answer: %w", errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

// Brokers is the address for bootstrap.servers. It stays the same over restarts.
func (n *Node) Brokers() string { return n.broker }

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
		n.process.kill()
	}
}

// Restart ends the node in an orderly way if it still runs, and starts it again
// with the same address and data.
func (n *Node) Restart(ctx context.Context) error {
	_ = n.process.cmd.Process.Signal(syscall.SIGTERM) // it may be gone
	select {
	case <-n.process.done:
	case <-time.After(stopTimeout):
		n.Kill()
	}
	if err := n.start(ctx); err != nil {
		return fmt.Errorf("restarting Kafka: %w", err)
	}
	return nil
}

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
		args = append([]string{"--bootstrap-server", n.broker}, args...)
	}
	return n.java(ctx, class, args...)
}

// java runs a class to its end.
func (n *Node) java(ctx context.Context, class string, args ...string) (string, error) {
	all := append(n.javaArgs("warn", "-Xmx128m", "-XX:TieredStopAtLevel=1", class), args...)
	var out strings.Builder
	cmd := exec.Command(all[0], all[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := launch(cmd)
	if err != nil {
		return "", err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill()
		return out.String(), fmt.Errorf("%s: %w", class, ctx.Err())
	}
	if p.err != nil {
		return out.String(), fmt.Errorf("%s: %w\n%s", class, p.err, out.String())
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

// freePorts are ports nobody listens on at the moment.
func freePorts(count int) ([]int, error) {
	var ports []int
	for range count {
		l, err := net.Listen("tcp", address(0))
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // all at the end, so that they differ
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
