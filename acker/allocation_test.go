//go:build !race

package acker

import "testing"

// Not with the race detector, under which a sync.Pool forgets at random.

// A batch of one run costs its Delivery and nothing else, however many records
// it has.
func TestDeliveryCostsOneAllocation(t *testing.T) {
	l := NewLedger()
	first := int64(0)
	got := testing.AllocsPerRun(1000, func() { oneDelivery(t, l, &first) })
	if got > 1 {
		t.Errorf("deliver, send, ack: got %v allocations, want at most 1", got)
	}
}

func TestTokenAppendAllocatesNothing(t *testing.T) {
	tokens := NewTokens(testKey)
	dst := make([]byte, 0, maxTokenText)
	if got := testing.AllocsPerRun(1000, func() { dst = tokens.Append(dst[:0], &exampleToken) }); got > 0 {
		t.Errorf("allocations: got %v, want none", got)
	}
}

func TestDeliveryIDCostsOneAllocation(t *testing.T) {
	ids := NewDeliveryIDs(testKey)
	if got := testing.AllocsPerRun(1000, func() { exampleID(ids, 1200, 1249) }); got > 1 {
		t.Errorf("allocations: got %v, want the id alone", got)
	}
}
