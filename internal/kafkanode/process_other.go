//go:build !linux

package kafkanode

import "os/exec"

// dieWithParent has no counterpart here: a test that is killed leaves its node behind.
func dieWithParent(*exec.Cmd) {}
