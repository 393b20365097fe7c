// Command gateway is the kpush gateway: it joins Kafka consumer groups on behalf of
// registered webhooks and POSTs their records to them.
//
//	gateway serve     run against a Kafka cluster
//	gateway dev       run everything in one process, broker included
//	gateway config    print or validate the configuration
//	gateway version   tell which build this is
//
// It exits with 0 after an orderly end, 1 when something failed, and 2 when the
// command line or the configuration is wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	os.Exit(supervise(signals, os.Stderr, func(ctx context.Context) error {
		return run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	}))
}

// sameSignal is within what time two signals are one: a terminal, a supervisor or
// timeout(1) may send it to the process and to its group.
const sameSignal = 500 * time.Millisecond

// supervise runs the program until it ends, says what went wrong and returns the exit
// code. The first signal asks the program to end; a second one does not wait for the
// answer.
func supervise(signals <-chan os.Signal, stderr io.Writer, program func(context.Context) error) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- program(ctx) }()
	var asked time.Time
	for {
		select {
		case err := <-ended:
			if err != nil {
				fmt.Fprintf(stderr, "gateway: %v\n", err)
			}
			return exitCode(err)
		case s := <-signals:
			switch {
			case asked.IsZero():
				asked = time.Now()
				cancel()
			case time.Since(asked) > sameSignal:
				fmt.Fprintf(stderr, "gateway: %v again: ending at once\n", s)
				return exitFailed
			}
		}
	}
}

// run is the whole program but for the process around it: it returns when the
// command has ended, at the latest soon after ctx. environ is in the form of
// os.Environ.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	root := &cobra.Command{
		Use:           "gateway",
		Short:         "kpush: Kafka records, pushed to webhooks",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringP(configFlag, "c", "", "YAML file with the configuration (also "+configEnv+")")
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		serveCommand(environ),
		devCommand(environ),
		configCommand(environ),
		versionCommand(),
	)
	return root.ExecuteContext(ctx)
}

// usageError is a mistake of whoever started the command; nothing has been done.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return exitFailed
}

func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return usageError{err}
	}
	return nil
}
