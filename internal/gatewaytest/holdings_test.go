package gatewaytest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestHoldingsComeFromTheLog(t *testing.T) {
	at := func(second int) time.Time { return time.Date(2026, 9, 22, 10, 0, second, 0, time.UTC) }
	var h holdings
	for _, part := range []string{
		`{"time":"2026-09-22T10:00:01Z","msg":"partition assigned","topic":"orders","partition":0}` + "\n" + `{"time":"2026-09-22T10:`,
		`00:02Z","msg":"partition assigned","topic":"orders","partition":1}` + "\nnot of the log: partition assigned\n",
		`{"time":"2026-09-22T10:00:03Z","msg":"partition given up","topic":"orders","partition":0}` + "\n",
		`{"time":"2026-09-22T10:00:04Z","msg":"partition assigned","topic":"orders","partition":0}` + "\n" + `{"time":"2026`,
	} {
		h.write([]byte(part))
	}
	want := []Holding{
		{Partition: Partition{"orders", 0}, From: at(1), To: at(3)},
		{Partition: Partition{"orders", 1}, From: at(2)},
		{Partition: Partition{"orders", 0}, From: at(4)},
	}
	if diff := cmp.Diff(want, h.all); diff != "" {
		t.Errorf("holdings (-want +got):\n%s", diff)
	}
}
