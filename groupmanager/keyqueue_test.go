package groupmanager

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/kpush/kpush/internal/records"
)

// waiter of the model: a record that waits.
type waitingRecord struct {
	offset int64
	key    string // "" for null, which is a key of its own
	size   int
}

// TestKeyQueue compares the queue with a list that is looked through from its front.
func TestKeyQueue(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		q := newKeyQueue()
		var waiting []waitingRecord
		held := map[string]int{}
		type open struct {
			names []string // of the model's keys
			keys  []uint64
		}
		var deliveries []open
		offset := int64(0)
		name := func(w waitingRecord) string {
			if w.key == "" {
				return fmt.Sprint("null ", w.offset)
			}
			return w.key
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0:
				b := q.room()
				if limit := 2*q.bytes + compactAbove; b.Bytes() > limit {
					t.Fatalf("%d bytes are kept of %d that wait", b.Bytes(), q.bytes)
				}
				if limit := 2*q.count + readAhead; len(q.slots) > limit {
					t.Fatalf("%d records are kept of %d that wait", len(q.slots), q.count)
				}
				for range rapid.IntRange(1, 30).Draw(t, "records") {
					offset += int64(rapid.IntRange(1, 3).Draw(t, "distance"))
					key := rapid.SampledFrom([]string{"", "a", "b", "c", "d", "e"}).Draw(t, "key")
					value := make([]byte, rapid.SampledFrom([]int{0, 1, 10, 5_000}).Draw(t, "size"))
					var k []byte
					if key != "" {
						k = []byte(key)
					}
					b.Append(records.Record{Offset: offset}, k, value)
					wanted := rapid.IntRange(0, 9).Draw(t, "wanted") > 0
					q.entered(wanted)
					if wanted {
						waiting = append(waiting, waitingRecord{offset, key, len(k) + len(value)})
					}
				}
			case 1:
				most, bytes := rapid.IntRange(1, 12).Draw(t, "most"), rapid.SampledFrom([]int{1, 20, 6_000, 1 << 20}).Draw(t, "bytes")
				var want []int64
				var names []string
				rest, size, over := []waitingRecord(nil), 0, false
				for _, w := range waiting {
					if over || len(want) == most || held[name(w)] > 0 {
						rest = append(rest, w)
						continue
					}
					if len(want) > 0 && size+w.size > bytes {
						over = true
						rest = append(rest, w)
						continue
					}
					size += w.size
					want, names = append(want, w.offset), append(names, name(w))
				}
				if (q.readyCount > 0) != (len(want) > 0) {
					t.Fatalf("%d records are ready, want %v", q.readyCount, want)
				}
				if len(want) == 0 {
					continue
				}
				if got := q.first(); got != want[0] {
					t.Fatalf("the first ready is %d, want %d", got, want[0])
				}
				b, keys := q.cut(most, bytes)
				var got []int64
				for i := range b.Records {
					got = append(got, b.Records[i].Offset)
				}
				if !slices.Equal(got, want) || len(keys) != len(want) {
					t.Fatalf("cut %v with %d keys, want %v", got, len(keys), want)
				}
				b.Free()
				waiting = rest
				for _, n := range names {
					held[n]++
				}
				deliveries = append(deliveries, open{names, keys})
			case 2:
				if len(deliveries) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(deliveries)-1).Draw(t, "delivery")
				d := &deliveries[i]
				n := rapid.IntRange(1, len(d.keys)).Draw(t, "settled")
				for j := range n {
					q.release(d.keys[j])
					held[d.names[j]]--
				}
				if d.keys, d.names = d.keys[n:], d.names[n:]; len(d.keys) == 0 {
					deliveries = slices.Delete(deliveries, i, i+1)
				}
			}
			ready, bytes, readyBytes := 0, 0, 0
			for _, w := range waiting {
				bytes += w.size
				if held[name(w)] == 0 {
					ready++
					readyBytes += w.size
				}
			}
			if q.count != len(waiting) || q.bytes != bytes || q.readyCount != ready || q.readyBytes != readyBytes {
				t.Fatalf("%d records of %d bytes, %d of %d ready; want %d of %d, %d of %d",
					q.count, q.bytes, q.readyCount, q.readyBytes, len(waiting), bytes, ready, readyBytes)
			}
		}
	})
}
