package gatewaytest

import (
	"testing"
	"time"
)

// awaitPause is how often a condition is looked at.
const awaitPause = 20 * time.Millisecond

// Await asks until check returns nil, and fails the test with its last error when the time is over.
func Await(t testing.TB, patience time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %v", patience, err)
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("the test ended: %v", err)
		case <-time.After(awaitPause):
		}
	}
}
