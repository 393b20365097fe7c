package groupmanager

import (
	"errors"
	"fmt"
	"time"

	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/filter"
)

const (
	// sieveRecords and sieveTime are how much one turn judges: then acks, revokes and
	// questions have theirs.
	sieveRecords = 512
	sieveTime    = 5 * time.Millisecond
	// sieveBytes bounds what is read to be judged, but for one record.
	sieveBytes = 1 << 20
	// sievePatience is how long a delivery waits for records that are there and still
	// to be judged, so that a filter that lets little through makes full deliveries.
	sievePatience = 100 * time.Millisecond
	// sieveComplaints is how often at most a partition logs that records could not be judged.
	sieveComplaints = time.Minute
)

var errFilter = errors.New("the webhook's filter does not compile")

// recordFilter says which records are delivered, *filter.Filter outside of tests.
// Many partitions call it at once.
type recordFilter interface {
	// Match tells whether record i of b is delivered. So is one that it has an error about.
	Match(topic string, partition int32, b *records.Batch, i int) (bool, error)
	// Explain says why Match failed, and nothing of the record.
	Explain(err error) string
}

// filterOf compiles a webhook's filter; nil if it has none.
func filterOf(w webhooks.Webhook) (recordFilter, error) {
	if w.Filter == nil {
		return nil, nil
	}
	f, err := filter.Compile(*w.Filter)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errFilter, err)
	}
	return f, nil
}

// sieve is a source that passes on what the webhook's filter lets through; whatever
// comes after it knows nothing of the rest. To the books a record that was dropped
// is an offset without a record. One that cannot be judged passes: nothing is lost
// by a filter that does not fit.
//
// A nil sieve is that of a webhook without a filter. Owned by the partition
// goroutine.
type sieve struct {
	source
	filter  recordFilter
	tenure  *tenure
	metrics *instruments
	lane    *laneConfig // for its log

	raw    *records.Batch // read; nil when everything was judged
	next   int            // the first record of raw that was not judged
	size   int            // running mean of a record's bytes
	failed error          // of the source, to be told when raw was judged

	began      time.Time     // of this turn
	judged     int           // in this turn
	unfinished bool          // the turn was over before the source was empty
	again      chan struct{} // has a value then; one slot

	dropped    int64 // in this tenure
	complained time.Time
	unsaid     int // records that could not be judged since then
}

// newSieve returns nil if the webhook has no filter.
func newSieve(cfg *laneConfig, t *tenure, src source) *sieve {
	if cfg.filter == nil {
		return nil
	}
	return &sieve{
		source: src, filter: cfg.filter, tenure: t, metrics: cfg.metrics, lane: cfg,
		size: guessedSize, again: make(chan struct{}, 1),
	}
}

// turn begins a turn: what Read judges until the next one is bounded.
func (s *sieve) turn(now time.Time) {
	if s != nil {
		s.began, s.judged = now, 0
	}
}

// Read appends records that pass. With fewer than asked for the source is empty or
// the turn is over; Wake tells when to go on in either case.
func (s *sieve) Read(dst *records.Batch, most int) (int, error) {
	var passed, dropped, failed int
	short := false
	s.unfinished = false
	for passed+failed < most {
		if s.raw == nil {
			if short || s.failed != nil {
				break
			}
			var empty bool
			if short, empty = s.read(); empty {
				break
			}
		}
		if s.judged >= sieveRecords || s.judged > 0 && time.Since(s.began) >= sieveTime {
			s.pause()
			break
		}
		s.judged++
		pass, err := s.filter.Match(s.tenure.topic, s.tenure.partition, s.raw, s.next)
		switch {
		case err != nil:
			failed++
			s.complain(s.raw.Records[s.next].Offset, err)
		case pass:
			passed++
		default:
			dropped++
		}
		if pass || err != nil {
			s.raw.CopyTo(dst, s.next, s.next+1)
		}
		if s.next++; s.next == s.raw.Len() {
			s.release()
		}
	}
	s.dropped += int64(dropped)
	s.metrics.judged(passed, dropped, failed)
	if s.raw == nil && s.failed != nil {
		err := s.failed
		s.failed = nil
		return passed + failed, err
	}
	return passed + failed, nil
}

// read takes what the next turn judges out of the source. Short tells that there
// was less than asked for, empty that there was nothing.
func (s *sieve) read() (short, empty bool) {
	s.raw, s.next = records.Get(), 0
	want := min(sieveRecords, max(1, sieveBytes/s.size))
	got, err := s.source.Read(s.raw, want)
	s.failed = err
	if got == 0 {
		s.release()
		return true, true
	}
	s.size = max(1, (s.size+s.raw.Bytes()/got)/2)
	return got < want, false
}

// pause ends a turn: Wake has a value, once.
func (s *sieve) pause() {
	s.unfinished = true
	select {
	case s.again <- struct{}{}:
	default:
	}
}

// Wake is the source's own unless there is more to judge.
func (s *sieve) Wake() <-chan struct{} {
	if s.unfinished {
		return s.again
	}
	return s.source.Wake()
}

// Position is the next offset after all that was judged.
func (s *sieve) Position() int64 {
	if s.raw != nil {
		return s.raw.Records[s.next].Offset
	}
	return s.source.Position()
}

// gathers tells whether a delivery whose first record was read at some time waits
// for more that is there and still to be judged.
func (s *sieve) gathers(since, now time.Time) bool {
	return s != nil && s.unfinished && now.Before(since.Add(sievePatience))
}

// filtered is the number of records dropped in this tenure.
func (s *sieve) filtered() int64 {
	if s == nil {
		return 0
	}
	return s.dropped
}

// complain logs that a record passes because it could not be judged.
func (s *sieve) complain(offset int64, err error) {
	s.unsaid++
	now := time.Now()
	if !s.complained.IsZero() && now.Before(s.complained.Add(sieveComplaints)) {
		return
	}
	s.lane.logger.Warn("the filter could not be evaluated for a record, which is delivered",
		"topic", s.tenure.topic, "partition", s.tenure.partition, "offset", offset, "reason", s.filter.Explain(err), "records_since_last", s.unsaid)
	s.complained, s.unsaid = now, 0
}

// release gives the memory of what was judged back.
func (s *sieve) release() {
	if s != nil && s.raw != nil {
		s.raw.Free()
		s.raw, s.next = nil, 0
	}
}
