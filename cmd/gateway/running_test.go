package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kpush/kpush/internal/freeport"
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

// freeAddress is one that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := freeport.Take()
	if err != nil {
		t.Fatal(err)
	}
	return freeport.Address(port)
}

// commands are a shell script that runs.
type commands struct {
	cmd   *exec.Cmd
	out   output
	ended chan struct{}
	err   error // once ended is closed
}

// command starts a script in dir; a request of curl that is answered with an error fails it.
func command(t *testing.T, dir, script string) *commands {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, ".curlrc"), []byte("fail-with-body\nmax-time = 30\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &commands{cmd: exec.Command("sh", "-eu", "-c", script), ended: make(chan struct{})}
	c.cmd.Dir = dir
	c.cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, envPrefix) }), "CURL_HOME="+dir)
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.out
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.ended)
	}()
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		<-c.ended
	})
	return c
}

func (c *commands) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(pollEvery) {
		if strings.Contains(c.out.String(), text) {
			return
		}
		select {
		case <-c.ended:
			t.Fatalf("it ended (%v) before it printed %q:\n%s", c.err, text, &c.out)
		default:
		}
	}
	t.Fatalf("it did not print %q within %v:\n%s", text, patience, &c.out)
}

func (c *commands) wait(t *testing.T) error {
	t.Helper()
	select {
	case <-c.ended:
		return c.err
	case <-time.After(patience):
		t.Fatalf("still running after %v:\n%s", patience, &c.out)
		return nil
	}
}

// stop ends it by SIGTERM, which has to be orderly.
func (c *commands) stop(t *testing.T) {
	t.Helper()
	c.cmd.Process.Signal(syscall.SIGTERM)
	if err := c.wait(t); err != nil {
		t.Errorf("after SIGTERM: %v, want exit 0:\n%s", err, &c.out)
	}
}
