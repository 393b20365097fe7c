package kafkaconf

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

func TestARepeatedMessageIsPassedOnOncePerInterval(t *testing.T) {
	r := repetition{last: map[string]*repeated{}}
	begin := time.Now()
	passed, suppressed := 0, 0
	for ms := 0; ms < 60_000; ms += 100 { // a minute at 10 a second
		n, ok := r.allow(fmt.Sprintf("127.0.0.1:%d: Connect failed (after %dms%s)", 9000+ms%7, ms, strings.Repeat(", again", ms%3)), begin.Add(time.Duration(ms)*time.Millisecond))
		if ok {
			passed++
		}
		suppressed += n
	}
	if passed != 6 || suppressed != 5*99 {
		t.Errorf("passed on %d and told of %d suppressed, want 6 and %d", passed, suppressed, 5*99)
	}
}

func TestDifferentMessagesAreAllPassedOn(t *testing.T) {
	r := repetition{last: map[string]*repeated{}}
	for _, m := range []string{"a", "b", "a b", ""} {
		if _, ok := r.allow(m, time.Now()); !ok {
			t.Errorf("%q was suppressed", m)
		}
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	r := repetition{last: map[string]*repeated{}}
	now := time.Now()
	for i := range 10 * maxRemembered {
		r.allow(strings.Repeat("x", i), now)
		if len(r.last) > maxRemembered {
			t.Fatalf("%d messages are remembered, want at most %d", len(r.last), maxRemembered)
		}
	}
}

func TestLevelsAreThoseOfSyslog(t *testing.T) {
	want := map[int]slog.Level{
		0: slog.LevelError, 3: slog.LevelError, 4: slog.LevelWarn, 5: slog.LevelInfo, 6: slog.LevelInfo, 7: slog.LevelDebug,
	}
	for syslog, level := range want {
		if got := levelOf(syslog); got != level {
			t.Errorf("%d is %v, want %v", syslog, got, level)
		}
	}
}

func TestLogsEndsWithTheChannelAndWithTheContext(t *testing.T) {
	ch := make(chan kafka.LogEvent, 1)
	ch <- kafka.LogEvent{Name: "c", Tag: "TEST", Message: "the channel closes", Level: 4}
	close(ch)
	var out bytes.Buffer
	Config{Logger: slog.New(slog.NewTextHandler(&out, nil))}.Logs(t.Context(), ch)
	if got := out.String(); !strings.Contains(got, "level=WARN") || !strings.Contains(got, "the channel closes") {
		t.Errorf("logged %q", got)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	Config{}.Logs(ctx, make(chan kafka.LogEvent))
}

// A thousand clients that lose their broker must not fill the disk.
func TestABrokerThatIsDownIsLoggedOnceForAllClients(t *testing.T) {
	var out bytes.Buffer
	c := Config{Brokers: []string{"127.0.0.1:1"}, Logger: slog.New(slog.NewTextHandler(&out, nil))}
	const clients = 5
	var merge sync.WaitGroup
	merged := make(chan kafka.LogEvent, 1000)
	var consumers []*kafka.Consumer
	for range clients {
		conf := c.Consumer(hook())
		consumer, err := kafka.NewConsumer(&conf)
		if err != nil {
			t.Fatal(err)
		}
		consumers = append(consumers, consumer)
		heard := make(chan struct{})
		merge.Go(func() {
			first := sync.OnceFunc(func() { close(heard) })
			for e := range consumer.Logs() {
				merged <- e
				first()
			}
			first()
		})
		<-heard
	}
	for _, consumer := range consumers {
		consumer.Close()
	}
	merge.Wait()
	close(merged)
	events := len(merged)
	c.Logs(t.Context(), merged)
	if lines := strings.Count(out.String(), "\n"); events < clients || lines == 0 || lines >= clients {
		t.Errorf("%d events of %d clients became %d lines, want from 1 to %d:\n%s", events, clients, lines, clients-1, out.String())
	}
}
