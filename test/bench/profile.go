package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// protection matches the functions of the guard and of the limiter, and those that
// ask them.
const protection = `internal/egress\.|groupmanager/pacing\.|groupmanager\.\(\*lane\)\.(mayBegin|mayGo|leftPacer|giveWay|hurry)$`

var (
	errProfile = errors.New("the profile says nothing of it; was something renamed?")

	// accounted is how the profiler sums up what matches, in percent of all samples.
	accounted = regexp.MustCompile(`Showing nodes accounting for [^,]+, ([0-9.]+)% of `)
)

// profile takes the CPU profile of a gateway for a while and returns the percentage
// of it that was spent in functions that match, and in what they call.
func (s *gateway) profile(ctx context.Context, duration time.Duration, functions string) (float64, error) {
	path := fmt.Sprintf("/debug/pprof/profile?seconds=%d", int(duration.Seconds()))
	reply, err := s.config.Management().Call(ctx, http.MethodGet, path, nil)
	if err != nil {
		return 0, fmt.Errorf("profiling: %w", err)
	}
	if reply.Status != http.StatusOK {
		return 0, fmt.Errorf("profiling: %d %s", reply.Status, reply.Body)
	}
	file := filepath.Join(s.folder, "cpu.pprof")
	if err := os.WriteFile(file, reply.Body, 0o600); err != nil {
		return 0, err
	}
	text, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-top", "-focus", functions, file).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("reading the profile: %w\n%s", err, text)
	}
	found := accounted.FindSubmatch(text)
	if found == nil {
		return 0, fmt.Errorf("reading the profile: %w\n%s", errProfile, text)
	}
	percent, err := strconv.ParseFloat(string(found[1]), 64)
	if err == nil && percent == 0 {
		err = fmt.Errorf("reading the profile for %s: %w\n%s", functions, errProfile, text)
	}
	return percent, err
}
