package groupmanager_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/webhooks"
)

// deliverExactly produces the records, all different, and has them delivered: the
// audit compares each byte that arrived with what is in Kafka, where null and
// empty differ, and no two may look the same to the receiver.
func deliverExactly(t *testing.T, records []*kgo.Record, change ...func(*webhooks.Webhook)) {
	t.Helper()
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 1)
	for _, r := range records {
		r.Topic, r.Timestamp = "orders", time.UnixMilli(1_790_000_000_000)
	}
	produced := &gatewaytest.Produced{}
	h.kafka.Produce(t, produced, records...)
	h.webhook(t, "billing", "orders", append(change, earliest)...)
	h.caughtUp(t, "billing")
	r := h.audit(t, "billing", "orders", produced, true)
	if r.Records != len(records) || r.Repeats != 0 {
		t.Errorf("%d records with %d repeats, want %d and 0", r.Records, r.Repeats, len(records))
	}
	seen := map[gatewaytest.Digest]int64{}
	for _, d := range h.receiver.Deliveries("billing") {
		for _, r := range d.Records {
			if before, ok := seen[r.Digest]; ok {
				t.Errorf("records %d and %d look the same to the receiver", before, r.Offset)
			}
			seen[r.Digest] = r.Offset
		}
	}
}

func TestP3_NullAndEmptyAreDistinctOnTheWire(t *testing.T) {
	var records []*kgo.Record
	for _, key := range [][]byte{nil, {}, []byte("null"), []byte("k")} {
		for _, value := range [][]byte{nil, {}, []byte("null"), []byte(`""`), []byte("{}"), []byte("v")} {
			for _, headers := range [][]kgo.RecordHeader{nil, {{Key: "h"}}, {{Key: "h", Value: []byte{}}}, {{Key: ""}}} {
				records = append(records, &kgo.Record{Key: key, Value: value, Headers: headers})
			}
		}
	}
	deliverExactly(t, records)
}

func TestP4_BytesOfAnyKindArriveExactly(t *testing.T) {
	everyByte := make([]byte, 256)
	for i := range everyByte {
		everyByte[i] = byte(i)
	}
	odd := [][]byte{
		{0xff}, {0}, []byte("a\x00b"), []byte("\xc3("), []byte("\xed\xa0\x80"), []byte("\xf4\x90\x80\x80"), everyByte,
		[]byte("\u2028\u2029\ufffd\U0001f4e8"), []byte("<script>&\"\\/\b\f\r\n\t\x7f"), []byte("[1,2"), []byte("1e400"), []byte(" {\"a\" : 1} "), []byte("\ufeff{}"),
	}
	var records []*kgo.Record
	for _, b := range odd {
		records = append(records, &kgo.Record{Key: b, Value: []byte("v")}, &kgo.Record{Key: []byte("k"), Value: b},
			&kgo.Record{Headers: []kgo.RecordHeader{{Key: "h", Value: b}}})
		if !strings.Contains(string(b), "\x00") { // see below
			records = append(records, &kgo.Record{Headers: []kgo.RecordHeader{{Key: string(b), Value: []byte("v")}}})
		}
	}
	var thousand []kgo.RecordHeader
	for n := range 1000 {
		thousand = append(thousand, kgo.RecordHeader{Key: fmt.Sprint("h", n%10), Value: []byte{byte(n), byte(n >> 8)}})
	}
	records = append(records,
		&kgo.Record{Headers: thousand},
		&kgo.Record{Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "a", Value: []byte("1")}, {Key: "b"}, {Key: "a", Value: []byte("0")}}},
		&kgo.Record{Headers: []kgo.RecordHeader{{Key: "\xff", Value: nil}, {Key: "\xff", Value: []byte{}}, {Key: "\xff\xfe", Value: []byte{0xff}}}},
	)
	deliverExactly(t, records)
}

// The client's C interface gives a header's name without its length.
func TestP4_AHeadersNameEndsAtItsFirstNULByte(t *testing.T) {
	h := newHouse(t, gatewaytest.OK)
	h.kafka.CreateTopic(t, "orders", 1)
	inKafka := &kgo.Record{Topic: "orders", Headers: []kgo.RecordHeader{{Key: "a\x00b", Value: []byte("v\x00w")}, {Key: "\x00", Value: nil}}}
	h.kafka.Produce(t, &gatewaytest.Produced{}, inKafka)
	produced := &gatewaytest.Produced{}
	arrives := *inKafka
	arrives.Headers = []kgo.RecordHeader{{Key: "a", Value: []byte("v\x00w")}, {Key: "", Value: nil}}
	produced.Add(&arrives)
	h.webhook(t, "billing", "orders", earliest)
	h.caughtUp(t, "billing")
	h.audit(t, "billing", "orders", produced, true)
}
