//go:build !linux

package meter

import (
	"errors"
	"time"
)

var errLinux = errors.New("the bench measures on Linux only")

// CPU is known on Linux only.
func CPU(int) (time.Duration, error) { return 0, errLinux }

// PeakRSS is known on Linux only.
func PeakRSS(int) (int64, error) { return 0, errLinux }

// RSS is known on Linux only.
func RSS(int) (int64, error) { return 0, errLinux }
