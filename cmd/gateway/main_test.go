package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"gateway": main})
}

// TestScripts runs the command line as people do; testdata/*.txtar.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("KEY", testKey)
			return nil
		},
	})
}

func TestExitCodes(t *testing.T) {
	tests := map[string]struct {
		args []string
		want int
	}{
		"help is no failure":                   {[]string{"--help"}, exitOK},
		"the version is no failure":            {[]string{"version"}, exitOK},
		"an unknown command":                   {[]string{"sevre"}, exitUsage},
		"an unknown flag":                      {[]string{"serve", "--kafka-broker", "x"}, exitUsage},
		"a flag's value that does not fit":     {[]string{"serve", "--shutdown-drain-timeout", "25"}, exitUsage},
		"an argument that nobody asked for":    {[]string{"version", "please"}, exitUsage},
		"a configuration that is not valid":    {[]string{"config", "validate", "--log-format", "xml"}, exitUsage},
		"secrets that are not set":             {[]string{"serve"}, exitUsage},
		"an ephemeral dev on real brokers":     {[]string{"dev", "--ephemeral", "--kafka-brokers", "127.0.0.1:1"}, exitUsage},
		"an address that this machine has not": {[]string{"dev", "--ephemeral", "--broker-listen", "192.0.2.1:9092"}, exitFailed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			err := run(t.Context(), tt.args, nil, &out, &out)
			if got := exitCode(err); got != tt.want {
				t.Errorf("exit code = %d (%v), want %d", got, err, tt.want)
			}
		})
	}
}

func TestSupervise(t *testing.T) {
	const stopTakes = time.Minute
	tests := map[string]struct {
		signals []time.Duration // when they come
		program error           // what it returns once it has been asked to end
		want    int
		ends    time.Duration
		says    string
	}{
		"one signal asks, and waits":             {signals: []time.Duration{time.Second}, want: exitOK, ends: time.Second + stopTakes},
		"a failure while stopping is told":       {signals: []time.Duration{0}, program: errors.New("cannot drain"), want: exitFailed, ends: stopTakes, says: "cannot drain"},
		"a second signal does not wait":          {signals: []time.Duration{0, 10 * time.Second}, want: exitFailed, ends: 10 * time.Second, says: "at once"},
		"a signal sent to process and group":     {signals: []time.Duration{0, time.Millisecond}, want: exitOK, ends: stopTakes},
		"a third signal counts as a second does": {signals: []time.Duration{0, time.Millisecond, time.Second}, want: exitFailed, ends: time.Second, says: "at once"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				signals := make(chan os.Signal, 2)
				go func() {
					for _, at := range tt.signals {
						time.Sleep(time.Until(start.Add(at)))
						signals <- syscall.SIGTERM
					}
				}()
				var stderr bytes.Buffer
				got := supervise(signals, &stderr, func(ctx context.Context) error {
					<-ctx.Done()
					time.Sleep(stopTakes)
					return tt.program
				})
				took := time.Since(start)
				time.Sleep(stopTakes) // a program that nobody waited for ends, too
				if got != tt.want || took != tt.ends {
					t.Errorf("exit code %d after %v, want %d after %v", got, took, tt.want, tt.ends)
				}
				if !strings.Contains(stderr.String(), tt.says) {
					t.Errorf("it said %q, want something with %q", &stderr, tt.says)
				}
			})
		})
	}
}

func TestLog(t *testing.T) {
	tests := map[string]struct {
		config LogConfig
		want   string // of two lines, debug and info
	}{
		"json, with durations that people can read": {LogConfig{slog.LevelInfo, logJSON}, `"level":"INFO","msg":"waiting","for":"1.5s"}` + "\n"},
		"text":                        {LogConfig{slog.LevelInfo, logText}, "level=INFO msg=waiting for=1.5s\n"},
		"a level below shows more":    {LogConfig{slog.LevelDebug, logText}, "msg=looking\n"},
		"a level above shows nothing": {LogConfig{slog.LevelWarn, logText}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			log := newLogger(tt.config, &out)
			log.Debug("looking")
			log.Info("waiting", "for", 1500*time.Millisecond)
			if tt.want == "" && out.Len() > 0 || !strings.Contains(out.String(), tt.want) {
				t.Errorf("log = %q, want %q in it", &out, tt.want)
			}
		})
	}
}
