package kafkaconf

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/webhooks"
)

const (
	// queueBackoffMs is how long the client sleeps once a partition's queue is
	// full. Its default of a second costs more than half the throughput, and with
	// the small queues of a webhook nearly all of it; never go above 10.
	queueBackoffMs = 10

	// metadataRefreshMs bounds how long a new partition goes unseen.
	metadataRefreshMs = 30_000

	// maxMessageBytes lets the broker, not the client, say what is too large to
	// be dead-lettered.
	maxMessageBytes = 100_000_000

	// producerBufferKB bounds what a producer holds; it has room for one message
	// of maxMessageBytes.
	producerBufferKB = 128 << 10

	// messageTimeoutMs is when a write that is not confirmed is given up.
	messageTimeoutMs = 30_000

	// transactionTimeoutMs is when the coordinator aborts a transaction that its
	// producer has left open, and takes the producer's epoch from it. The next
	// producer aborts it at once anyway, so this can be long, and should: a broker
	// that is away for a while must not look like another writer. Brokers take up
	// to 15 minutes by default.
	transactionTimeoutMs = 10 * 60_000

	// controlSessionMs is how long the control group waits for a member that is not
	// heard of before another one leads; a third of it goes by between two signs of
	// life.
	controlSessionMs   = 10_000
	controlHeartbeatMs = 3_000
)

// Consumer is the configuration of a member of w's group. Positions and commits
// are the gateway's: nothing is committed, stored or reset by the client itself.
// The topics hidden and internal ones are not seen by a webhook's pattern.
//
// The fetch.max.bytes and receive.message.max.bytes of the client follow from the
// prefetch. No limit here can stop a larger record: the broker always sends the
// first batch of a partition whole.
func (c Config) Consumer(w webhooks.Webhook, hidden ...string) kafka.ConfigMap {
	m := c.base(producerOnly)
	if _, ok := w.TopicPattern(); ok {
		hide(m, hidden)
	}
	m["group.id"] = w.GroupID
	m["isolation.level"] = w.IsolationLevel
	m["enable.auto.commit"] = false
	m["enable.auto.offset.store"] = false
	m["enable.partition.eof"] = false
	m["auto.offset.reset"] = "error"

	if c.InstanceID != "" {
		m["group.instance.id"] = c.InstanceID
	}

	m["fetch.min.bytes"] = w.Fetch.MinBytes
	m["fetch.wait.max.ms"] = w.Fetch.MaxWaitMs
	m["max.partition.fetch.bytes"] = w.Fetch.MaxBytes
	m["fetch.queue.backoff.ms"] = queueBackoffMs
	m["queued.min.messages"] = w.Fetch.PrefetchRecords
	m["queued.max.messages.kbytes"] = max(w.Fetch.PrefetchBytes>>10, 1)
	propose(m, metadataRefreshMs, "topic.metadata.refresh.interval.ms")

	if c.GroupProtocol == ConsumerKIP848 {
		m["group.protocol"] = ConsumerKIP848
	} else {
		m["group.protocol"] = Classic
		propose(m, defaultAssignor, "partition.assignment.strategy")
	}
	m["go.logs.channel.enable"] = true
	return m
}

// blacklist is the property with what no topic's name may match to be seen.
const blacklist = "topic.blacklist"

// hide makes the client blind to internal topics and to those named, besides what
// the operator has hidden.
func hide(m kafka.ConfigMap, names []string) {
	var patterns []string
	if given, ok := m[blacklist]; ok {
		patterns = append(patterns, fmt.Sprint(given))
	}
	patterns = append(patterns, "^"+webhooks.InternalPrefix)
	for _, name := range names {
		patterns = append(patterns, "^"+regexp.QuoteMeta(name)+"$")
	}
	m[blacklist] = strings.Join(patterns, ",")
}

// Control is the configuration of a member of the control group, whose only
// business is to be a member: it reads and commits nothing. The group is always a
// classic one, and its assignor leaves a partition with the member that has it.
//
// The member is a dynamic one, whatever InstanceID says. Its client.id tells who it
// is and where it is reached, and of a static member that comes back within its
// session a classic coordinator keeps the client.id that it had before.
func (c Config) Control(group string) kafka.ConfigMap {
	m := c.base(producerOnly)
	delete(m, "group.remote.assignor") // of KIP-848
	delete(m, "topic.blacklist")       // which may hide the registry's topic from patterns
	m["group.id"] = group
	m["group.protocol"] = Classic
	m["partition.assignment.strategy"] = defaultAssignor
	if _, given := m["session.timeout.ms"]; !given {
		m["session.timeout.ms"] = controlSessionMs
		m["heartbeat.interval.ms"] = controlHeartbeatMs
	}
	m["enable.auto.commit"] = false
	m["enable.auto.offset.store"] = false
	m["auto.offset.reset"] = "error"
	propose(m, metadataRefreshMs, "topic.metadata.refresh.interval.ms")
	m["go.logs.channel.enable"] = true
	return m
}

// Admin is the configuration for kafka.NewAdminClient. Such a client has no
// channel for its logs, so it keeps quiet; what goes wrong its calls return.
func (c Config) Admin() kafka.ConfigMap {
	m := c.base(slices.Concat(consumerOnly, producerOnly))
	m["log_level"] = 0
	return m
}

// Producer is the configuration of an idempotent producer with acks=all. A write
// not confirmed after 30 s fails, unless the operator has set message.timeout.ms.
func (c Config) Producer() kafka.ConfigMap {
	m := c.base(consumerOnly)
	m["enable.idempotence"] = true
	m["acks"] = "all"
	propose(m, messageTimeoutMs, "message.timeout.ms", "delivery.timeout.ms")
	propose(m, maxMessageBytes, "message.max.bytes")
	propose(m, producerBufferKB, "queue.buffering.max.kbytes")
	m["go.logs.channel.enable"] = true
	smallChannels(m)
	return m
}

// TransactionalProducer is the configuration of the producer with transactional.id
// id. It writes little and waits for each write, so the operator's properties for
// throughput are not for it.
func (c Config) TransactionalProducer(id string) kafka.ConfigMap {
	m := c.base(slices.Concat(consumerOnly, producerOnly))
	m["transactional.id"] = id
	m["transaction.timeout.ms"] = transactionTimeoutMs
	m["enable.idempotence"] = true
	m["acks"] = "all"
	m["message.timeout.ms"] = messageTimeoutMs
	m["linger.ms"] = 0
	m["go.logs.channel.enable"] = true
	smallChannels(m)
	return m
}

// Sizes of a producer's Go channels. By default each has room for a million
// entries: 24 MB a producer that nothing ever fills, and that make the collector
// let the heap grow as much beyond what the processor's caches hold.
const (
	eventsChannel  = 1000
	produceChannel = 1 // nobody produces that way
)

// smallChannels keeps a producer's channels small.
func smallChannels(m kafka.ConfigMap) {
	m["go.events.channel.size"] = eventsChannel
	m["go.produce.channel.size"] = produceChannel
}
