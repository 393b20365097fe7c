package test

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kpush/kpush/internal/gatewaytest"
)

// poison is the offset that refusing answers with 400, for ever.
const poison = 3

func refusing(d *gatewaytest.Delivery) gatewaytest.Answer {
	if d.First() <= poison && poison <= d.Last() {
		return gatewaytest.Answer{Status: http.StatusBadRequest}
	}
	return gatewaytest.Answer{}
}

// twoAttempts exhausts a delivery quickly; each record is one of its own.
var twoAttempts = object{
	"batch": object{"max_records": 1},
	"retry": object{"initial_backoff_ms": 10, "max_backoff_ms": 50, "max_attempts": 2},
}

// withPolicy is twoAttempts and what happens then.
func withPolicy(policy string, more object) object {
	fields := maps.Clone(twoAttempts)
	fields["on_exhausted"] = policy
	maps.Copy(fields, more)
	return fields
}

func TestAnExhaustedDeliveryBlocks(t *testing.T) {
	s := newScene(t, 1, refusing)
	s.kafka.Produce(t, s.produced, numbered(s.topic, 0, 10)...)
	s.register(t, withPolicy("block", nil))
	s.awaitState(t, "blocked")
	partition := gatewaytest.Partition{Topic: s.topic, ID: 0}
	gatewaytest.Await(t, soon, func() error {
		if committed := s.kafka.Committed(t, s.group)[partition]; committed != poison {
			return fmt.Errorf("committed is %d, want %d", committed, poison)
		}
		return nil
	})
	if got := s.receiver.Distinct(s.id); got != poison+1 {
		t.Errorf("%d records arrived, want the %d up to the one that blocks", got, poison+1)
	}
	row := s.gateway.API.Partitions(t, s.id)[0]
	if row.LastError == nil || row.LastError.Status == nil || *row.LastError.Status != 400 {
		t.Errorf("last_error is %+v, want status 400", row.LastError)
	}
	s.receiver.SetScript(gatewaytest.OK)
	s.awaitDistinct(t, 10, soon)
	s.finish(t, soon)
}

func TestAnExhaustedDeliveryIsDeadLettered(t *testing.T) {
	s := newScene(t, 1, refusing)
	const letters = "dead-letters"
	s.kafka.CreateTopic(t, letters, 1)
	records := numbered(s.topic, 0, 10)
	records[poison].Key = []byte{0xff, 0}
	records[poison].Headers = []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "a"}, {Key: "", Value: []byte{0xff}}}
	s.kafka.Produce(t, s.produced, records...)
	s.register(t, withPolicy("dead_letter", object{"dead_letter": object{"topic": letters}}))
	s.awaitEnd(t, soon)

	dead := s.kafka.Read(t, letters)
	if len(dead) != 1 {
		t.Fatalf("%d dead letters, want 1", len(dead))
	}
	letter, original := dead[0], records[poison]
	if string(letter.Key) != string(original.Key) || string(letter.Value) != string(original.Value) ||
		letter.Timestamp.UnixMilli() != original.Timestamp.UnixMilli() {
		t.Errorf("the dead letter is %v = %q at %v, want %v = %q at %v", letter.Key, letter.Value, letter.Timestamp,
			original.Key, original.Value, original.Timestamp)
	}
	if got, want := fmt.Sprint(letter.Headers[:3]), fmt.Sprint(original.Headers); got != want {
		t.Errorf("its headers begin with %s, want the original ones %s", got, want)
	}
	told := map[string]string{}
	for _, h := range letter.Headers[3:] {
		told[h.Key] = string(h.Value)
	}
	for name, want := range map[string]string{
		"kpush-webhook": s.id, "kpush-source-topic": s.topic, "kpush-source-partition": "0", "kpush-source-offset": fmt.Sprint(poison),
		"kpush-error-status": "400", "kpush-attempts": "2",
	} {
		if told[name] != want {
			t.Errorf("header %s is %q, want %q; all of them: %v", name, told[name], want, told)
		}
	}
	for _, name := range []string{"kpush-source-timestamp", "kpush-error-code", "kpush-error-detail", "kpush-first-attempt-at", "kpush-dead-lettered-at"} {
		if _, ok := told[name]; !ok {
			t.Errorf("header %s is missing; all of them: %v", name, told)
		}
	}
	s.finishSettled(t, poison)
}

func TestAnExhaustedDeliveryIsSkipped(t *testing.T) {
	s := newScene(t, 1, refusing)
	s.kafka.Produce(t, s.produced, numbered(s.topic, 0, 10)...)
	s.register(t, withPolicy("skip", nil))
	s.awaitEnd(t, soon)
	if log := s.gateway.Log(); !strings.Contains(log, fmt.Sprintf("offset=%d", poison)) {
		t.Errorf("the log does not name the skipped offset %d", poison)
	}
	s.finishSettled(t, poison)
}

