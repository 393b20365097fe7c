package gatewaytest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
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

	"github.com/kpush/kpush/internal/childprocess"
	"github.com/kpush/kpush/internal/freeport"
	"github.com/kpush/kpush/internal/kafkaconf"
)

// RaceEnv, when it is not empty, has the gateway built with the race detector.
const RaceEnv = "KPUSH_TEST_RACE"

// BinaryEnv, when it is not empty, is the path of a gateway to be tested instead
// of one that is built; not where tests ask for build tags.
const BinaryEnv = "KPUSH_TEST_GATEWAY"

// built are the gateways built by this test process, by their build tags, in a
// folder that Run removes.
var built struct {
	mu     sync.Mutex
	folder string
	paths  map[string]string
}

// Run runs a package's tests and removes the gateways that they have built. It
// is what TestMain passes to os.Exit.
func Run(m *testing.M) int {
	defer func() {
		if built.folder != "" {
			os.RemoveAll(built.folder)
		}
	}()
	return m.Run()
}

// Binary is the path of the gateway's binary with some build tags, built at the
// first call.
func Binary(t testing.TB, tags ...string) string {
	t.Helper()
	if path := os.Getenv(BinaryEnv); path != "" && len(tags) == 0 {
		return path
	}
	built.mu.Lock()
	defer built.mu.Unlock()
	key := strings.Join(tags, ",")
	if path, ok := built.paths[key]; ok {
		return path
	}
	path, err := build(key)
	if err != nil {
		t.Fatal(err)
	}
	built.paths[key] = path
	return path
}

// build builds the gateway. built.mu is held.
func build(tags string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	if built.folder == "" {
		if built.folder, err = os.MkdirTemp("", "kpush-gateway-"); err != nil {
			return "", err
		}
		built.paths = map[string]string{}
	}
	path := filepath.Join(built.folder, fmt.Sprintf("gateway-%d", len(built.paths)))
	args := []string{"build", "-o", path, "-tags", tags}
	if os.Getenv(RaceEnv) != "" {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "./cmd/gateway")...)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the gateway: %w\n%s", err, out)
	}
	return path, nil
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
	Tags       []string          // that the gateway is built with

	replica, registry, listen, management, token, secretKey string
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
		replica:   "gateway",
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

// Replica is another gateway of the same installation, with addresses and an id of
// its own: that of the receiver's replica with "-" and the name.
func (c Config) Replica(t testing.TB, name string) Config {
	t.Helper()
	other, err := ConfigFor(c.Brokers, c.registry)
	if err != nil {
		t.Fatal(err)
	}
	c.replica += "-" + name
	c.listen, c.management = other.listen, other.management
	c.Properties, c.Env = maps.Clone(c.Properties), slices.Clone(c.Env)
	return c
}

// ReplicaID is the id under which the gateway is known to its like.
func (c Config) ReplicaID() string { return c.replica }

// Client is the client.id of the gateway's members in the groups of webhooks.
func (c Config) Client() string { return kafkaconf.MembersOf(c.registry).ClientID(c.replica) }

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
		"KPUSH_REPLICA_ID="+c.replica,
		"KPUSH_REPLICA_ADVERTISED_URL=http://"+c.listen,
		"KPUSH_REGISTRY_TOPIC="+c.registry,
		"KPUSH_API_LISTEN="+c.listen,
		"KPUSH_API_ADMIN_TOKEN="+c.token,
		"KPUSH_MANAGEMENT_LISTEN="+c.management,
		"KPUSH_SECRET_KEY="+c.secretKey,
		"KPUSH_LOG_FORMAT=text",
		// The receivers of tests are on loopback, on whichever port is free.
		"KPUSH_DELIVERY_ALLOW_HTTP=true",
		"KPUSH_DELIVERY_ALLOWED_CIDRS=127.0.0.0/8",
		"KPUSH_DELIVERY_ALLOWED_PORTS=any",
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

// freeAddress is a loopback address that nobody listens on.
func freeAddress() (string, error) {
	port, err := freeport.Take()
	return freeport.Address(port), err
}

