package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/kpush/kpush/internal/gatewaytest"
)

// contender is one of those that are measured.
type contender string

const (
	limit      contender = "limit"
	ours       contender = "ours"
	oursSigned contender = "ours, signed"
	oursTLS    contender = "ours, TLS"
	oursPaced  contender = "ours, limited" // with limits that it does not reach
)

// subject is a contender's process while it is measured.
type subject interface {
	pid() int
	// begin has the topic delivered from its beginning.
	begin(ctx context.Context) error
	// settled waits until everything that was delivered is also committed.
	settled(ctx context.Context) error
	// stop ends the process and returns how many objects it has allocated since begin.
	stop() (mallocs float64, err error)
}

// start runs a contender's process until it is ready to begin.
func (b *bench) start(ctx context.Context, c contender, topic string, batch int) (subject, error) {
	if c == limit {
		return b.startLimit(ctx, topic, batch)
	}
	return b.startGateway(ctx, topic, batch, c)
}

// pinned makes a command run on the subject's core, with as many Go threads.
func pinned(cmd *exec.Cmd) (*exec.Cmd, error) {
	taskset, err := exec.LookPath("taskset")
	if err != nil {
		return nil, fmt.Errorf("pinning: %w", err)
	}
	cmd.Args = append([]string{"taskset", "-c", subjectCore, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = taskset
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, "GOMAXPROCS=1")
	return cmd, nil
}

// bare is the limit's process.
type bare struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func (b *bench) startLimit(ctx context.Context, topic string, batch int) (subject, error) {
	cmd, err := pinned(exec.CommandContext(ctx, filepath.Join(b.bin, "limit"), "-brokers", b.brokers, "-topic", topic,
		"-partitions", strconv.Itoa(partitions), "-batch", strconv.Itoa(batch), "-url", "http://"+b.receiver.listening.Address+"/limit"))
	if err != nil {
		return nil, err
	}
	s := &bare{cmd: cmd}
	if s.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.out = bufio.NewReader(out)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the limit: %w", err)
	}
	if line, err := s.out.ReadString('\n'); err != nil || strings.TrimSpace(line) != "ready" {
		return nil, errors.Join(fmt.Errorf("the limit is not ready: %q", line), err)
	}
	return s, nil
}

func (s *bare) pid() int { return s.cmd.Process.Pid }

func (s *bare) begin(context.Context) error {
	_, err := io.WriteString(s.in, "\n")
	return err
}

func (s *bare) settled(context.Context) error { return nil }

func (s *bare) stop() (float64, error) {
	s.in.Close()
	line, err := s.out.ReadString('\n')
	if err = errors.Join(err, s.cmd.Wait()); err != nil {
		return 0, fmt.Errorf("the limit: %w", err)
	}
	return strconv.ParseFloat(strings.TrimSpace(line), 64)
}

// gateway is a gateway's process with one webhook.
type gateway struct {
	cmd     *exec.Cmd
	log     bytes.Buffer
	config  gatewaytest.Config
	folder  string
	admin   *kadm.Client
	topic   string
	url     string
	ca      string // of the receiver; empty: the url is not https
	batch   int
	signed  bool
	paced   bool
	mallocs float64 // before begin
}

// webhookID is the only webhook of a measured gateway.
const webhookID = "bench"

func (b *bench) startGateway(ctx context.Context, topic string, batch int, c contender) (_ subject, err error) {
	b.topics++
	at := b.receiver.listening
	s := &gateway{admin: b.admin, topic: topic, url: "http://" + at.Address + "/" + webhookID, batch: batch, signed: c == oursSigned, paced: c == oursPaced}
	if c == oursTLS {
		s.url, s.ca = "https://"+at.Secure+"/"+webhookID, at.CA
	}
	if s.config, err = gatewaytest.ConfigFor(b.brokers, fmt.Sprintf("bench-registry-%d-%d", time.Now().Unix(), b.topics)); err != nil {
		return nil, err
	}
	if s.folder, err = os.MkdirTemp(b.bin, "gateway-"); err != nil {
		return nil, err
	}
	cmd, err := s.config.Serve(ctx, filepath.Join(b.bin, "gateway"), s.folder)
	if err != nil {
		return nil, err
	}
	if s.cmd, err = pinned(cmd); err != nil {
		return nil, err
	}
	s.cmd.Env = append(s.cmd.Env, "KPUSH_LOG_LEVEL=warn")
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the gateway: %w", err)
	}
	err = await(ctx, startPatience, func() error {
		reply, err := s.config.API().Call(ctx, http.MethodGet, "/readyz", nil)
		if err == nil && reply.Status != http.StatusOK {
			err = fmt.Errorf("not ready: %d %s", reply.Status, reply.Body)
		}
		return err
	})
	if err != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		return nil, fmt.Errorf("starting the gateway: %w\n%s", err, s.log.String())
	}
	return s, nil
}