// finishSettled audits a run in which one offset of partition 0 needs no ack.
func (s *scene) finishSettled(t *testing.T, offset int64) {
	t.Helper()
	s.awaitEnd(t, soon)
	e := s.evidence(t)
	e.Ends = s.kafka.Ends(t, s.topic)
	e.Settled = map[gatewaytest.Partition][]int64{{Topic: s.topic, ID: 0}: {offset}}
	gatewaytest.Audit(e).Check(t)
}

func TestWebhookPausedResumedDeleted(t *testing.T) {
	s := newScene(t, 2, gatewaytest.OK)
	s.kafka.Produce(t, s.produced, numbered(s.topic, 0, 5)...)
	s.register(t, nil)
	s.awaitDistinct(t, 5, soon)

	path := "/v1/webhooks/" + s.id
	for range 2 { // idempotent
		s.gateway.API.Must(t, 200, http.MethodPost, path+"/pause", nil)
	}
	s.awaitState(t, "paused")
	s.kafka.Produce(t, s.produced, numbered(s.topic, 1, 5)...)
	if w := s.gateway.API.Webhook(t, s.id); w.State != "paused" {
		t.Errorf("state is %s, want paused", w.State)
	}
	s.quiet(t, 5)
	members, err := s.kafka.Admin().DescribeGroups(t.Context(), s.group)
	if err != nil || len(members[s.group].Members) != 1 {
		t.Errorf("the group has members %v, %v; want the paused webhook's one", members[s.group].Members, err)
	}
	for range 2 {
		s.gateway.API.Must(t, 200, http.MethodPost, path+"/resume", nil)
	}
	s.awaitDistinct(t, 10, soon)
	s.finish(t, soon)

	s.gateway.API.Must(t, 204, http.MethodDelete, path, nil)
	s.gateway.API.Must(t, 404, http.MethodGet, path, nil)
	s.kafka.Produce(t, s.produced, numbered(s.topic, 0, 5)...)
	s.quiet(t, 10)
	if got := s.kafka.Committed(t, s.group); len(got) != 2 {
		t.Errorf("committed is %v after the webhook was deleted, want it kept", got)
	}

	s.register(t, nil) // goes on where the group stands
	s.awaitDistinct(t, 15, soon)
	if report := s.finish(t, soon); report.Repeats != 0 {
		t.Errorf("%d records came again, want none", report.Repeats)
	}
	s.gateway.API.Must(t, 204, http.MethodDelete, path+"?offsets=delete", nil)
	gatewaytest.Await(t, soon, func() error {
		if got := s.kafka.Committed(t, s.group); len(got) != 0 {
			return fmt.Errorf("committed is %v, want nothing", got)
		}
		return nil
	})
}

// quietTime is how long nothing must happen for nothing to be believed: many
// times what a delivery takes.
const quietTime = time.Second

// quiet checks that no more than so many records arrive.
func (s *scene) quiet(t *testing.T, records int) {
	t.Helper()
	select {
	case <-time.After(quietTime):
	case <-t.Context().Done():
	}
	if got := s.receiver.Distinct(s.id); got != records {
		t.Errorf("%d records have arrived, want still %d", got, records)
	}
}

func TestReceiverThatIsGone(t *testing.T) {
	s := newScene(t, 1, func(*gatewaytest.Delivery) gatewaytest.Answer { return gatewaytest.Answer{Status: http.StatusGone} })
	s.kafka.Produce(t, s.produced, numbered(s.topic, 0, 5)...)
	s.register(t, nil)
	gatewaytest.Await(t, soon, func() error {
		if w := s.gateway.API.Webhook(t, s.id); w.State != "disabled" || w.StateReason == nil || *w.StateReason != "gone" {
			return fmt.Errorf("the webhook is %+v, want it disabled, gone", w)
		}
		return nil
	})
	s.receiver.SetScript(gatewaytest.OK)
	s.gateway.API.Must(t, 200, http.MethodPost, "/v1/webhooks/"+s.id+"/resume", nil)
	s.awaitDistinct(t, 5, soon)
	s.finish(t, soon)
}

func TestReceiverThatTakesSmallBatchesOnly(t *testing.T) {
	const most = 7
	s := newScene(t, 1, func(d *gatewaytest.Delivery) gatewaytest.Answer {
		if len(d.Records) > most {
			return gatewaytest.Answer{Status: http.StatusRequestEntityTooLarge}
		}
		return gatewaytest.Answer{}
	})
	s.kafka.Produce(t, s.produced, numbered(s.topic, 0, 200)...)
	s.register(t, nil)
	s.awaitDistinct(t, 200, soon)
	s.finish(t, soon)
}
