//go:build !linux

package childprocess

import "os/exec"

// dieWithParent has no counterpart here: a test that is killed leaves its children behind.
func dieWithParent(*exec.Cmd) {}