// Gateway is a running `gateway serve`.
type Gateway struct {
	API        *API
	Management *API

	config  Config
	process *childprocess.Process
	log     *log
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
	cmd, err := c.Serve(context.WithoutCancel(t.Context()), Binary(t, c.Tags...), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	g := &Gateway{API: c.API(), Management: c.Management(), config: c, log: new(log)}
	cmd.Stdout, cmd.Stderr = g.log, g.log
	if g.process, err = childprocess.Start(cmd); err != nil {
		t.Fatalf("starting the gateway: %v", err)
	}
	t.Cleanup(func() {
		g.process.Kill()
		if text := g.log.String(); strings.Contains(text, "DATA RACE") || strings.Contains(text, "panic:") {
			t.Errorf("the log of %s tells of a race or a panic:\n%s", c.replica, text)
		} else if t.Failed() {
			t.Logf("log of %s:\n%s", c.replica, text)
		}
	})
	return g
}

// AwaitReady waits until /readyz says so.
func (g *Gateway) AwaitReady(t testing.TB) {
	t.Helper()
	Await(t, startPatience, func() error {
		select {
		case <-g.Done():
			state, _ := g.process.State()
			t.Fatalf("the gateway ended: %v", state)
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

// Config is what the gateway was started with.
func (g *Gateway) Config() Config { return g.config }

// Pid is the process's id.
func (g *Gateway) Pid() int { return g.process.Pid() }

// Done is closed when the process has ended.
func (g *Gateway) Done() <-chan struct{} { return g.process.Done() }

// Kill ends the process as kill -9 does and waits until it is gone.
func (g *Gateway) Kill(testing.TB) { g.process.Kill() }

// HardEnd kills the process and returns the moment.
func (g *Gateway) HardEnd() HardEnd {
	g.process.Kill()
	return HardEnd{Client: g.config.Client(), At: time.Now()}
}

// Pause stops the process where it stands, as if the machine had frozen.
func (g *Gateway) Pause(t testing.TB) {
	t.Helper()
	if err := g.process.Pause(); err != nil {
		t.Fatalf("pausing the gateway: %v", err)
	}
}

// Continue lets a paused process go on.
func (g *Gateway) Continue(t testing.TB) {
	t.Helper()
	if err := g.process.Continue(); err != nil {
		t.Fatalf("continuing the gateway: %v", err)
	}
}

// Signal asks the process to end, with SIGTERM, and does not wait.
func (g *Gateway) Signal(t testing.TB) {
	t.Helper()
	if err := g.process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("terminating the gateway: %v", err)
	}
}

// Terminate sends SIGTERM, waits, and returns the exit code and how long it took.
func (g *Gateway) Terminate(t testing.TB) (code int, took time.Duration) {
	t.Helper()
	start := time.Now()
	g.Signal(t)
	return g.AwaitExit(t), time.Since(start)
}

// AwaitExit waits until the process has ended and returns its exit code.
func (g *Gateway) AwaitExit(t testing.TB) int {
	t.Helper()
	select {
	case <-g.Done():
	case <-time.After(shutdownPatience):
		_ = g.process.Signal(syscall.SIGQUIT) // prints where every goroutine stands
		<-g.Done()
		t.Fatalf("the gateway did not end within %v of SIGTERM", shutdownPatience)
	}
	state, _ := g.process.State()
	return state.ExitCode()
}

// Log is what the gateway has written so far; of a long log, its beginning and its
// end.
func (g *Gateway) Log() string { return g.log.String() }

// log keeps the first and the last part of what a process writes, and of all of it
// what tells who held which partition.
type log struct {
	mu       sync.Mutex
	head     []byte // what a process says once, when it begins, is looked for long after
	tail     bytes.Buffer
	dropped  bool // something is missing between them
	holdings holdings
}

const (
	maxLogHead = 16 << 10
	maxLogTail = 256 << 10 // at twice that its older half is dropped
)

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holdings.write(p)
	first := min(len(p), maxLogHead-len(l.head))
	l.head = append(l.head, p[:first]...)
	l.tail.Write(p[first:])
	if l.tail.Len() > 2*maxLogTail {
		l.tail.Next(l.tail.Len() - maxLogTail)
		l.dropped = true
	}
	return len(p), nil
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	gap := ""
	if l.dropped {
		gap = "\n[...]\n"
	}
	return string(l.head) + gap + l.tail.String()
}
