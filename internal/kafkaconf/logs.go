package kafkaconf

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// Logs hands what a client logs to the logger until ch, its Logs(), closes or ctx
// ends; it blocks. A message is passed on at most once in repeatInterval, over all
// clients of the process: a thousand of them lose the same broker at once. What
// differs only in numbers counts as the same.
//
// After Logs has returned nobody reads ch, and the client keeps its entries: it
// should be closed soon.
func (c Config) Logs(ctx context.Context, ch <-chan kafka.LogEvent) {
	for {
		select {
		case e, ok := <-ch:
			if !ok {
				return
			}
			c.log(ctx, e)
		case <-ctx.Done():
			return
		}
	}
}

func (c Config) log(ctx context.Context, e kafka.LogEvent) {
	level := levelOf(e.Level)
	if c.Logger == nil || !c.Logger.Enabled(ctx, level) || untrue(e) {
		return
	}
	suppressed := 0
	if level > slog.LevelDebug { // who asks for debug wants all of it
		var ok bool
		if suppressed, ok = repeats.allow(e.Tag+" "+e.Message, time.Now()); !ok {
			return
		}
	}
	attrs := []slog.Attr{slog.String("client", e.Name), slog.String("facility", e.Tag)}
	if suppressed > 0 {
		attrs = append(attrs, slog.Int("repeats_suppressed", suppressed))
	}
	c.Logger.LogAttrs(ctx, level, "kafka client: "+e.Message, attrs...)
}

// untrue tells of the warning that a producer ignores allow.auto.create.topics. It
// does not: see base.
func untrue(e kafka.LogEvent) bool {
	return e.Tag == "CONFWARN" && strings.Contains(e.Message, autoCreate)
}

// levelOf maps the levels of syslog, which librdkafka uses.
func levelOf(syslog int) slog.Level {
	switch {
	case syslog <= 3:
		return slog.LevelError
	case syslog == 4:
		return slog.LevelWarn
	case syslog <= 6:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

const (
	// repeatInterval is the client's longest pause between two attempts to reach
	// a broker (reconnect.backoff.max.ms, by default).
	repeatInterval = 10 * time.Second

	// maxRemembered bounds the messages that are remembered.
	maxRemembered = 1000
)

// repeats is one for the process, for what one client says all others say too.
var repeats = repetition{last: map[string]*repeated{}}

// repetition remembers what was logged lately. It is safe for concurrent use.
type repetition struct {
	mu   sync.Mutex
	last map[string]*repeated // by message without digits
}

type repeated struct {
	at         time.Time // when it was passed on last
	suppressed int       // since then
}

// allow tells whether a message may be passed on now, and how many like it were
// not since the last.
func (r *repetition) allow(message string, now time.Time) (suppressed int, ok bool) {
	message, _, _ = strings.Cut(message, " (after ") // how long it took, and how often before
	key := strings.Map(dropDigits, message)
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, known := r.last[key]; known {
		if now.Sub(last.at) < repeatInterval {
			last.suppressed++
			return 0, false
		}
		suppressed = last.suppressed
	} else if len(r.last) >= maxRemembered {
		r.forget(now)
	}
	r.last[key] = &repeated{at: now}
	return suppressed, true
}

// forget makes room: what is out of date goes, or, in a flood of messages that
// are all different, everything.
func (r *repetition) forget(now time.Time) {
	for key, last := range r.last {
		if now.Sub(last.at) >= repeatInterval {
			delete(r.last, key)
		}
	}
	if len(r.last) >= maxRemembered {
		clear(r.last)
	}
}

// dropDigits takes out what differs between repetitions: ports, times, counts.
func dropDigits(r rune) rune {
	if r >= '0' && r <= '9' {
		return -1
	}
	return r
}
