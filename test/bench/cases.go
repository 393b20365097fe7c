package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/kpush/kpush/test/bench/meter"
)

// partitions of every topic.
const partitions = 8

// shape is one size of records and requests.
type shape struct {
	name      string
	size      int // bytes of a value
	batch     int // records of a request
	records   int64
	threshold float64 // ours in records per CPU-second, and per second, of the limit's
}

var shapes = []shape{
	{name: "1KBx100", size: 1024, batch: 100, records: 400_000, threshold: 0.80},
	{name: "200Bx100", size: 200, batch: 100, records: 800_000, threshold: 0.75},
	{name: "1KBx1", size: 1024, batch: 1, records: 80_000, threshold: 0.80},
}

// The other cases.
const (
	caseJSON    = "json"
	caseLimits  = "limits"
	caseLatency = "latency"
	caseSlow    = "slow"
	caseBacklog = "backlog"
)

const (
	maxSigningUs  = 1.0                  // CPU per record that signing may add, at the first shape
	maxTLSUs      = 0.7                  // and TLS, without signing
	maxProtection = 3.0                  // percent of the CPU that guard and limiter may take
	limitsProfile = 10 * time.Second     // of the profile that tells
	latencyRate   = 2000                 // records per second
	maxExtraP99   = 5 * time.Millisecond // over the limit's
	slowDelay     = 50 * time.Millisecond
	minGoodput    = 0.97 // of partitions × batch ÷ measured receiver time
	maxRSSOver    = 1.25 // of base + configured budgets
	limitsRecords = 400_000
	backlogBytes  = 1 << 30
	backlogSample = 15 * time.Second
)

func caseNames() []string {
	var names []string
	for _, s := range shapes {
		names = append(names, s.name)
	}
	return append(names, caseJSON, caseLimits, caseLatency, caseSlow, caseBacklog)
}

