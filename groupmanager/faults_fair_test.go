package groupmanager

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kpush/kpush/groupmanager/pacing"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
	"github.com/kpush/kpush/webhooks/egress"
)

// loopback sends to a receiver on this machine, over sockets, and takes the time from
// when a record was put into its queue. Each delivery is one record.
type loopback struct {
	*delivery.Client

	mu   sync.Mutex
	put  []time.Time // by offset
	ways []time.Duration
}

func (l *loopback) Send(ctx context.Context, m *delivery.Message, a delivery.Attempt) delivery.Result {
	r := l.Client.Send(ctx, m, a)
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.ways); r.Verdict == delivery.Acked && n < len(l.put) {
		l.ways = append(l.ways, time.Since(l.put[n]))
	}
	return r
}

// loopbackRig is a partition of a webhook of its own, for a receiver on this machine.
func loopbackRig(t *testing.T, url string, share *pacing.Share) (*rig, *loopback) {
	t.Helper()
	ports, err := egress.ParsePorts([]string{egress.AnyPort})
	if err != nil {
		t.Fatal(err)
	}
	guard := egress.New(egress.Policy{
		AllowHTTP: true, AllowedPorts: ports, AllowedCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}, egress.Options{})
	r := newRig(t, nil, func(w *webhooks.Webhook) { w.URL, w.Batch.MaxRecords = url, 1 })
	r.receiver.Close()
	client, err := delivery.NewClient(delivery.Config{Webhook: r.lane.webhook, UserAgent: "kpush/test", Guard: guard})
	if err != nil {
		t.Fatal(err)
	}
	out := &loopback{Client: client}
	t.Cleanup(client.Close)
	r.lane.pace.line.Close(time.Now())
	r.lane.pacer = pacing.New(pacing.Config{LineInFlight: 1, Share: share, LongestPause: time.Minute})
	r.lane.pace.line = r.lane.pacer.Line(r.nudge)
	r.lane.client, r.lane.senders.client = out, out
	return r, out
}

// Two hundred receivers take seconds for an answer, all at once, each with as many
// records as it likes; the others hardly notice.
func TestT14_SlowReceivers(t *testing.T) {
	const (
		slow, quick   = 200, 20
		rounds, least = 8, 2
		sample        = 40
		pause         = 50 * time.Millisecond
		apart         = 10 * time.Millisecond // that the slow ones begin: they are no choir
		most          = 1.2                   // times the p99 without slow ones
	)
	release := make(chan struct{})
	slowly := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		select {
		case <-time.After(time.Second + rand.N(2*time.Second)):
		case <-release:
		}
	}))
	t.Cleanup(slowly.Close)
	quickly := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(20 * time.Millisecond) }))
	t.Cleanup(quickly.Close)

	share := pacing.NewShare(64 << 10)
	var crowd []*loopback
	var rigs []*rig
	for range quick {
		r, out := loopbackRig(t, quickly.URL, share)
		r.start(t)
		crowd, rigs = append(crowd, out), append(rigs, r)
	}
	var sick []*rig
	for range slow {
		r, _ := loopbackRig(t, slowly.URL, share)
		r.fetch.source = &spring{value: make([]byte, 1000), wake: make(chan struct{})}
		r.paused.Store(true)
		r.start(t)
		sick = append(sick, r)
	}
	t.Cleanup(func() { close(release) }) // before the partitions are stopped, one after the other

	offset := int64(0)
	p99 := func() time.Duration {
		var ways []time.Duration
		for range sample {
			for n, r := range rigs {
				crowd[n].mu.Lock()
				crowd[n].put = append(crowd[n].put, time.Now())
				crowd[n].mu.Unlock()
				r.queue.put(offset)
				time.Sleep(pause / quick)
			}
			offset++
		}
		for n, out := range crowd {
			deadline := time.Now().Add(time.Minute)
			for rigs[n].tenure.safe.Load() < offset {
				if time.Now().After(deadline) {
					t.Fatalf("webhook %d is at %d of %d", n, rigs[n].tenure.safe.Load(), offset)
				}
				time.Sleep(time.Millisecond)
			}
			out.mu.Lock()
			ways = append(ways, out.ways[len(out.ways)-sample:]...)
			out.mu.Unlock()
		}
		slices.Sort(ways)
		return ways[len(ways)*99/100]
	}
	all := func(paused bool) {
		for _, r := range sick {
			r.paused.Store(paused)
			r.nudge()
			time.Sleep(apart)
		}
	}
	p99() // connections are made
	// The best of the rounds: a neighbour on the machine only ever adds, and slow
	// receivers that held the others up would do so in each of them.
	without, with := time.Hour, time.Hour
	for n := 0; n < rounds && (n < least || float64(with) > most*float64(without)); n++ {
		without = min(without, p99())
		all(false)
		with = min(with, p99())
		all(true)
		time.Sleep(3 * time.Second)
	}
	t.Logf("p99 of %d webhooks: %v alone, %v beside %d slow receivers: %.2f times", quick, without, with, slow, float64(with)/float64(without))
	if float64(with) > most*float64(without) {
		t.Errorf("p99 is %v beside slow receivers, want at most %v × %v", with, most, without)
	}
}
