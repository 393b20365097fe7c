package kafkanode

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const topic = "orders"

func TestNodeKeepsItsRecordsOverAKillAndARestart(t *testing.T) {
	n := Start(t)
	client, err := kgo.NewClient(kgo.SeedBrokers(n.Brokers()), kgo.MetadataMinAge(50*time.Millisecond), kgo.DefaultProduceTopic(topic), kgo.ProducerBatchMaxBytes(16<<20), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	admin := kadm.NewClient(client)
	if _, err := admin.CreateTopic(ctx, 1, 1, nil, topic); err != nil {
		t.Fatal(err)
	}

	restarts := []struct {
		name string
		end  func()
	}{
		{"an orderly restart", func() {}},
		{"a kill", n.Kill},
	}
	large := bytes.Repeat([]byte("x"), 11<<20)
	for i, r := range restarts {
		if err := client.ProduceSync(ctx, &kgo.Record{Value: large}).FirstErr(); err != nil {
			t.Fatalf("producing a record of 11 MiB before %s: %v", r.name, err)
		}
		before := n.Brokers()
		r.end()
		if err := n.Restart(ctx); err != nil {
			t.Fatalf("%s: %v", r.name, err)
		}
		if n.Brokers() != before {
			t.Errorf("after %s the address is %s, want %s still", r.name, n.Brokers(), before)
		}
		end, err := admin.ListEndOffsets(ctx, topic)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := end.Lookup(topic, 0); got.Offset != int64(i+1) {
			t.Errorf("after %s the topic ends at %d, want %d", r.name, got.Offset, i+1)
		}
	}

	out, err := n.Tool(ctx, "org.apache.kafka.tools.TopicCommand", "--describe", "--topic", topic)
	if err != nil || !strings.Contains(out, "PartitionCount: 1") {
		t.Errorf("the topic tool says %q, %v; want a description of one partition", out, err)
	}
	if out, err := n.Tool(ctx, "org.apache.kafka.tools.TopicCommand", "--describe", "--topic", "nothing"); err == nil {
		t.Errorf("the topic tool says %q of a topic that is not there, want an error", out)
	}
	dir := n.dir
	n.Stop()
	if present(dir) {
		t.Errorf("%s is still there after Stop", dir)
	}
}

// orphanVariable makes TestNodeDiesWithItsParent play the parent.
const orphanVariable = "KPUSH_KAFKANODE_PARENT"

func TestNodeDiesWithItsParent(t *testing.T) {
	if os.Getenv(orphanVariable) != "" {
		p, err := launch(exec.Command("sleep", "60"))
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("child " + strconv.Itoa(p.cmd.Process.Pid) + "\n")
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestNodeDiesWithItsParent$")
	cmd.Env = append(os.Environ(), orphanVariable+"=1")
	out, _ := cmd.Output() // it is killed
	_, rest, _ := strings.Cut(string(out), "child ")
	pid, err := strconv.Atoi(strings.TrimSpace(rest))
	if err != nil {
		t.Fatalf("the parent said %q, want its child's number", out)
	}
	deadline := time.Now().Add(10 * time.Second)
	for alive(pid) {
		if time.Now().After(deadline) {
			t.Fatalf("the child %d is still alive after its parent was killed", pid)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// alive tells whether a process runs; one that ended and was not reaped does not.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z")
}
