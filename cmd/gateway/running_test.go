package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const (
	// patience bounds every wait; what is waited for takes a few seconds at most.
	patience  = 30 * time.Second
	pollEvery = 20 * time.Millisecond
)

// output is what a command printed so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// running is the program, running inside the test.
type running struct {
	stdout, stderr output
	stop           context.CancelFunc
	ended          chan error
}

// start runs the program with args until stop; what it leaves running fails the test.
func start(t *testing.T, environ []string, args ...string) *running {
	t.Helper()
	before := goleak.IgnoreCurrent()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{stop: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- run(ctx, args, environ, &r.stdout, &r.stderr) }()
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			t.Logf("stdout:\n%s\nstderr:\n%s", &r.stdout, &r.stderr)
			return
		}
		http.DefaultClient.CloseIdleConnections()
		goleak.VerifyNone(t, before)
	})
	return r
}

// await waits until o matches pattern and returns the submatches.
func (r *running) await(t *testing.T, o *output, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(pollEvery) {
		if found := re.FindStringSubmatch(o.String()); found != nil {
			return found
		}
		select {
		case err := <-r.ended:
			t.Fatalf("it ended (%v) before it printed %s", err, pattern)
		default:
		}
	}
	t.Fatalf("it did not print %s within %v", pattern, patience)
	return nil
}

// end stops the program, which has to come to an orderly end within limit.
func (r *running) end(t *testing.T, limit time.Duration) {
	t.Helper()
	r.stop()
	select {
	case err := <-r.ended:
		if err != nil {
			t.Fatalf("it ended with %v, want an orderly end", err)
		}
	case <-time.After(limit):
		t.Fatalf("it did not end within %v", limit)
	}
}

// shell runs a command that people were told to run.
func shell(t *testing.T, command string) string {
	t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-ec", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s\n%v: %s", command, err, out)
	}
	return string(out)
}

// status is what a GET is answered with.
func status(t *testing.T, url string) int {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// awaitStatus waits until a GET is answered with want.
func awaitStatus(t *testing.T, url string, want int) {
	t.Helper()
	got := 0
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(pollEvery) {
		if got = status(t, url); got == want {
			return
		}
	}
	t.Fatalf("GET %s = %d after %v, want %d", url, got, patience, want)
}

// occupied is an address that somebody else listens on until the test ends.
func occupied(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// freeAddress is one that nobody listened on a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprint(l.Addr())
}
