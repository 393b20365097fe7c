package groupmanager_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kpush/kpush/internal/gatewaytest"
)

// Time does not heal these: the webhook's state says what is wrong.
func TestK7_ACommitThatNeedsAPersonIsTold(t *testing.T) {
	for _, test := range []struct {
		code   *kerr.Error
		reason string
	}{
		{kerr.GroupAuthorizationFailed, "not_authorized"},
	} {
		t.Run(test.code.Message, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, 1, gatewaytest.OK, nil)
			s.produce(t, 1, 10)
			s.caughtUp(t)
			fault := s.failing(kfake.Fault{Err: test.code}, kmsg.OffsetCommit, kmsg.Heartbeat)
			s.produce(t, 1, 10)
			hit(t, fault, 1)
			s.failed(t, test.reason)
			if got := s.at(t, 0); got != 10 {
				t.Errorf("committed offset %d, want it left at 10", got)
			}
			fault.Remove()
			if _, err := s.Resume(t.Context(), "default", faultHook); err != nil {
				t.Fatal(err)
			}
			s.caughtUp(t)
		})
	}
}
