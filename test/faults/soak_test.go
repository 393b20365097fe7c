package faults

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/faultproxy"
	"github.com/kpush/kpush/internal/gatewaytest"
	"github.com/kpush/kpush/internal/kafkanode"
)

// How a soak is asked for. The seed decides the whole plan of faults; that of a
// failed soak is given again to see it once more.
const (
	soakEnv     = "KPUSH_SOAK"      // how long, as 30m
	soakSeedEnv = "KPUSH_SOAK_SEED" // a whole number; none: a new one
)

const (
	soakRate = 1000 // records per second: brokers, gateways and receiver share two cores
	quiet    = 20 * time.Second
)

// strike is a fault at its time, and the end of it.
type strike struct {
	track     int // one of a track at a time
	at, until time.Duration
	what      string
	begin     func(*soak)
	end       func(*soak) // nil: it ends by itself
}

// soak is a field in the hands of a nemesis.
type soak struct {
	*field
	t       *testing.T
	cluster *kafkanode.Cluster
	ways    []*faultproxy.Proxy
	counts  map[string]int
	peak    int // MiB that a gateway held at most
}

// TestSoak strikes three gateways, three brokers, the network between them and the
// receiver, at random and at once, and asks at the end what every test asks.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv(soakEnv))
	if err != nil {
		t.Skipf("a soak is asked for by %s=30m", soakEnv)
	}
	seed := rand.Uint64N(1 << 32)
	if given := os.Getenv(soakSeedEnv); given != "" {
		if seed, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatalf("%s: %v", soakSeedEnv, err)
		}
	}
	t.Logf("seed %d for %v: again with %s=%d", seed, length, soakSeedEnv, seed)

	c, ways := clusterOf(t)
	var addresses []string
	for _, way := range ways {
		addresses = append(addresses, way.Addr())
	}
	f := newField(t, c.Brokers(), partitions, lively, func(c *gatewaytest.Config) { c.Brokers = strings.Join(addresses, ",") })
	f.start(t, names...)
	f.register(t, object{"retry": object{"initial_backoff_ms": 100, "max_backoff_ms": 2000}, "ack": object{"timeout_ms": 3000}, "request": object{"timeout_ms": 5000}})
	f.flow = f.kafka.StartLoad(t, f.produced, gatewaytest.Load{Topic: f.topic, Partitions: partitions, Size: recordSize, Rate: soakRate})
	f.settle(t)
	f.known.Zombies = 1

	s := &soak{field: f, t: t, cluster: c, ways: ways, counts: map[string]int{}}
	s.suffer(plan(seed, length), length)
	s.heal()
	f.flow.Stop(t)
	f.flow = nil
	gatewaytest.Await(t, 2*later, func() error { return f.shared(t) })
	f.awaitEnd(t)
	f.known.Ends = f.kafka.Ends(t, f.topic)
	report := f.audit(t)
	s.summarize(report)
}

// plan lays out the faults of a soak: gateways, brokers, network and receiver each
// suffer one at a time, and all four at once.
func plan(seed uint64, length time.Duration) []strike {
	var strikes []strike
	for track, faults := range [][]func(*rand.Rand) strike{gatewayFaults, brokerFaults, networkFaults, receiverFaults} {
		r := rand.New(rand.NewPCG(seed, uint64(track)))
		for at := seconds(r, 2, 10); at < length-quiet; {
			one := faults[r.IntN(len(faults))](r)
			one.until += at // the fault told its length
			one.track, one.at = track, at
			strikes = append(strikes, one)
			at = one.until + seconds(r, 3, 15)
		}
	}
	slices.SortFunc(strikes, func(a, b strike) int { return int(a.at - b.at) })
	return strikes
}

// seconds is a random time between two numbers of seconds.
func seconds(r *rand.Rand, from, to int) time.Duration {
	return time.Duration(from*1000+r.IntN((to-from)*1000)) * time.Millisecond
}

// suffer has the strikes begin and end at their times.
func (s *soak) suffer(strikes []strike, length time.Duration) {
	start := time.Now()
	var open []strike
	for {
		slices.SortFunc(open, func(a, b strike) int { return int(a.until - b.until) })
		now := time.Since(start)
		// One that took longer than planned holds up the next of its track.
		next := slices.IndexFunc(strikes, func(one strike) bool {
			return one.at <= now && !slices.ContainsFunc(open, func(o strike) bool { return o.track == one.track })
		})
		switch {
		case len(open) > 0 && open[0].until <= now:
			if open[0].end != nil {
				open[0].end(s)
			}
			s.t.Logf("%8v  ended: %s", now.Round(time.Millisecond), open[0].what)
			open = open[1:]
		case next >= 0 && now < length:
			one := strikes[next]
			strikes = slices.Delete(strikes, next, next+1)
			s.counts[strings.Fields(one.what)[0]]++
			s.t.Logf("%8v  %s", now.Round(time.Millisecond), one.what)
			one.begin(s)
			// A fault that took long to begin lasts as long as it was meant to.
			one.until += time.Since(start) - one.at
			open = append(open, one)
		case len(open) == 0 && now >= length: // whatever of the plan is left
			return
		default:
			s.look()
			pass(s.t, 100*time.Millisecond)
		}
	}
}

