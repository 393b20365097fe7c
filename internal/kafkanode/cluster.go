package kafkanode

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Cluster is a number of nodes that are one Kafka: each a broker, and a voter of
// the controllers' quorum. From three nodes on, topics have three replicas unless
// they say otherwise, two of which must be in sync for a write. Its methods may be
// called by one goroutine at a time; Brokers by any.
type Cluster struct {
	nodes []*Node
}

// offsetsTopic is where Kafka keeps groups; it has one partition here, so its
// leader is the coordinator of all groups.
const offsetsTopic = "__consumer_offsets"

// RunCluster starts a cluster with data folders of its own and returns when all
// nodes answer. The caller has to Stop it; if this process dies, it dies with it.
func RunCluster(ctx context.Context, size int, opts ...Option) (*Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*startTimeout)
	defer cancel()
	jars, err := jars(ctx)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		c, err := runCluster(ctx, jars, size, newOptions(opts))
		if err == nil {
			return c, nil
		}
		if attempt == attempts || ctx.Err() != nil {
			return nil, fmt.Errorf("starting Kafka %s: %w", Version, err)
		}
	}
}

func runCluster(ctx context.Context, jars string, size int, opts *options) (*Cluster, error) {
	if opts.heap == "" {
		opts.heap = "512m"
		if size > 1 {
			opts.heap = "384m"
		}
	}
	all, err := seats(size, opts.detours)
	if err != nil {
		return nil, err
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // it never fails
	uuid := base64.RawURLEncoding.EncodeToString(id[:])
	c := new(Cluster)
	for _, s := range all {
		dir, err := os.MkdirTemp("", "kpush-kafka-")
		if err != nil {
			c.Stop()
			return nil, err
		}
		c.nodes = append(c.nodes, &Node{dir: dir, jars: jars, opts: opts, seat: s})
	}
	err = c.each(func(n *Node) error {
		if err := n.prepare(ctx, properties(n.seat, all, n.path("data")), uuid); err != nil {
			return err
		}
		return n.start(ctx)
	})
	if err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

// each does something with all nodes at once: none of them answers before most
// of them run.
func (c *Cluster) each(do func(n *Node) error) error {
	errs := make([]error, len(c.nodes))
	var wait sync.WaitGroup
	for i, n := range c.nodes {
		wait.Go(func() { errs[i] = do(n) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// Brokers are the addresses of all nodes for bootstrap.servers. They stay the same
// over restarts.
func (c *Cluster) Brokers() string {
	var out []string
	for _, n := range c.nodes {
		out = append(out, n.Brokers())
	}
	return strings.Join(out, ",")
}

// Node is one of the nodes, counted from 0.
func (c *Cluster) Node(i int) *Node { return c.nodes[i] }

// Size is the number of nodes.
func (c *Cluster) Size() int { return len(c.nodes) }

// RestartAll starts all nodes again at once, those that run after an orderly end:
// after the death of a majority none of them answers alone.
func (c *Cluster) RestartAll(ctx context.Context) error {
	return c.each(func(n *Node) error { return n.Restart(ctx) })
}

// Kill ends all nodes at once, as a power cut would.
func (c *Cluster) Kill() {
	_ = c.each(func(n *Node) error { n.Kill(); return nil })
}

// Stop ends the cluster for good and deletes all it had.
func (c *Cluster) Stop() {
	_ = c.each(func(n *Node) error { n.Stop(); return nil })
}

// Leader is the node that leads a partition now. While the partition has none, as in
// an election, it waits, until ctx ends or a start's time has passed.
func (c *Cluster) Leader(ctx context.Context, topic string, partition int32) (*Node, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		details, err := c.describe(ctx, topic)
		if err != nil {
			return nil, fmt.Errorf("looking for the leader of %s/%d: %w", topic, partition, err)
		}
		if p, ok := details[topic].Partitions[partition]; ok && p.Leader >= 1 && int(p.Leader) <= len(c.nodes) {
			return c.nodes[p.Leader-1], nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("%s/%d has no leader: %w", topic, partition, ctx.Err())
		}
	}
}

// Coordinator is the node that coordinates all groups now. There is none before
// the first group.
func (c *Cluster) Coordinator(ctx context.Context) (*Node, error) {
	return c.Leader(ctx, offsetsTopic, 0)
}

// AwaitInSync waits until all replicas of all partitions are in sync again: only
// then does the next node's death do no more harm than the last one's.
func (c *Cluster) AwaitInSync(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		details, err := c.describe(ctx)
		if err == nil {
			err = outOfSync(details)
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for all replicas: %w", errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

// outOfSync names a partition that has lost replicas, if there is one.
func outOfSync(details kadm.TopicDetails) error {
	for _, t := range details {
		for _, p := range t.Partitions {
			if p.Err != nil || len(p.ISR) < len(p.Replicas) {
				return fmt.Errorf("%s/%d has %d of %d replicas in sync: %w", t.Topic, p.Partition, len(p.ISR), len(p.Replicas), p.Err)
			}
		}
	}
	return nil
}

// describeTimeout bounds one question about topics, which nodes that are down may not answer.
const describeTimeout = 3 * time.Second

// describe asks any node that answers, with a connection of its own: what a client
// remembers may be older than the last fault.
func (c *Cluster) describe(ctx context.Context, topics ...string) (kadm.TopicDetails, error) {
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(c.Brokers(), ",")...))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return kadm.NewClient(client).ListTopicsWithInternal(ctx, topics...)
}
