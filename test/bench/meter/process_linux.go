package meter

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// CPU is the processor time that all threads of a process have used since it
// began, those that have ended included.
func CPU(pid int) (time.Duration, error) {
	// The kernel's name for the processor clock of another process; see
	// clock_getcpuclockid(3).
	const schedulerClock = 2
	clock := int32(^pid)<<3 | schedulerClock
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("reading the processor clock of %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// PeakRSS is the most memory that a process has held at once, in bytes.
func PeakRSS(pid int) (int64, error) { return status(pid, "VmHWM:") }

// RSS is the memory that a process holds now, in bytes.
func RSS(pid int) (int64, error) { return status(pid, "VmRSS:") }

func status(pid int, field string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(field)); ok {
			kb, err := strconv.ParseInt(string(bytes.Fields(rest)[0]), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("no %s of process %d", field, pid)
}
