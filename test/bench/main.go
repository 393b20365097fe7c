// Command bench measures the gateway against the limit: the least that a push
// gateway can be, see limit beside it. Both read the same records of a real
// Apache Kafka, interleaved in one run, each in a process of its own that is
// pinned to one core; everything else has the other core.
//
//	bench [-only 1KBx100,latency] [-rounds 6] [-quick] [-brokers host:port] [-out build/bench.json]
//
// Every run checks that delivered = produced, each record once and in order,
// and for the gateway that committed = end. What falls short is printed and
// makes the exit status 1.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// binEnv tells the pinned bench where its binaries are.
const binEnv = "KPUSH_BENCH_BIN"

// The cores: the subject's, and the one for all the rest.
const (
	subjectCore = "0"
	otherCore   = "1"
)

var (
	errShort = errors.New("something falls short")
	errCores = errors.New("the bench needs two cores: one for what is measured, one for the rest")
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options of a run.
type options struct {
	only    []string // names of cases; empty: all
	rounds  int      // the first of them is thrown away
	quick   bool
	brokers string // empty: a node of our own
	out     string
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var o options
	var only string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&only, "only", "", "cases to run, comma between them: "+strings.Join(caseNames(), ", "))
	flags.IntVar(&o.rounds, "rounds", 6, "rounds of each case; the first is thrown away")
	flags.BoolVar(&o.quick, "quick", false, "few records and rounds: to see that it works, not to judge")
	flags.StringVar(&o.brokers, "brokers", "", "a Kafka that runs already; else one is started")
	flags.StringVar(&o.out, "out", filepath.Join("build", "bench.json"), "where the result goes")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	for _, name := range o.only {
		if !slices.Contains(caseNames(), name) {
			return fmt.Errorf("no case %q; there are %s", name, strings.Join(caseNames(), ", "))
		}
	}
	if o.quick {
		o.rounds = min(o.rounds, 2)
	}
	if o.rounds < 2 {
		return errors.New("at least two rounds are needed, one is thrown away")
	}
	bin := os.Getenv(binEnv)
	if bin == "" {
		return pin(ctx, out)
	}
	defer os.RemoveAll(bin)
	b, err := open(ctx, o, bin, out)
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.runAll(ctx); err != nil {
		return err
	}
	return b.report.finish(out, o.out)
}

// pin builds what is to run and begins again on the core that is not the subject's.
func pin(ctx context.Context, out io.Writer) error {
	if runtime.NumCPU() < 2 {
		return errCores
	}
	bin, err := os.MkdirTemp("", "kpush-bench-")
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "building")
	build := exec.CommandContext(ctx, "go", "build", "-o", bin+"/", "./cmd/gateway", "./test/bench/limit", "./test/bench/receiver")
	build.Stdout, build.Stderr = out, os.Stderr
	if err := build.Run(); err != nil {
		os.RemoveAll(bin)
		return fmt.Errorf("building: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	taskset, err := exec.LookPath("taskset")
	if err != nil {
		return fmt.Errorf("pinning: %w", err)
	}
	args := append([]string{"taskset", "-c", otherCore, self}, os.Args[1:]...)
	return syscall.Exec(taskset, args, append(os.Environ(), binEnv+"="+bin))
}
