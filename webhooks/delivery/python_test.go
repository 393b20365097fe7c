package delivery

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kpush/kpush/internal/childprocess"
	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
)

// requirePython returns a directory with the Python SDK of CloudEvents. It skips the
// test where there is no Python, or no package index to install from; with
// KPUSH_REQUIRE_KAFKA=1 it fails the test instead.
func requirePython(t *testing.T) string {
	t.Helper()
	dir, err := pythonPackages(t)
	switch {
	case err == nil:
	case os.Getenv("KPUSH_REQUIRE_KAFKA") == "1":
		t.Fatalf("needs Python 3.10 with pip: %v (KPUSH_REQUIRE_KAFKA=1 forbids skipping)", err)
	default:
		t.Skipf("needs Python 3.10 with pip: %v", err)
	}
	return dir
}

// pythonPackages installs what requirements.txt lists below build/, once for each
// version of that file.
func pythonPackages(t *testing.T) (string, error) {
	const requirements = "testdata/cloudevents/requirements.txt"
	text, err := os.ReadFile(requirements)
	if err != nil {
		t.Fatal(err)
	}
	build, err := filepath.Abs("../../build")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(build, fmt.Sprintf("python-%x", sha256.Sum256(text))[:len("python-")+12])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(build, 0o755); err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(build, "python-new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	out, err := exec.CommandContext(t.Context(), "python3", "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check",
		"--target", fresh, "--requirement", requirements).CombinedOutput()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return "", fmt.Errorf("pip: %w: %s", err, lines[len(lines)-1])
	}
	if err := os.Rename(fresh, dir); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return dir, nil
}

// pythonEvent is an event as the Python SDK has read it.
type pythonEvent struct {
	Error      string            `json:"error"`
	Attributes map[string]string `json:"attributes"`
	Data       any               `json:"data"`
	Bytes      *string           `json:"bytes"`
}

func TestThePythonSDKReadsEvents(t *testing.T) {
	packages := requirePython(t)
	cmd := exec.Command("python3", "testdata/cloudevents/receive.py")
	cmd.Env = append(os.Environ(), "PYTHONPATH="+packages, "PYTHONDONTWRITEBYTECODE=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	child, err := childprocess.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(child.Kill)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() {
		t.Fatal("the receiver did not start")
	}
	c := testClient(t, "http://127.0.0.1:"+lines.Text(), inFormat(webhooks.FormatCloudEvents, func(f *webhooks.Format) { f.Headers = []string{"trace"} }))

	b := new(records.Batch)
	b.Append(records.Record{Offset: 1200, Timestamp: 1790000000123}, []byte("o-17"), []byte(`{"total": 3}`))
	b.AppendHeader([]byte("trace"), []byte("abc"))
	b.Append(records.Record{Offset: 1201, Timestamp: 0}, nil, nil)
	b.Append(records.Record{Offset: 1202, Timestamp: 1}, []byte{}, []byte{0xff})
	b.Append(records.Record{Offset: 1203, Timestamp: 2}, nil, []byte(`{"a":"\u00fc"}`))
	for i := 0; i < len(essential); i += 2 {
		b.AppendHeader([]byte("ce_"+essential[i]), []byte(essential[i+1]))
	}
	b.Append(records.Record{Offset: 1204, Timestamp: 3}, nil, []byte(`{"specversion":"1.0","id":"9","source":"/s","type":"t","subject":null,"time":"2026-09-22T10:00:00Z","datacontenttype":"text/plain","data":"x"}`))
	b.AppendHeader([]byte("content-type"), []byte("application/cloudevents+json"))

	m := c.Encode("dl_1", "orders", 3, b, 0, b.Len())
	defer m.Free()
	result := make(chan Result, 1)
	go func() { result <- c.Send(t.Context(), m, testAttempt(1)) }()
	plain := func(offset, time string, more ...string) map[string]string {
		a := map[string]string{
			"specversion": "1.0", "id": "3-" + offset, "source": "/kafka#orders", "type": "kafka.record", "kafkaoffset": offset,
			"sequence": "0000000000000000" + offset, "time": time,
		}
		for i := 0; i < len(more); i += 2 {
			a[more[i]] = more[i+1]
		}
		return a
	}
	want := []pythonEvent{
		{Attributes: plain("1200", "2026-09-21T14:13:20.123000+00:00", "partitionkey", "o-17", "kafkaheadertrace", "abc", "datacontenttype", "application/json"), Data: map[string]any{"total": 3.0}},
		{Attributes: plain("1201", "1970-01-01T00:00:00+00:00")},
		{Attributes: plain("1202", "1970-01-01T00:00:00.001000+00:00", "partitionkeybase64", "", "datacontenttype", octetStream), Bytes: new(base64.StdEncoding.EncodeToString([]byte{0xff}))},
		{Attributes: map[string]string{"specversion": "1.0", "kafkaoffset": "1203", "id": "7", "source": "https://shop.example.com/orders?x=1", "type": "order.created", "datacontenttype": "application/json",
			"time": "?"}, Data: map[string]any{"a": "ü"}}, // the SDK gives those without a time the time of their reading
		{Attributes: map[string]string{"specversion": "1.0", "kafkaoffset": "1204", "id": "9", "source": "/s", "type": "t", "time": "2026-09-22T10:00:00+00:00", "datacontenttype": "text/plain"}, Data: "x"},
	}
	for i := range want {
		var got pythonEvent
		if !lines.Scan() {
			t.Fatalf("event %d did not come", i)
		}
		if err := json.Unmarshal(lines.Bytes(), &got); err != nil || got.Error != "" {
			t.Fatalf("event %d: %v %s", i, err, got.Error)
		}
		if want[i].Attributes["time"] == "?" {
			got.Attributes["time"] = "?"
		}
		if diff := cmp.Diff(want[i], got); diff != "" {
			t.Errorf("event %d (-want +got):\n%s", i, diff)
		}
	}
	expect(t, <-result, Acked, 200, "")
}