// look keeps what the gateways hold in memory.
func (s *soak) look() {
	for _, name := range s.running() {
		if held, err := memoryOf(s.gateways[name].Pid()); err == nil {
			s.peak = max(s.peak, held)
		}
	}
}

// memoryOf is the MiB that a process holds.
func memoryOf(pid int) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	var kilobytes int
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	_, err = fmt.Sscan(after, &kilobytes)
	return kilobytes >> 10, err
}

// heal ends everything that may still be wrong.
func (s *soak) heal() {
	s.receiver.SetScript(lively)
	for _, way := range s.ways {
		way.Heal()
	}
	s.revive()
	ctx, cancel := context.WithTimeout(s.t.Context(), clusterPatience)
	defer cancel()
	if err := s.cluster.AwaitInSync(ctx); err != nil {
		s.t.Fatal(err)
	}
}

// revive starts every gateway that has ended, and waits for none.
func (s *soak) revive() {
	running := s.running()
	for _, name := range names {
		if !slices.Contains(running, name) {
			s.launch(s.t, name)
		}
	}
}

// summarize prints what a soak was and what came of it.
func (s *soak) summarize(report gatewaytest.Report) {
	s.t.Logf("soak: strikes %v; %d records in %d deliveries, %d came again after their ack, %d rebalances, longest gap %v, "+
		"a gateway held at most %d MiB; anomalies %v", s.counts, report.Records, report.Deliveries, report.Duplicates,
		report.Rebalances, report.Gap.Length.Round(time.Millisecond), s.peak, report.Rules())
	if s.peak > maxMemory>>20 {
		s.t.Errorf("a gateway held %d MiB, want at most %d", s.peak, maxMemory>>20)
	}
}

// pickName is one of the gateways.
func pickName(r *rand.Rand) string { return names[r.IntN(len(names))] }

var gatewayFaults = []func(*rand.Rand) strike{
	func(r *rand.Rand) strike {
		name := pickName(r)
		return strike{
			until: seconds(r, 0, 12), what: "kill gateway " + name,
			begin: func(s *soak) { s.kill(name) },
			end:   (*soak).revive,
		}
	},
	func(r *rand.Rand) strike {
		name := pickName(r)
		return strike{
			until: seconds(r, 0, 8), what: "terminate gateway " + name,
			begin: func(s *soak) {
				s.logged(s.t, name, "gateway started", soon) // before that it does not listen to signals
				if code, took := s.gateways[name].Terminate(s.t); code != 0 {
					s.t.Errorf("gateway %s ended with code %d after %v, want 0", name, code, took)
				}
			},
			end: (*soak).revive,
		}
	},
	func(r *rand.Rand) strike {
		name := pickName(r)
		return strike{
			until: seconds(r, 1, 20), what: "stop-and-continue gateway " + name,
			begin: func(s *soak) { s.pause(s.t, name) },
			end:   func(s *soak) { s.gateways[name].Continue(s.t) },
		}
	},
	func(r *rand.Rand) strike {
		name := pickName(r)
		change := object{"description": "changed at " + strconv.Itoa(r.IntN(1000)), "batch": object{"max_records": 50 + r.IntN(100)}}
		return strike{
			until: time.Second, what: "change the webhook at gateway " + name,
			begin: func(s *soak) { s.change(name, change) },
		}
	},
}

// change alters the webhook by way of a gateway; that it cannot now is no failure.
func (s *soak) change(name string, fields object) {
	spec := object{}
	for field, value := range s.spec {
		spec[field] = value
	}
	for field, value := range fields {
		spec[field] = value
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), soon)
	defer cancel()
	reply, err := s.gateways[name].API.Call(ctx, http.MethodPut, "/v1/webhooks/"+s.id, spec)
	if err == nil && reply.Status != http.StatusOK && reply.Status != http.StatusServiceUnavailable {
		s.t.Errorf("the change was answered %d %s", reply.Status, reply.Body)
	}
}

// brokerFault is a fault of one broker of a cluster that is whole.
func brokerFault(r *rand.Rand, what string, begin, end func(*soak, *kafkanode.Node)) strike {
	i := r.IntN(clusterSize)
	return strike{
		until: seconds(r, 3, 15), what: fmt.Sprintf("%s broker %d", what, i),
		begin: func(s *soak) {
			ctx, cancel := context.WithTimeout(s.t.Context(), clusterPatience)
			defer cancel()
			if err := s.cluster.AwaitInSync(ctx); err != nil {
				s.t.Fatal(err)
			}
			begin(s, s.cluster.Node(i))
		},
		end: func(s *soak) { end(s, s.cluster.Node(i)) },
	}
}