// runAll runs the cases that were asked for.
func (b *bench) runAll(ctx context.Context) error {
	wanted := func(name string) bool { return len(b.only) == 0 || slices.Contains(b.only, name) }
	for _, s := range shapes {
		if wanted(s.name) {
			if err := b.throughput(ctx, s); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	for _, c := range []struct {
		name string
		run  func(context.Context) error
	}{{caseJSON, b.json}, {caseLimits, b.limits}, {caseLatency, b.latency}, {caseSlow, b.slow}, {caseBacklog, b.backlog}} {
		if wanted(c.name) {
			if err := c.run(ctx); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return nil
}

// quickly makes a number smaller in a quick run.
func (b *bench) quickly(records int64) int64 {
	if b.quick {
		return records / 10 / (partitions * 100) * (partitions * 100)
	}
	return records
}

// throughput measures the limit, ours, and ours with signing at one shape, with TLS at the first.
func (b *bench) throughput(ctx context.Context, s shape) error {
	s.records = b.quickly(s.records)
	topic, err := b.preload(ctx, s.name, s.size, s.records, noise)
	if err != nil {
		return err
	}
	contenders := []contender{limit, ours, oursSigned}
	if s.name == shapes[0].name {
		contenders = append(contenders, oursTLS)
	}
	err = b.interleave(ctx, s.name, contenders, func(c contender) (figures, error) {
		return b.deliver(ctx, c, job{topic: topic, batch: s.batch, order: meter.Order{Expect: s.records}})
	})
	if err != nil {
		return err
	}
	median := func(c contender, f figure) float64 { return b.report.median(s.name, c, f) }
	b.report.atLeast(s.name+" records per CPU-second, ours ÷ limit", median(limit, cpuUs)/median(ours, cpuUs), s.threshold, "")
	b.report.atLeast(s.name+" records per second, ours ÷ limit", median(ours, perSecond)/median(limit, perSecond), s.threshold, "")
	if s.name == shapes[0].name {
		b.signing(s.name, "as base64")
		b.report.atMost(s.name+" as base64, CPU that TLS adds", median(oursTLS, cpuUs)-median(ours, cpuUs), maxTLSUs, "µs/record")
	}
	return nil
}

// json measures what signing adds where values are JSON, which goes unchanged: a
// third fewer bytes to sign than in base64.
func (b *bench) json(ctx context.Context) error {
	s := shapes[0]
	s.records = b.quickly(s.records)
	topic, err := b.preload(ctx, caseJSON, s.size, s.records, document)
	if err != nil {
		return err
	}
	err = b.interleave(ctx, caseJSON, []contender{ours, oursSigned}, func(c contender) (figures, error) {
		return b.deliver(ctx, c, job{topic: topic, batch: s.batch, order: meter.Order{Expect: s.records}})
	})
	if err != nil {
		return err
	}
	b.signing(caseJSON, "as JSON")
	return nil
}

// limits measures which part of the CPU goes to the guard and to the limiter, where
// they are asked most: with limits of every kind, for each single record.
func (b *bench) limits(ctx context.Context) error {
	s := shapes[2]
	topic, err := b.preload(ctx, caseLimits, s.size, b.quickly(limitsRecords), noise)
	if err != nil {
		return err
	}
	f, err := b.deliver(ctx, oursPaced, job{
		topic: topic, batch: s.batch, profile: limitsProfile, order: meter.Order{Expect: b.quickly(limitsRecords)},
	})
	if err != nil {
		return err
	}
	b.progress(caseLimits, 1, oursPaced, f)
	b.report.expect(caseLimits, oursPaced)
	b.report.add(caseLimits, oursPaced, f)
	b.report.atMost(s.name+", CPU that guard and limiter take", f[protected], maxProtection, "%")
	return nil
}

// signing reports what signing adds in a case, and what the hash alone costs.
func (b *bench) signing(name, encoding string) {
	signed, unsigned := b.report.median(name, oursSigned, cpuUs), b.report.median(name, ours, cpuUs)
	b.report.atMost("1KBx100 "+encoding+", CPU that signing adds", signed-unsigned, maxSigningUs, "µs/record")
	b.report.note("HMAC-SHA256 of as many bytes and nothing else takes %.2f µs/record here", hmacUs(b.report.median(name, oursSigned, bodyBytes)))
}

// hmacUs is what the hash of so many bytes costs by itself, in µs: the floor of
// what signing can add. It is hashed in bodies of a hundred records, for a second.
func hmacUs(bytes float64) float64 {
	const records = 100
	body := make([]byte, int(bytes*records))
	mac := hmac.New(sha256.New, body[:sha256.Size])
	start, bodies := time.Now(), 0
	for ; time.Since(start) < time.Second; bodies++ {
		mac.Reset()
		mac.Write(body)
		mac.Sum(nil)
	}
	return float64(time.Since(start).Microseconds()) / float64(bodies*records)
}

// interleave runs every contender once a round, each round in another order,
// and throws the first round away.
func (b *bench) interleave(ctx context.Context, name string, contenders []contender, run func(contender) (figures, error)) error {
	b.report.expect(name, contenders...)
	for round := range b.rounds {
		for i := range contenders {
			if err := ctx.Err(); err != nil {
				return err
			}
			c := contenders[(i+round)%len(contenders)]
			f, err := run(c)
			if err != nil {
				return fmt.Errorf("round %d of %s: %w", round, c, err)
			}
			b.progress(name, round, c, f)
			if round > 0 {
				b.report.add(name, c, f)
			}
		}
	}
	return nil
}

// latency measures the way of a record at a fixed rate.
func (b *bench) latency(ctx context.Context) error {
	const warm, measured = 2 * time.Second, 8 * time.Second
	seconds := int64((warm + measured) / time.Second)
	if b.quick {
		seconds = 4
	}
	err := b.interleave(ctx, caseLatency, []contender{limit, ours}, func(c contender) (figures, error) {
		topic, err := b.topic(ctx, caseLatency)
		if err != nil {
			return nil, err
		}
		return b.deliver(ctx, c, job{topic: topic, batch: 100, paced: true, order: meter.Order{
			Expect: seconds * latencyRate, Stamps: true, Skip: int64(warm/time.Second) * latencyRate,
		}})
	})
	if err != nil {
		return err
	}
	b.report.atMost("p99 at 2,000 records/s over the limit's",
		b.report.median(caseLatency, ours, p99Ms)-b.report.median(caseLatency, limit, p99Ms), float64(maxExtraP99.Milliseconds()), "ms")
	return nil
}

// slow measures what a receiver of 50 ms gets.
func (b *bench) slow(ctx context.Context) error {
	const batch, rounds = 100, 100
	records := b.quickly(partitions * batch * rounds)
	topic, err := b.preload(ctx, caseSlow, shapes[0].size, records, noise)
	if err != nil {
		return err
	}
	err = b.interleave(ctx, caseSlow, []contender{limit, ours}, func(c contender) (figures, error) {
		f, err := b.deliver(ctx, c, job{topic: topic, batch: batch, order: meter.Order{
			Expect: records, DelayMs: int(slowDelay.Milliseconds()),
		}})
		if err == nil {
			f[goodput] = f[perSecond] / (partitions * batch / (f[handlingMs] / 1000))
		}
		return f, err
	})
	if err != nil {
		return err
	}
	b.report.atLeast("goodput with a receiver of 50 ms", b.report.median(caseSlow, ours, goodput), minGoodput, "")
	return nil
}

// backlog measures the memory that a gigabyte of backlog takes.
func (b *bench) backlog(ctx context.Context) error {
	const size = 1024
	records := b.quickly(backlogBytes / size / (partitions * 100) * (partitions * 100))
	topic, err := b.preload(ctx, caseBacklog, size, records, noise)
	if err != nil {
		return err
	}
	empty, err := b.topic(ctx, caseBacklog+"-empty")
	if err != nil {
		return err
	}
	base, err := b.idle(ctx, empty)
	if err != nil {
		return err
	}
	sample := backlogSample
	if b.quick {
		sample = 3 * time.Second
	}
	f, err := b.deliver(ctx, ours, job{topic: topic, batch: 100, relieve: sample, order: meter.Order{
		Expect: records, DelayMs: int(slowDelay.Milliseconds()),
	}})
	if err != nil {
		return err
	}
	b.progress(caseBacklog, 1, ours, f)
	b.report.expect(caseBacklog, ours)
	b.report.add(caseBacklog, ours, f)
	allowed := maxRSSOver * (base + budgets)
	b.report.atMost(fmt.Sprintf("RSS with 1 GB of backlog (base %.0f, budgets %.0f)", base, budgets), f[rssMB], allowed, "MB")
	return nil
}

// budgets is what the webhook's settings allow in memory, in MB. Each of its
// partitions may have prefetch_bytes in the client's queue, and for each delivery
// in flight its records (max_bytes) and the request body, where base64 makes four
// bytes of three.
const budgets = partitions * (prefetchBytes + inFlight*maxBytes*(1+4.0/3)) / (1 << 20)

// The webhook's settings that make the budget; the defaults, said here aloud.
const (
	prefetchBytes = 4 << 20
	maxBytes      = 1 << 20
	inFlight      = 1
)
