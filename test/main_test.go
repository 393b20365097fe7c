package test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/internal/kafkanode"
)

// node is the broker of all tests of this package.
var node kafkanode.Shared

func TestMain(m *testing.M) {
	code := gatewaytest.Run(m)
	node.Stop()
	os.Exit(code)
}

// brokersOf is the address of the broker, which runs from the first call on.
func brokersOf(t *testing.T) string {
	t.Helper()
	return node.Node(t).Brokers()
}

// toolPatience bounds one of Kafka's command line tools.
const toolPatience = time.Minute

// checkLag asks Kafka's own tool about a group: every partition has to be there
// with lag 0.
func checkLag(t *testing.T, group string, partitions int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), toolPatience)
	defer cancel()
	out, err := node.Node(t).Tool(ctx, "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--describe", "--group", group)
	if err != nil {
		t.Fatalf("describing group %s: %v\n%s", group, err, out)
	}
	const partitionColumn, lagColumn = 2, 5
	rows := 0
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) <= lagColumn || fields[0] != group {
			continue
		}
		rows++
		if fields[lagColumn] != "0" {
			t.Errorf("partition %s has lag %s, want 0", fields[partitionColumn], fields[lagColumn])
		}
	}
	if rows != partitions {
		t.Errorf("the tool shows %d partitions, want %d:\n%s", rows, partitions, out)
	}
}
