// Package devbroker runs a Kafka broker inside the process, for trying the
// gateway out and for its tests. It speaks Kafka's protocol to any client:
// groups, transactions, admin calls. It is one broker without replication and is
// no place for data that matters.
package devbroker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/twmb/franz-go/pkg/kfake"
)

// ErrDataInUse says that another process has the data folder open.
var ErrDataInUse = errors.New("the data folder is in use by another process")

// DefaultPartitions is what a topic gets that is created without a count.
const DefaultPartitions = 4

// Options of a broker.
type Options struct {
	// Listen is host:port. Clients are told this very address, so the host must be
	// one they can dial, not a wildcard. Keep the port over restarts: clients that
	// outlive the broker come back to it. Port 0 picks a free one, for tests.
	// Default 127.0.0.1:9092.
	Listen string

	// DataDir is a folder for topics, records, groups and their offsets; it is
	// made if missing, and what it holds is there again after a restart, also
	// after a crash of the process. Empty means Ephemeral.
	DataDir string

	// Ephemeral keeps everything in memory and leaves DataDir alone.
	Ephemeral bool

	// Logger hears of the broker's own troubles; nil drops them.
	Logger *slog.Logger
}

// DefaultListen is where Kafka clients look first.
const DefaultListen = "127.0.0.1:9092"

// Broker is a running broker.
type Broker struct {
	cluster *kfake.Cluster
	addr    string
	lock    *os.File // nil when ephemeral
}

// Start runs a broker until Close. The port is taken before any data is touched:
// an error for which errors.Is(err, syscall.EADDRINUSE) holds means it is not free.
func Start(opts Options) (*Broker, error) {
	if opts.Listen == "" {
		opts.Listen = DefaultListen
	}
	if err := dialable(opts.Listen); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", opts.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening for Kafka clients: %w", err)
	}
	b := &Broker{addr: listener.Addr().String()}

	config := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.ClusterID("kpush-dev"),
		kfake.AllowAutoTopicCreation(),
		kfake.DefaultNumPartitions(DefaultPartitions),
		// The library asks for a listener on a port of 127.0.0.1; it gets ours.
		kfake.ListenFn(func(string, string) (net.Listener, error) { return listener, nil }),
	}
	if opts.Logger != nil {
		config = append(config, kfake.WithLogger(logger{opts.Logger}))
	}
	if opts.DataDir != "" && !opts.Ephemeral {
		if b.lock, err = lockFolder(opts.DataDir); err != nil {
			return nil, errors.Join(err, listener.Close())
		}
		config = append(config, kfake.DataDir(opts.DataDir))
	}
	if b.cluster, err = kfake.NewCluster(config...); err != nil {
		// A failed start may or may not have closed the listener already.
		listener.Close()
		return nil, errors.Join(fmt.Errorf("starting the embedded broker: %w", err), b.unlock())
	}
	return b, nil
}

// Addr is the host:port that clients bootstrap from.
func (b *Broker) Addr() string { return b.addr }

// Close writes everything to the data folder and ends the broker; connections
// are cut. Call it once.
func (b *Broker) Close() error {
	b.cluster.Close()
	return b.unlock()
}

// lockName is the file in the data folder that a running broker holds a lock on.
const lockName = "lock"

// lockFolder makes the folder and locks it for this process. The kernel lets go
// of the lock when the process ends, however it ends.
func lockFolder(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", dir, ErrDataInUse)
		}
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return f, nil
}

func (b *Broker) unlock() error {
	if b.lock == nil {
		return nil
	}
	return b.lock.Close()
}

// dialable refuses addresses that are no use as an advertised one.
func dialable(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("broker address %q: %w", address, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return fmt.Errorf("broker address %q: clients are told this address, so it needs a host they can dial, such as 127.0.0.1", address)
	}
	return nil
}

// logger hands the library's warnings and errors to slog; it is chatty below that.
type logger struct{ to *slog.Logger }

func (l logger) Logf(level kfake.LogLevel, format string, args ...any) {
	var as slog.Level
	switch level {
	case kfake.LogLevelError:
		as = slog.LevelError
	case kfake.LogLevelWarn:
		as = slog.LevelWarn
	default:
		as = slog.LevelDebug
	}
	if l.to.Enabled(context.Background(), as) {
		l.to.Log(context.Background(), as, fmt.Sprintf(format, args...), "source", "embedded broker")
	}
}
