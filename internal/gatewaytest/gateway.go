package gatewaytest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
)

// RaceEnv, when it is not empty, has the gateway built with the race detector.
const RaceEnv = "KPUSH_TEST_RACE"

// built is the gateway, built once per test process into a folder that Run removes.
var built struct {
	once   sync.Once
	folder string
	path   string
	err    error
}

// Run runs a package's tests and removes the gateway that they have built. It
// is what TestMain passes to os.Exit.
func Run(m *testing.M) int {
	defer func() {
		if built.folder != "" {
			os.RemoveAll(built.folder)
		}
	}()
	return m.Run()
}

// Binary is the path of the gateway's binary, built at the first call.
func Binary(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		root, err := moduleRoot()
		if err != nil {
			built.err = err
			return
		}
		if built.folder, built.err = os.MkdirTemp("", "kpush-gateway-"); built.err != nil {
			return
		}
		built.path = filepath.Join(built.folder, "gateway")
		args := []string{"build", "-o", built.path}
		if os.Getenv(RaceEnv) != "" {
			args = append(args, "-race")
		}
		build := exec.Command("go", append(args, "./cmd/gateway")...)
		build.Dir = root
		if out, err := build.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("building the gateway: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// Config is how a gateway is started. Two gateways of one Config, one after the
// other, are the same installation: same addresses, secrets and registry.
type Config struct {
	Brokers    string
	Properties map[string]string // of librdkafka
	Env        []string          // more settings, KPUSH_NAME=value

	registry, listen, management, token, secretKey string
}

// NewConfig is the configuration of a new installation with a registry of its own.
func NewConfig(t testing.TB, brokers string) Config {
	t.Helper()
	c, err := ConfigFor(brokers, "registry-"+Name(t))
	if err != nil {
		t.Fatal(err)
	}
	// The shortest session that a broker allows by default: a partition of a
	// killed gateway is free after six seconds.
	c.Properties = map[string]string{
		"session.timeout.ms": "6000", "heartbeat.interval.ms": "1500", "max.poll.interval.ms": "10000",
	}
	return c
}

// ConfigFor is the configuration of a new installation whose registry is the
// given topic, with the client's own session timeouts.
func ConfigFor(brokers, registry string) (Config, error) {
	c := Config{
		Brokers:   brokers,
		registry:  registry,
		token:     "admin-token-of-the-tests",
		secretKey: "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
	}
	var err error
	if c.listen, err = freeAddress(); err != nil {
		return c, err
	}
	c.management, err = freeAddress()
	return c, err
}

// API is a client of the gateway's API.
func (c Config) API() *API { return NewAPI("http://"+c.listen, c.token) }

// Management is a client of the gateway's management listener.
func (c Config) Management() *API { return NewAPI("http://"+c.management, "") }

// Serve is the command that runs such a gateway; folder takes its configuration file.
func (c Config) Serve(ctx context.Context, binary, folder string) (*exec.Cmd, error) {
	config := filepath.Join(folder, "gateway.yaml")
	text, err := json.Marshal(map[string]any{"kafka": map[string]any{"properties": c.Properties}}) // JSON is YAML
	if err == nil {
		err = os.WriteFile(config, text, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	cmd := exec.CommandContext(ctx, binary, "serve", "--config", config)
	cmd.Env = append(foreignEnviron(),
		"KPUSH_KAFKA_BROKERS="+c.Brokers,
		"KPUSH_REGISTRY_TOPIC="+c.registry,
		"KPUSH_API_LISTEN="+c.listen,
		"KPUSH_API_ADMIN_TOKEN="+c.token,
		"KPUSH_MANAGEMENT_LISTEN="+c.management,
		"KPUSH_SECRET_KEY="+c.secretKey,
		"KPUSH_LOG_FORMAT=text",
	)
	cmd.Env = append(cmd.Env, c.Env...)
	return cmd, nil
}

// foreignEnviron is our environment without the variables that the gateway
// takes, or refuses, as its settings.
func foreignEnviron() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "KPUSH_") })
}

var noName = regexp.MustCompile(`[^a-z0-9]+`)

