package acker

import (
	"regexp"
	"strings"
	"testing"
)

// The id is how receivers know a delivery again after an upgrade: it must never
// change for the same records.
const exampleIDText = "dl_mhpwqesf6af72ttygw4dgw5tli"

var exampleTopicID = [16]byte{0: 1, 15: 16}

func exampleID(ids *DeliveryIDs, first, last int64) string {
	return ids.ID("default", "orders-to-billing", "orders", exampleTopicID, 3, first, last)
}

func TestDeliveryIDText(t *testing.T) {
	got := exampleID(NewDeliveryIDs(testKey), 1200, 1249)
	if got != exampleIDText {
		t.Errorf("id: got %s, want %s", got, exampleIDText)
	}
	if form := regexp.MustCompile(`^dl_[a-z2-7]{26}$`); !form.MatchString(got) {
		t.Errorf("id: got %s, want the form %v", got, form)
	}
}

// Every field counts, and no two fields can be read as one another.
func TestDeliveryIDsDiffer(t *testing.T) {
	ids := NewDeliveryIDs(testKey)
	none := [16]byte{}
	seen := map[string]string{}
	for claim, id := range map[string]string{
		"the delivery":                  ids.ID("t", "w", "o", none, 1, 2, 3),
		"another tenant":                ids.ID("T", "w", "o", none, 1, 2, 3),
		"another webhook":               ids.ID("t", "W", "o", none, 1, 2, 3),
		"another topic":                 ids.ID("t", "w", "O", none, 1, 2, 3),
		"the topic made again":          ids.ID("t", "w", "o", exampleTopicID, 1, 2, 3),
		"another partition":             ids.ID("t", "w", "o", none, 9, 2, 3),
		"another first offset":          ids.ID("t", "w", "o", none, 1, 1, 3),
		"another last offset":           ids.ID("t", "w", "o", none, 1, 2, 4),
		"first and last exchanged":      ids.ID("t", "w", "o", none, 1, 3, 2),
		"tenant and webhook run on":     ids.ID("tw", "", "o", none, 1, 2, 3),
		"tenant and webhook run back":   ids.ID("", "tw", "o", none, 1, 2, 3),
		"webhook and topic run on":      ids.ID("t", "wo", "", none, 1, 2, 3),
		"a length moved into the text":  ids.ID("t\x01w", "", "o", none, 1, 2, 3),
		"the same under another secret": NewDeliveryIDs(otherKey).ID("t", "w", "o", none, 1, 2, 3),
	} {
		if other, ok := seen[id]; ok {
			t.Errorf("%s and %s have the same id %s", claim, other, id)
		}
		seen[id] = claim
	}
}

// TestG4: Standard Webhooks parts what is signed by full stops; the id has none,
// whatever the topic is called.
func TestG4_TheIDHasNoFullStop(t *testing.T) {
	ids := NewDeliveryIDs(testKey)
	for partition := range int32(100) {
		if id := ids.ID("t.t", "w.w", "a.b.c", exampleTopicID, partition, 2, 3); strings.Contains(id, ".") {
			t.Errorf("id %s has a full stop", id)
		}
	}
}

func BenchmarkDeliveryID(b *testing.B) {
	b.ReportAllocs()
	ids := NewDeliveryIDs(testKey)
	for b.Loop() {
		exampleID(ids, 1200, 1249)
	}
}