func restart(s *soak, n *kafkanode.Node) {
	ctx, cancel := context.WithTimeout(s.t.Context(), clusterPatience)
	defer cancel()
	if err := n.Restart(ctx); err != nil {
		s.t.Fatal(err)
	}
}

var brokerFaults = []func(*rand.Rand) strike{
	func(r *rand.Rand) strike {
		return brokerFault(r, "kill", func(_ *soak, n *kafkanode.Node) { n.Kill() }, restart)
	},
	func(r *rand.Rand) strike {
		return brokerFault(r, "shutdown", func(_ *soak, n *kafkanode.Node) { n.Shutdown() }, restart)
	},
	func(r *rand.Rand) strike {
		return brokerFault(r, "stop-and-continue", func(s *soak, n *kafkanode.Node) {
			if err := n.Pause(); err != nil {
				s.t.Fatal(err)
			}
		}, func(s *soak, n *kafkanode.Node) {
			if err := n.Continue(); err != nil {
				s.t.Fatal(err)
			}
		})
	},
}

// wayFault is a fault of the network before one broker, for the gateways alone.
func wayFault(r *rand.Rand, what string, begin func(*faultproxy.Proxy)) strike {
	i := r.IntN(clusterSize)
	return strike{
		until: seconds(r, 2, 15), what: fmt.Sprintf("%s way to broker %d", what, i),
		begin: func(s *soak) { begin(s.ways[i]) },
		end:   func(s *soak) { s.ways[i].Heal() },
	}
}

var networkFaults = []func(*rand.Rand) strike{
	func(r *rand.Rand) strike { return wayFault(r, "cut", (*faultproxy.Proxy).Cut) },
	func(r *rand.Rand) strike { return wayFault(r, "reset", (*faultproxy.Proxy).Reset) },
	func(r *rand.Rand) strike {
		late := time.Duration(20+r.IntN(300)) * time.Millisecond
		return wayFault(r, "latency", func(p *faultproxy.Proxy) { p.Set(faultproxy.Down, faultproxy.Fault{Latency: late}) })
	},
	func(r *rand.Rand) strike {
		return wayFault(r, "hold", func(p *faultproxy.Proxy) { p.Set(faultproxy.Up, faultproxy.Fault{Hold: true}) })
	},
	func(r *rand.Rand) strike {
		return wayFault(r, "half-open", func(p *faultproxy.Proxy) { p.Set(faultproxy.Down, faultproxy.Fault{Swallow: true}) })
	},
	func(r *rand.Rand) strike {
		return wayFault(r, "slice", func(p *faultproxy.Proxy) {
			p.Set(faultproxy.Down, faultproxy.Fault{Slice: 512, Pause: time.Millisecond})
		})
	},
}

// receiverFault has a share of the attempts answered otherwise. Which, their ids decide.
func receiverFault(r *rand.Rand, what string, answer gatewaytest.Answer) strike {
	percent := uint32(10 + r.IntN(60))
	return strike{
		until: seconds(r, 5, 20), what: fmt.Sprintf("%s to %d%% of attempts", what, percent),
		begin: func(s *soak) {
			s.receiver.SetScript(func(d *gatewaytest.Delivery) gatewaytest.Answer {
				h := fnv.New32a()
				fmt.Fprint(h, d.ID, d.Attempt)
				if h.Sum32()%100 < percent {
					return answer
				}
				return lively(d)
			})
		},
		end: func(s *soak) { s.receiver.SetScript(lively) },
	}
}

var receiverFaults = []func(*rand.Rand) strike{
	func(r *rand.Rand) strike { return receiverFault(r, "500", gatewaytest.Answer{Status: 500}) },
	func(r *rand.Rand) strike {
		return receiverFault(r, "503-retry-after", gatewaytest.Answer{Status: 503, Headers: map[string]string{"Retry-After": "1"}})
	},
	func(r *rand.Rand) strike { return receiverFault(r, "no-answer", gatewaytest.Answer{Hang: true}) },
	func(r *rand.Rand) strike { return receiverFault(r, "202-and-no-ack", gatewaytest.Answer{Status: 202}) },
	func(r *rand.Rand) strike {
		return receiverFault(r, "slow-answer", gatewaytest.Answer{Delay: 300 * time.Millisecond})
	},
	func(r *rand.Rand) strike {
		return receiverFault(r, "inline-nack", gatewaytest.Answer{Ack: `{"outcome":"nack","delay_ms":50}`})
	},
}