// Name is the test's name as it may stand in a topic or a webhook id.
func Name(t testing.TB) string {
	name := strings.Trim(noName.ReplaceAllString(strings.ToLower(strings.TrimPrefix(t.Name(), "Test")), "-"), "-")
	return name[:min(len(name), 48)]
}

// freeAddress is a loopback address that nobody listened on a moment ago.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("looking for a free port: %w", err)
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

// Gateway is a running `gateway serve`.
type Gateway struct {
	API        *API
	Management *API

	cmd  *exec.Cmd
	log  *log
	done chan struct{} // closed when the process has ended
}

// startPatience is how long a gateway may take to be ready, shutdownPatience to end.
const (
	startPatience    = 30 * time.Second
	shutdownPatience = 45 * time.Second
)

// StartGateway starts a gateway and waits until it is ready.
func StartGateway(t testing.TB, c Config) *Gateway {
	t.Helper()
	g := LaunchGateway(t, c)
	g.AwaitReady(t)
	return g
}

// LaunchGateway starts a gateway and does not wait. It is killed at the end of
// the test if it still runs; its log is printed when the test failed.
func LaunchGateway(t testing.TB, c Config) *Gateway {
	t.Helper()
	cmd, err := c.Serve(context.WithoutCancel(t.Context()), Binary(t), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	g := &Gateway{API: c.API(), Management: c.Management(), cmd: cmd, log: new(log), done: make(chan struct{})}
	g.cmd.Stdout, g.cmd.Stderr = g.log, g.log
	if err := g.cmd.Start(); err != nil {
		t.Fatalf("starting the gateway: %v", err)
	}
	go func() {
		g.cmd.Wait()
		close(g.done)
	}()
	t.Cleanup(func() {
		g.cmd.Process.Kill()
		<-g.done
		if text := g.log.String(); strings.Contains(text, "DATA RACE") || strings.Contains(text, "panic:") {
			t.Errorf("the gateway's log tells of a race or a panic:\n%s", text)
		} else if t.Failed() {
			t.Logf("log of gateway %d:\n%s", g.cmd.Process.Pid, text)
		}
	})
	return g
}

// AwaitReady waits until /readyz says so.
func (g *Gateway) AwaitReady(t testing.TB) {
	t.Helper()
	Await(t, startPatience, func() error {
		select {
		case <-g.done:
			t.Fatalf("the gateway ended: %v", g.cmd.ProcessState)
		default:
		}
		return g.Ready(t.Context())
	})
}

// Ready asks /readyz; nil is ready.
func (g *Gateway) Ready(ctx context.Context) error {
	reply, err := g.API.Call(ctx, http.MethodGet, "/readyz", nil)
	if err != nil {
		return err
	}
	if reply.Status != http.StatusOK {
		return fmt.Errorf("not ready: %d %s", reply.Status, reply.Body)
	}
	return nil
}

// Pid is the process's id.
func (g *Gateway) Pid() int { return g.cmd.Process.Pid }

// Done is closed when the process has ended.
func (g *Gateway) Done() <-chan struct{} { return g.done }

// Kill ends the process as kill -9 does and waits until it is gone.
func (g *Gateway) Kill(t testing.TB) {
	t.Helper()
	if err := g.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("killing the gateway: %v", err)
	}
	<-g.done
}

// Terminate sends SIGTERM, waits, and returns the exit code and how long it took.
func (g *Gateway) Terminate(t testing.TB) (code int, took time.Duration) {
	t.Helper()
	start := time.Now()
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("terminating the gateway: %v", err)
	}
	select {
	case <-g.done:
	case <-time.After(shutdownPatience):
		g.cmd.Process.Signal(syscall.SIGQUIT) // prints where every goroutine stands
		<-g.done
		t.Fatalf("the gateway did not end within %v of SIGTERM", shutdownPatience)
	}
	return g.cmd.ProcessState.ExitCode(), time.Since(start)
}

// Log is what the gateway has written so far; of a long log, its end.
func (g *Gateway) Log() string { return g.log.String() }

// log keeps the last part of what a process writes.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// maxLog bounds a log; at twice that its older half is dropped.
const maxLog = 256 << 10

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	if l.text.Len() > 2*maxLog {
		l.text.Next(l.text.Len() - maxLog)
	}
	return len(p), nil
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
