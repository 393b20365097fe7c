package faults

import (
	"os"
	"testing"

	"github.com/kpush/kpush/internal/faultproxy"
	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/internal/kafkanode"
)

// clusterSize is the least that goes on without one of its nodes.
const clusterSize = 3

// The brokers of this package, and the proxies on the way to them: one before the
// single node, one before each node of the cluster.
var (
	single  kafkanode.Shared
	cluster = kafkanode.SharedCluster{Size: clusterSize}
	detours [1 + clusterSize]*faultproxy.Proxy
)

func TestMain(m *testing.M) {
	var addresses []string
	for i := range detours {
		p, err := faultproxy.Listen("")
		if err != nil {
			panic(err)
		}
		detours[i] = p
		addresses = append(addresses, p.Addr())
	}
	single.Options = []kafkanode.Option{kafkanode.WithDetour(addresses[:1]...)}
	cluster.Options = []kafkanode.Option{kafkanode.WithDetour(addresses[1:]...)}
	code := gatewaytest.Run(m)
	for _, p := range detours {
		p.Close()
	}
	single.Stop()
	cluster.Stop()
	os.Exit(code)
}

// nodeOf is the single node, and the proxy before it in good health.
func nodeOf(t *testing.T) (*kafkanode.Node, *faultproxy.Proxy) {
	t.Helper()
	node := single.Node(t)
	way := detours[0]
	way.SetTarget(node.Detour())
	way.Heal()
	t.Cleanup(way.Heal)
	return node, way
}

// clusterOf is the cluster with all its nodes, and the proxies before them in good health.
func clusterOf(t *testing.T) (*kafkanode.Cluster, []*faultproxy.Proxy) {
	t.Helper()
	c := cluster.Cluster(t)
	ways := detours[1:]
	for i, way := range ways {
		way.SetTarget(c.Node(i).Detour())
		way.Heal()
		t.Cleanup(way.Heal)
	}
	return c, ways
}
