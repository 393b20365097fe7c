// Package kafkaconf turns the gateway's Kafka settings into the configurations
// of the clients it runs, and their logs into slog records.
//
// Properties of librdkafka that the operator gives are passed through to every
// client they are meant for. Those that decide how the gateway reads and commits
// are its own and are refused by name.
package kafkaconf

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/webhooks"
)

// Config is what the clients of one installation have in common. It is not
// changed after Validate; its methods may then be called concurrently.
type Config struct {
	// Brokers are the host:port to begin from.
	Brokers []string

	// Properties of librdkafka, passed through: TLS, SASL, session.timeout.ms and its like.
	Properties map[string]string

	// GroupProtocol is classic, which empty means too, or consumer (KIP-848).
	GroupProtocol string

	// ClientID is told to the brokers, and stands in their logs and quotas. Empty
	// means librdkafka's own.
	ClientID string

	// InstanceID is the group.instance.id of the process's members in the groups of
	// webhooks: one that comes back within the session timeout takes its partitions up again
	// without a rebalance. No two processes may have the same. Empty means dynamic
	// members.
	InstanceID string

	// Logger hears what the clients log; nil drops it.
	Logger *slog.Logger
}

// Values of GroupProtocol.
const (
	Classic         = "classic"
	ConsumerKIP848  = "consumer"
	defaultAssignor = "cooperative-sticky"
)

// legalID is what Kafka takes as a group.instance.id.
var legalID = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// owned are the properties that the gateway sets itself, or relies on the
// default of.
var owned = []string{
	"bootstrap.servers", "metadata.broker.list", "client.id",
	"group.id", "group.instance.id", "group.protocol",
	"enable.auto.commit", "auto.commit.enable", "auto.commit.interval.ms", "enable.auto.offset.store",
	"auto.offset.reset", "enable.partition.eof", "isolation.level", "max.partition.fetch.bytes",
	autoCreate, "consume.callback.max.messages",
	"transactional.id", "transaction.timeout.ms", "enable.idempotence", "enable.gapless.guarantee",
	"acks", "request.required.acks", "delivery.report.only.error",
	"enable.metrics.push", "statistics.interval.ms", "log.queue",
}

// ownedPrefixes are families of them; the fields of a webhook's fetch own the
// second and the third.
var ownedPrefixes = []string{"go.", "fetch.", "queued.", "offset.store.", "test."}

// consumerOnly and producerOnly are the properties that mean nothing to the
// other kind of client, which would log a warning at each start.
var (
	consumerOnly = []string{
		"session.timeout.ms", "heartbeat.interval.ms", "max.poll.interval.ms", "partition.assignment.strategy",
		"group.remote.assignor", "group.protocol.type", "coordinator.query.interval.ms", "check.crcs",
	}
	producerOnly = []string{
		"compression.codec", "compression.type", "compression.level", "batch.size", "batch.num.messages",
		"linger.ms", "queue.buffering.max.ms", "queue.buffering.max.messages", "queue.buffering.max.kbytes",
		"queue.buffering.backpressure.threshold", "message.send.max.retries", "retries",
		"message.timeout.ms", "delivery.timeout.ms", "request.timeout.ms", "partitioner",
		"queuing.strategy", "sticky.partitioning.linger.ms",
	}
)

// Validate returns everything that is wrong, joined. What only the client library
// can tell, such as a misspelt property or a certificate that does not load, it
// tells one at a time. Nothing is connected to.
func (c Config) Validate() error {
	var errs []error
	if len(c.Brokers) == 0 {
		errs = append(errs, errors.New("kafka.brokers: at least one host:port is needed"))
	}
	for _, b := range c.Brokers {
		if b == "" || strings.ContainsAny(b, ", \t") {
			errs = append(errs, fmt.Errorf("kafka.brokers: %q is not one host:port", b))
		}
	}
	if p := c.GroupProtocol; p != "" && p != Classic && p != ConsumerKIP848 {
		errs = append(errs, fmt.Errorf("kafka.group_protocol: %q is neither %s nor %s", p, Classic, ConsumerKIP848))
	}
	if id := c.InstanceID; id != "" && !legalID.MatchString(id) {
		errs = append(errs, fmt.Errorf("kafka.group_instance_id: %q is not made of 1 to 249 letters, digits, dots, underscores and hyphens", id))
	}
	refused := false
	for _, name := range slices.Sorted(maps.Keys(c.Properties)) {
		if isOwned(name) {
			refused = true
			errs = append(errs, fmt.Errorf("kafka.properties: %s is set by the gateway and cannot be given", name))
		}
	}
	if !refused {
		errs = append(errs, c.tryOut())
	}
	return errors.Join(errs...)
}

func isOwned(name string) bool {
	return slices.Contains(owned, name) ||
		slices.ContainsFunc(ownedPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// tryOut makes one client of each kind, without a broker to connect to, and closes it.
func (c Config) tryOut() error {
	quiet := func(m kafka.ConfigMap) *kafka.ConfigMap {
		delete(m, "bootstrap.servers")
		delete(m, "go.logs.channel.enable")
		m["log_level"] = 0
		return &m
	}
	largest := webhooks.Default()
	largest.GroupID = "validate"
	largest.Fetch.PrefetchBytes = 256 << 20 // raises the largest response the client must take
	for _, m := range []kafka.ConfigMap{c.Consumer(largest), c.Control("validate")} {
		consumer, err := kafka.NewConsumer(quiet(m))
		if err != nil {
			return fmt.Errorf("kafka.properties: %w", err)
		}
		consumer.Close()
	}
	producer, err := kafka.NewProducer(quiet(c.Producer()))
	if err != nil {
		return fmt.Errorf("kafka.properties: %w", err)
	}
	producer.Close()
	return nil
}

// base is what every client begins with: the operator's properties without the
// ones listed, and ours.
func (c Config) base(without []string) kafka.ConfigMap {
	m := kafka.ConfigMap{}
	for name, value := range c.Properties {
		if !slices.Contains(without, name) {
			m[name] = value
		}
	}
	m["bootstrap.servers"] = strings.Join(c.Brokers, ",")
	if c.ClientID != "" {
		m["client.id"] = c.ClientID
	}
	m["enable.metrics.push"] = false
	m["statistics.interval.ms"] = 0
	// Without this a producer or admin client makes a topic by asking about it,
	// on brokers that let it.
	m[autoCreate] = false
	return m
}

const autoCreate = "allow.auto.create.topics"

// propose sets a property unless the operator has given it by one of its names.
func propose(m kafka.ConfigMap, value kafka.ConfigValue, names ...string) {
	for _, name := range names {
		if _, given := m[name]; given {
			return
		}
	}
	m[names[0]] = value
}
