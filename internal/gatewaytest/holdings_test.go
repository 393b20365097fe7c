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
		"time=2026-09-22T10:00:01.000Z level=INFO msg=\"partition assigned\" webhook=w topic=orders partition=0 generation=1\ntime=2026-09-22T10:",
		"00:02.000Z level=INFO msg=\"partition assigned\" webhook=w topic=orders partition=1\nnot of the log: partition assigned\n",
		"time=2026-09-22T10:00:03.000Z level=INFO msg=\"partition given up\" topic=orders partition=0 lost=false\n",
		"time=2026-09-22T10:00:04.000Z level=INFO msg=\"partition assigned\" topic=orders partition=0\ntime=2026",
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