func (s *gateway) pid() int { return s.cmd.Process.Pid }

func (s *gateway) begin(ctx context.Context) (err error) {
	if s.mallocs, err = s.allocated(ctx); err != nil {
		return err
	}
	fields := map[string]any{
		"url": s.url, "topics": []string{s.topic}, "group_id": s.group(), "start": "earliest",
		"batch":   map[string]any{"max_records": s.batch, "max_bytes": maxBytes, "linger_ms": 0},
		"fetch":   map[string]any{"prefetch_bytes": prefetchBytes},
		"signing": map[string]any{"enabled": s.signed},
	}
	if s.ca != "" {
		fields["tls"] = map[string]any{"ca": s.ca}
	}
	if s.paced {
		fields["limits"] = map[string]any{"records_per_second": unreached, "requests_per_second": unreached, "bytes_per_second": unreached}
	}
	reply, err := s.config.API().Call(ctx, http.MethodPut, "/v1/webhooks/"+webhookID, fields)
	if err == nil && reply.Status != http.StatusCreated {
		err = fmt.Errorf("%d %s", reply.Status, reply.Body)
	}
	if err != nil {
		return fmt.Errorf("registering the webhook: %w", err)
	}
	return nil
}

// unreached is a limit that no machine comes to.
const unreached = 1_000_000_000_000

// group is new for each process, so that each reads the topic from its beginning.
func (s *gateway) group() string { return filepath.Base(s.folder) }

// How long to wait: for a gateway to be ready, for its last commits.
const (
	startPatience  = 30 * time.Second
	commitPatience = 15 * time.Second
)

func (s *gateway) settled(ctx context.Context) error {
	return await(ctx, commitPatience, func() error {
		ends, err := s.admin.ListEndOffsets(ctx, s.topic)
		if err != nil {
			return err
		}
		committed, err := s.admin.FetchOffsets(ctx, s.group())
		if err != nil {
			return err
		}
		have, want := map[int32]int64{}, map[int32]int64{}
		committed.Each(func(o kadm.OffsetResponse) { have[o.Partition] = o.At })
		ends.Each(func(o kadm.ListedOffset) { want[o.Partition] = o.Offset })
		if !maps.Equal(have, want) {
			return fmt.Errorf("committed is %v, the ends are %v", have, want)
		}
		return nil
	})
}

func (s *gateway) stop() (float64, error) {
	after, err := s.allocated(context.Background())
	s.cmd.Process.Signal(syscall.SIGTERM)
	if err = errors.Join(err, s.cmd.Wait()); err != nil {
		return 0, fmt.Errorf("the gateway: %w\n%s", err, s.log.String())
	}
	return after - s.mallocs, os.RemoveAll(s.folder)
}

// mallocsLine begins the line of a heap profile that counts the objects
// allocated so far.
const mallocsLine = "# Mallocs = "

// allocated reads it. The metric of the same number is refreshed too seldom.
func (s *gateway) allocated(ctx context.Context) (float64, error) {
	reply, err := s.config.Management().Call(ctx, http.MethodGet, "/debug/pprof/heap?debug=1", nil)
	if err != nil {
		return 0, fmt.Errorf("reading the heap's profile: %w", err)
	}
	for line := range strings.Lines(string(reply.Body)) {
		if number, ok := strings.CutPrefix(line, mallocsLine); ok {
			return strconv.ParseFloat(strings.TrimSpace(number), 64)
		}
	}
	return 0, fmt.Errorf("no %q in the heap's profile", mallocsLine)
}

// await asks until check returns nil, or returns its last error when the time is over.
func await(ctx context.Context, patience time.Duration, check func() error) error {
	for deadline := time.Now().Add(patience); ; {
		err := check()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
