package groupmanager

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

func TestAPageIsWhatComesAfterAPlaceInOrder(t *testing.T) {
	all := func() []kafka.TopicPartition {
		return partitionsOf(map[string]topicInfo{"orders": {partitions: 12}, "orders-eu": {partitions: 2}, "a": {partitions: 1}})
	}
	for _, c := range []struct {
		name  string
		after Place
		limit int
		want  []Place
		more  bool
	}{
		{"the first", Place{}, 2, []Place{{"a", 0}, {"orders", 0}}, true},
		{"by number, not by digits", Place{"orders", 8}, 3, []Place{{"orders", 9}, {"orders", 10}, {"orders", 11}}, true},
		{"over the end of a topic", Place{"orders", 11}, 1, []Place{{"orders-eu", 0}}, true},
		{"the last", Place{"orders-eu", 0}, 1, []Place{{"orders-eu", 1}}, false},
		{"behind the last", Place{"orders-eu", 1}, 1, nil, false},
		{"after what is no more", Place{"b", 7}, 1, []Place{{"orders", 0}}, true},
	} {
		page, more := pageOf(all(), c.after, c.limit)
		var got []Place
		for _, p := range page {
			got = append(got, placeOf(p))
		}
		if !slices.Equal(got, c.want) || more != c.more {
			t.Errorf("%s: %v, %v; want %v, %v", c.name, got, more, c.want, c.more)
		}
	}
}

// A replica is asked for the partitions of a page alone. One of an earlier build
// asks for all of them.
func TestAReplicaTellsOfThePartitionsOfAPage(t *testing.T) {
	for body, want := range map[string][]int32{
		`{"tenant":"default","id":"a"}`: {0, 1, 2, 3},
		`{"tenant":"default","id":"a","after":{"topic":"orders","partition":0},"last":{"topic":"orders","partition":2}}`: {1, 2},
		`{"tenant":"default","id":"a","after":{"topic":"","partition":0},"last":{"topic":"orders","partition":0}}`:       {0},
	} {
		var target partitionsTarget
		if err := json.Unmarshal([]byte(body), &target); err != nil || target.ID != "a" {
			t.Fatalf("%s: %v", body, err)
		}
		var got []int32
		for p := range int32(4) {
			if target.holds(topicPartition{"orders", p}) {
				got = append(got, p)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s holds %v, want %v", body, got, want)
		}
	}
}
