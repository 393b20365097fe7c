package test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/gatewaytest"
)

// strangeRecords are what Kafka allows and few expect. Two things are left out
// that the clients on the way cannot carry: a header's name that contains NUL,
// which librdkafka hands over cut off there, and, in the producer of the tests,
// timestamps after the year 2262.
func strangeRecords() []*kgo.Record {
	texts := [][]byte{
		nil, {}, []byte("null"), []byte("true"), []byte("0"), []byte("-1.5e300"), []byte(`""`), []byte(`"a\u0000\ud800"`),
		[]byte(`{"a": 1, "a": 2}`), []byte(" {\n\t\"a\" : [ ] } "), []byte("[1,2,"), []byte("{}{}"), []byte("NaN"), []byte("01"),
		[]byte("text"), []byte("quotes \" and \\ and </script>"), []byte("\u2028\u2029 \U0001F600"), {0}, {0xff}, {0xef, 0xbb, 0xbf},
		[]byte("\xef\xbb\xbf{}"), []byte("\x00\x01\x1f\x7f"), []byte("caf\xc3"), []byte("\xed\xa0\x80"), []byte("\xc0\xaf"),
		[]byte(strings.Repeat("[", 500) + strings.Repeat("]", 500)), bytes.Repeat([]byte{0xfe}, 10_000),
	}
	var out []*kgo.Record
	for _, text := range texts {
		name := strings.ReplaceAll(string(text), "\x00", "")
		out = append(out,
			&kgo.Record{Value: text},
			&kgo.Record{Key: text, Value: text},
			&kgo.Record{Key: text},
			&kgo.Record{Headers: []kgo.RecordHeader{{Key: name, Value: text}, {Key: name, Value: text}, {Key: "x"}, {Key: "x", Value: []byte{}}}},
		)
	}
	many := &kgo.Record{Value: []byte("{}")}
	for i := range 1000 {
		many.Headers = append(many.Headers, kgo.RecordHeader{Key: fmt.Sprint("h", i%10), Value: []byte{byte(i)}})
	}
	for _, at := range []time.Time{time.UnixMilli(0), time.UnixMilli(1), time.Date(2261, 12, 31, 23, 59, 59, 0, time.UTC)} {
		out = append(out, &kgo.Record{Value: []byte("{}"), Timestamp: at})
	}
	return append(out, many)
}

func TestRecordsOfAnyBytes(t *testing.T) {
	s := newScene(t, 0, gatewaytest.OK)
	s.kafka.CreateTopic(t, s.topic, 2, "message.timestamp.after.max.ms", fmt.Sprint(int64(1)<<62))
	codecs := []kgo.CompressionCodec{
		kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(),
	}
	total := 0
	for i, codec := range codecs {
		kafka := gatewaytest.DialKafka(t, s.config.Brokers, kgo.ProducerBatchCompression(codec))
		records := strangeRecords()
		for _, r := range records {
			r.Topic, r.Partition = s.topic, int32(i%2)
		}
		kafka.Produce(t, s.produced, records...)
		total += len(records)
	}
	s.register(t, nil)
	s.awaitDistinct(t, total, soon)
	s.finish(t, soon)
}

func TestRecordsOf10MB(t *testing.T) {
	const size, most = 10 << 20, 32 << 20
	s := newScene(t, 0, gatewaytest.OK)
	s.kafka.CreateTopic(t, s.topic, 1, "max.message.bytes", fmt.Sprint(most))
	kafka := gatewaytest.DialKafka(t, s.config.Brokers, kgo.ProducerBatchMaxBytes(most), kgo.BrokerMaxWriteBytes(2*most))
	random := rand.NewChaCha8([32]byte{10})
	var records []*kgo.Record
	for n := range 6 {
		value := make([]byte, 100)
		if n%2 == 1 {
			value = make([]byte, size)
		}
		random.Read(value)
		value[0] = 0xff
		records = append(records, &kgo.Record{Topic: s.topic, Value: value})
	}
	records = append(records, &kgo.Record{Topic: s.topic, Value: []byte(`"` + strings.Repeat("a", size) + `"`)})
	kafka.Produce(t, s.produced, records...)
	s.register(t, nil)
	s.awaitDistinct(t, len(records), later)
	for _, d := range s.receiver.Deliveries(s.id) {
		for _, r := range d.Records {
			if r.Size >= size && len(d.Records) > 1 {
				t.Errorf("offset %d of %d bytes came with %d others, want it alone", r.Offset, r.Size, len(d.Records)-1)
			}
		}
	}
	s.finish(t, soon)
}

// TestTransactions interleaves committed and aborted transactions; the log ends
// with markers and aborted records, which nobody may see and everybody must pass.
func TestTransactions(t *testing.T) {
	s := newScene(t, 2, gatewaytest.OK)
	s.register(t, nil)
	producer := gatewaytest.DialKafka(t, s.config.Brokers, kgo.TransactionalID(s.topic)).Client()
	committed := 0
	for n, end := range []kgo.TransactionEndTry{true, false, true, true, false, false, true, false} {
		records := append(numbered(s.topic, 0, 7+n), numbered(s.topic, 1, 3)...)
		produceInTransaction(t, producer, records, end)
		if end == kgo.TryCommit {
			for _, r := range records {
				s.produced.Add(r)
			}
			committed += len(records)
		}
	}
	s.awaitDistinct(t, committed, soon)
	if report := s.finish(t, soon); report.Records != committed || report.Repeats != 0 {
		t.Errorf("%d records and %d repeats, want %d and none", report.Records, report.Repeats, committed)
	}
	checkLag(t, s.group, 2)
}

func TestATopicOfAbortedRecordsOnly(t *testing.T) {
	s := newScene(t, 1, gatewaytest.OK)
	producer := gatewaytest.DialKafka(t, s.config.Brokers, kgo.TransactionalID(s.topic)).Client()
	produceInTransaction(t, producer, numbered(s.topic, 0, 10), kgo.TryAbort)
	s.register(t, nil)
	s.finish(t, soon)
	if got := s.receiver.Distinct(s.id); got != 0 {
		t.Errorf("%d records arrived, want none", got)
	}
	checkLag(t, s.group, 1)
}

// produceInTransaction sends records in a transaction of their own and ends it.
func produceInTransaction(t *testing.T, producer *kgo.Client, records []*kgo.Record, end kgo.TransactionEndTry) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if err := producer.BeginTransaction(); err != nil {
		t.Fatalf("beginning a transaction: %v", err)
	}
	if err := producer.ProduceSync(ctx, records...).FirstErr(); err != nil {
		t.Fatalf("producing in a transaction: %v", err)
	}
	if err := producer.EndTransaction(ctx, end); err != nil {
		t.Fatalf("ending a transaction: %v", err)
	}
}
