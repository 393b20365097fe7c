package kafkanode

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/kpush/kpush/internal/freeport"
)

// seat is a node's place in its cluster: its id and its addresses, host:port.
type seat struct {
	id                 int
	broker, controller string
	detour, advertised string // the second listener, and what it tells clients; empty for none
}

// seats are places for a cluster, on ports that nobody listens on at the moment.
func seats(size int, detours []string) ([]seat, error) {
	const listeners = 3
	ports, err := freePorts(size * listeners)
	if err != nil {
		return nil, err
	}
	out := make([]seat, size)
	for i := range out {
		own := ports[i*listeners:]
		out[i] = seat{id: i + 1, broker: freeport.Address(own[0]), controller: freeport.Address(own[1])}
		if i < len(detours) {
			out[i].detour, out[i].advertised = freeport.Address(own[2]), detours[i]
		}
	}
	return out, nil
}

// properties are the settings of the node in one of the seats: quick where a test
// would wait, and no larger than tests need.
func properties(s seat, all []seat, dataDir string) map[string]string {
	var quorum []string
	for _, other := range all {
		quorum = append(quorum, strconv.Itoa(other.id)+"@"+other.controller)
	}
	out := map[string]string{
		"process.roles":                  "broker,controller",
		"node.id":                        strconv.Itoa(s.id),
		"controller.quorum.voters":       strings.Join(quorum, ","),
		"listeners":                      "PLAINTEXT://" + s.broker + ",CONTROLLER://" + s.controller,
		"advertised.listeners":           "PLAINTEXT://" + s.broker,
		"controller.listener.names":      "CONTROLLER",
		"inter.broker.listener.name":     "PLAINTEXT",
		"listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,DETOUR:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"log.dirs":                       dataDir,
		"auto.create.topics.enable":      "false",

		"group.initial.rebalance.delay.ms":                            "0",
		"broker.session.timeout.ms":                                   "4000", // how long a killed node's ghost bars its return
		"broker.heartbeat.interval.ms":                                "500",
		"group.min.session.timeout.ms":                                "1000",
		"group.consumer.min.session.timeout.ms":                       "1000",
		"group.consumer.session.timeout.ms":                           "6000", // KIP-848 leaves it to the broker
		"group.consumer.min.heartbeat.interval.ms":                    "500",
		"group.consumer.heartbeat.interval.ms":                        "1500",
		"log.cleaner.backoff.ms":                                      "200",
		"transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",

		"offsets.topic.num.partitions":                 "1",
		"transaction.state.log.num.partitions":         "1",
		"share.coordinator.state.topic.num.partitions": "1",

		"num.network.threads":            "2",
		"num.io.threads":                 "4",
		"background.threads":             "2",
		"log.cleaner.dedupe.buffer.size": strconv.Itoa(4 << 20),
		"message.max.bytes":              strconv.Itoa(32 << 20),
		"replica.fetch.max.bytes":        strconv.Itoa(32 << 20),
	}
	if s.detour != "" {
		out["listeners"] += ",DETOUR://" + s.detour
		out["advertised.listeners"] += ",DETOUR://" + s.advertised
	}
	replicas, minInSync := strconv.Itoa(min(len(all), 3)), strconv.Itoa(min(len(all), 2))
	for _, name := range []string{
		"default.replication.factor", "offsets.topic.replication.factor",
		"transaction.state.log.replication.factor", "share.coordinator.state.topic.replication.factor",
	} {
		out[name] = replicas
	}
	for _, name := range []string{
		"min.insync.replicas", "transaction.state.log.min.isr", "share.coordinator.state.topic.min.isr",
	} {
		out[name] = minInSync
	}
	if len(all) > 1 {
		maps.Copy(out, quickElections)
	}
	return out
}

// quickElections has a cluster notice the death of a node within about three
// seconds, and keep leaders where they are after its return.
var quickElections = map[string]string{
	"broker.session.timeout.ms":             "3000",
	"controller.quorum.election.timeout.ms": "1000",
	"controller.quorum.fetch.timeout.ms":    "1500",
	"replica.lag.time.max.ms":               "3000",
	"replica.fetch.wait.max.ms":             "200",
	"replica.fetch.backoff.ms":              "200",
	"replica.socket.timeout.ms":             "3000",
	"num.replica.fetchers":                  "1",
	"auto.leader.rebalance.enable":          "false",
}

// freePorts are ports nobody listens on at the moment.
func freePorts(count int) ([]int, error) {
	var ports []int
	for range count {
		port, err := freeport.Take()
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	slices.Sort(ports)
	return ports, nil
}
