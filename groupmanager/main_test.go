package groupmanager_test

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails if anything that a manager started outlives it.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
