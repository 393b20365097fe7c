package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kpush/kpush/test/bench/meter"
)

// figures are what one run of one contender came to.
type figures map[figure]float64

// figure is the name of one number.
type figure string

const (
	cpuUs      figure = "cpu_us_per_record"
	perSecond  figure = "records_per_second"
	rssMB      figure = "peak_rss_mb"
	allocs     figure = "allocations_per_record"
	perRequest figure = "records_per_request"
	bodyBytes  figure = "body_bytes_per_record"
	p50Ms      figure = "p50_ms"
	p99Ms      figure = "p99_ms"
	handlingMs figure = "receiver_ms"
	goodput    figure = "goodput"
	protected  figure = "protection_percent" // of the CPU: the guard and the limiter
)

// job is what a contender has to do.
type job struct {
	topic   string
	batch   int
	order   meter.Order   // without Pid and Partitions
	paced   bool          // the records are produced while they are delivered
	relieve time.Duration // after this long the memory is read and the receiver answers at once; 0: never
	profile time.Duration // how long the CPU is profiled from the beginning; 0: not at all
}

// runPatience bounds one run of one contender.
const runPatience = 3 * time.Minute

// deliver runs one contender through a job and checks that it did all of it.
func (b *bench) deliver(ctx context.Context, c contender, j job) (_ figures, err error) {
	s, err := b.start(ctx, c, j.topic, j.batch)
	if err != nil {
		return nil, err
	}
	stopped := false
	defer func() {
		if !stopped {
			_, stopErr := s.stop()
			err = errors.Join(err, stopErr)
		}
	}()
	j.order.Pid, j.order.Partitions = s.pid(), partitions
	if err := b.receiver.order(ctx, j.order); err != nil {
		return nil, err
	}
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	var work errgroup.Group
	if j.paced {
		work.Go(func() error { return b.pace(ctx, j.topic, j.order.Expect) })
	}
	f := figures{}
	var share float64
	if g, ok := s.(*gateway); ok && j.profile > 0 {
		work.Go(func() (err error) {
			share, err = g.profile(ctx, j.profile, protection)
			return err
		})
	}
	if j.relieve > 0 {
		if err := b.relieve(ctx, s, j.relieve, f); err != nil {
			return nil, err
		}
	}
	result, err := b.receiver.result(ctx, runPatience)
	if err = errors.Join(err, work.Wait()); err != nil {
		return nil, err
	}
	if len(result.Anomalies) > 0 || result.Records != j.order.Expect {
		return nil, fmt.Errorf("delivered %d of %d records:\n%s", result.Records, j.order.Expect, strings.Join(result.Anomalies, "\n"))
	}
	if f[rssMB] == 0 {
		rss, err := meter.PeakRSS(s.pid())
		if err != nil {
			return nil, err
		}
		f[rssMB] = megabytes(rss)
	}
	if err := s.settled(ctx); err != nil {
		return nil, err
	}
	stopped = true
	mallocs, err := s.stop()
	if err != nil {
		return nil, err
	}
	f.from(result, mallocs)
	if j.profile > 0 {
		f[protected] = share
	}
	return f, nil
}

// relieve reads the memory of a subject that has worked for a while, then lets
// the receiver answer at once so that the rest takes less long.
func (b *bench) relieve(ctx context.Context, s subject, after time.Duration, f figures) error {
	select {
	case <-time.After(after):
	case <-ctx.Done():
		return ctx.Err()
	}
	rss, err := meter.PeakRSS(s.pid())
	if err != nil {
		return err
	}
	f[rssMB] = megabytes(rss)
	return b.receiver.delay(0)
}

// from fills in what the receiver saw.
func (f figures) from(r *meter.Result, mallocs float64) {
	records := float64(r.Records)
	f[cpuUs] = float64(r.CPUNs) / 1e3 / records
	f[perSecond] = records / (float64(r.WallNs) / 1e9)
	f[allocs] = mallocs / records
	f[perRequest] = records / float64(r.Requests)
	f[bodyBytes] = float64(r.BodyBytes) / records
	f[handlingMs] = float64(r.HandlingNs) / 1e6
	if r.P99Ns > 0 {
		f[p50Ms], f[p99Ms] = float64(r.P50Ns)/1e6, float64(r.P99Ns)/1e6
	}
}

// idlePause is how long a gateway may settle before its base is read.
const idlePause = 5 * time.Second

// idle is the memory of a gateway whose webhook has nothing to deliver.
func (b *bench) idle(ctx context.Context, topic string) (float64, error) {
	s, err := b.start(ctx, ours, topic, 100)
	if err != nil {
		return 0, err
	}
	err = s.begin(ctx)
	if err == nil {
		select {
		case <-time.After(idlePause):
		case <-ctx.Done():
		}
	}
	rss, rssErr := meter.RSS(s.pid())
	_, stopErr := s.stop()
	return megabytes(rss), errors.Join(err, rssErr, stopErr)
}

func megabytes(bytes int64) float64 { return float64(bytes) / (1 << 20) }
