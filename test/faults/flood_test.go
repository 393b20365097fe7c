package faults

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/gatewaytest"
)

const (
	floodRate   = 10_000 // acks per second that are tried
	floodList   = 100    // in one call
	floodTime   = 15 * time.Second
	floodIdle   = 1000 // connections that say nothing
	floodSlow   = 20   // clients that send an ack a byte at a time
	leastFlood  = 500  // acks per second below which it was none; a busy machine has no more
	leastRate   = rate / 4
	restPause   = 100 * time.Millisecond
	maxRestTime = 2 * time.Second
	maxRest     = 2 // the longest call in the flood, as a multiple of the longest before, where that is longer
)

// TestA10_AckFlood floods one gateway with acks, of what it has settled long ago and
// with forged tokens, while a thousand connections stand idle and some clients are
// slow. The API answers, deliveries go on, and the member stays in its group.
func TestA10_AckFlood(t *testing.T) {
	node, _ := nodeOf(t)
	f := newField(t, node.Brokers(), partitions, lively)
	f.known.Clean = true
	f.start(t, "a")
	f.register(t, nil)
	f.produce(t)
	f.settle(t)
	calm := f.generation(t)
	api := f.gateways["a"].API
	before := f.rest(t, api, 5*time.Second)

	ctx, stop := context.WithCancel(t.Context())
	var flooding sync.WaitGroup
	defer flooding.Wait()
	defer stop()
	address := strings.TrimPrefix(api.Base, "http://")
	for range floodIdle {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	for range floodSlow {
		flooding.Go(func() { trickleAck(ctx, address) })
	}
	settled := f.receiver.Deliveries(f.id)[0]
	good := `{"acks":[` + strings.Repeat(`{"token":"`+settled.Token+`"},`, floodList-1) + `{"token":"` + settled.Token + `"}]}`
	forged := `{"acks":[` + strings.Repeat(`{"token":"x`+settled.Token+`"},`, floodList-1) + `{"token":"y"}]}`
	var acks, limited, failed atomic.Int64
	tick := time.NewTicker(time.Second * floodList / floodRate)
	defer tick.Stop()
	anonymous := gatewaytest.NewAPI(api.Base, "")
	for worker := range 16 {
		flooding.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				caller, body := api, good
				if worker == 0 {
					caller, body = anonymous, forged
				}
				reply, err := caller.Call(ctx, http.MethodPost, "/ack", body)
				switch {
				case ctx.Err() != nil:
				case err != nil:
					failed.Add(1)
				case reply.Status == http.StatusTooManyRequests:
					limited.Add(floodList)
				case reply.Status == http.StatusOK:
					acks.Add(floodList)
				default:
					failed.Add(1)
				}
			}
		})
	}
	arrived, began := f.receiver.Distinct(f.id), time.Now()
	during := f.rest(t, api, floodTime)
	took := time.Since(began)
	stop()
	flooding.Wait()
	perSecond := float64(acks.Load()+limited.Load()) / took.Seconds()
	delivered := float64(f.receiver.Distinct(f.id)-arrived) / took.Seconds()
	t.Logf("%.0f acks a second, %d of them limited, %d calls failed; %.0f records a second delivered; GET took p50 %v, p99 %v, before %v, %v",
		perSecond, limited.Load(), failed.Load(), delivered, quantile(during, 50), quantile(during, 99), quantile(before, 50), quantile(before, 99))
	if perSecond < leastFlood || failed.Load() > 0 {
		t.Errorf("%.0f acks a second, %d calls failed; want %d at least, and none", perSecond, failed.Load(), leastFlood)
	}
	if delivered < leastRate {
		t.Errorf("%.0f records a second were delivered meanwhile, want %d at least of the %d that are produced", delivered, leastRate, rate)
	}
	if longest, most := quantile(during, 100), max(maxRestTime, maxRest*quantile(before, 100)); longest > most {
		t.Errorf("a GET took %v during the flood, want %v at most", longest, most)
	}
	f.checkMemory(t)
	f.checkCalm(t, calm)
	f.finish(t)
	f.checkCalm(t, calm)
}

// rest reads the webhook for a while and returns how long each call took.
func (f *field) rest(t *testing.T, api *gatewaytest.API, d time.Duration) []time.Duration {
	t.Helper()
	var took []time.Duration
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(restPause) {
		began := time.Now()
		api.Must(t, http.StatusOK, http.MethodGet, "/v1/webhooks/"+f.id, nil)
		took = append(took, time.Since(began))
	}
	return took
}

// quantile is the value below which that many per cent lie.
func quantile(values []time.Duration, percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)*percent/100, len(sorted)-1)]
}

// trickleAck sends acks a byte at a time, one after the other, until ctx ends.
func trickleAck(ctx context.Context, address string) {
	for ctx.Err() == nil {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return
		}
		release := context.AfterFunc(ctx, func() { conn.Close() })
		fmt.Fprintf(conn, "POST /ack HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n", address)
		for n := 0; n < 1000 && err == nil; n++ {
			_, err = io.WriteString(conn, " ")
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
		release()
		conn.Close()
	}
}
