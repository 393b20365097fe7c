package kafkaconf

import (
	"strings"
	"testing"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/webhooks"
)

func hook() webhooks.Webhook {
	w := webhooks.Default()
	w.GroupID = "kpush.default.billing"
	return w
}

func TestValidateRefusesWhatTheGatewayOwnsByName(t *testing.T) {
	names := []string{
		"group.id", "group.instance.id", "group.protocol", "client.id", "bootstrap.servers", "metadata.broker.list",
		"enable.auto.commit", "auto.commit.interval.ms", "enable.auto.offset.store", "enable.partition.eof",
		"auto.offset.reset", "isolation.level", "transactional.id", "transaction.timeout.ms", "enable.idempotence", "acks",
		"queued.min.messages", "queued.max.messages.kbytes", "fetch.min.bytes", "fetch.wait.max.ms", "fetch.message.max.bytes",
		"fetch.queue.backoff.ms", "max.partition.fetch.bytes", "allow.auto.create.topics", "enable.metrics.push",
		"statistics.interval.ms", "go.logs.channel.enable", "go.events.channel.size", "test.mock.num.brokers",
	}
	all := Config{Brokers: []string{"127.0.0.1:9092"}, Properties: map[string]string{}}
	for _, name := range names {
		all.Properties[name] = "1"
	}
	err := all.Validate()
	if err == nil {
		t.Fatal("all of them were taken")
	}
	for _, name := range names {
		if !strings.Contains(err.Error(), " "+name+" is set by the gateway") {
			t.Errorf("%s is not complained about", name)
		}
	}
}

func TestValidate(t *testing.T) {
	tests := map[string]struct {
		change func(*Config)
		says   []string // nothing: valid
	}{
		"as it is":    {func(*Config) {}, nil},
		"no broker":   {func(c *Config) { c.Brokers = nil }, []string{"kafka.brokers"}},
		"two in one":  {func(c *Config) { c.Brokers = []string{"a:1,b:2"} }, []string{"kafka.brokers"}},
		"KIP-848":     {func(c *Config) { c.GroupProtocol = "consumer" }, nil},
		"classic":     {func(c *Config) { c.GroupProtocol = "classic" }, nil},
		"share group": {func(c *Config) { c.GroupProtocol = "share" }, []string{"kafka.group_protocol", "share"}},
		"timeouts": {func(c *Config) {
			c.Properties = map[string]string{"session.timeout.ms": "6000", "heartbeat.interval.ms": "1500", "max.poll.interval.ms": "10000"}
		}, nil},
		"eager assignors": {func(c *Config) {
			c.Properties = map[string]string{"partition.assignment.strategy": "range,roundrobin"}
		}, nil},
		"eager and cooperative together": {func(c *Config) {
			c.Properties = map[string]string{"partition.assignment.strategy": "cooperative-sticky,range"}
		}, []string{"partition.assignment.strategy"}},
		"an assignor where the broker assigns": {func(c *Config) {
			c.GroupProtocol = "consumer"
			c.Properties = map[string]string{"partition.assignment.strategy": "range"}
		}, []string{"partition.assignment.strategy"}},
		"a poll interval that the control group has no room in": {func(c *Config) {
			c.GroupProtocol = "consumer"
			c.Properties = map[string]string{"max.poll.interval.ms": "9000"}
		}, []string{"max.poll.interval.ms"}},
		"a static member":        {func(c *Config) { c.InstanceID = "kpush-0.kpush_1" }, nil},
		"an illegal instance id": {func(c *Config) { c.InstanceID = "kpush 0" }, []string{"kafka.group_instance_id", "kpush 0"}},
		"a remote assignor": {func(c *Config) {
			c.GroupProtocol = "consumer"
			c.Properties = map[string]string{"group.remote.assignor": "uniform"}
		}, nil},
		"a misspelt property": {func(c *Config) {
			c.Properties = map[string]string{"sasl.mechansim": "PLAIN"}
		}, []string{"kafka.properties", "sasl.mechansim"}},
		"a value of the wrong type": {func(c *Config) {
			c.Properties = map[string]string{"session.timeout.ms": "six"}
		}, []string{"session.timeout.ms"}},
		"a certificate that is not there": {func(c *Config) {
			c.Properties = map[string]string{"security.protocol": "ssl", "ssl.ca.location": "/nonexistent"}
		}, []string{"ssl.ca.location"}},
		"responses that could not be taken in": {func(c *Config) {
			c.Properties = map[string]string{"receive.message.max.bytes": "1000000"}
		}, []string{"receive.message.max.bytes"}},
		"SASL": {func(c *Config) {
			c.Properties = map[string]string{"security.protocol": "sasl_plaintext", "sasl.mechanism": "SCRAM-SHA-512",
				"sasl.username": "u", "sasl.password": "p"}
		}, nil},
		"throughput of producers": {func(c *Config) {
			c.Properties = map[string]string{"compression.type": "zstd", "linger.ms": "5", "delivery.timeout.ms": "1000",
				"queue.buffering.max.kbytes": "200000", "message.max.bytes": "200000000"}
		}, nil},
		"everything at once": {func(c *Config) {
			c.Brokers, c.GroupProtocol = nil, "x"
			c.Properties = map[string]string{"group.id": "a", "acks": "1"}
		}, []string{"kafka.brokers", "kafka.group_protocol", "group.id", "acks"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := Config{Brokers: []string{"127.0.0.1:9092"}}
			tt.change(&c)
			err := c.Validate()
			if (err == nil) != (tt.says == nil) {
				t.Fatalf("Validate: %v, want words about %q", err, tt.says)
			}
			for _, word := range tt.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q does not stand in: %v", word, err)
				}
			}
		})
	}
}

// want checks some keys of a configuration; nil means that a key is not there.
func want(t *testing.T, got kafka.ConfigMap, want kafka.ConfigMap) {
	t.Helper()
	for key, value := range want {
		if got[key] != value {
			t.Errorf("%s is %v, want %v", key, got[key], value)
		}
	}
}

func TestTheConsumerReadsAsTheWebhookSays(t *testing.T) {
	w := hook()
	w.IsolationLevel = webhooks.ReadUncommitted
	w.Fetch = webhooks.Fetch{MinBytes: 2, MaxBytes: 3, MaxWaitMs: 4, PrefetchRecords: 5, PrefetchBytes: 6 << 10}
	c := Config{Brokers: []string{"a:1", "b:2"}, ClientID: "kpush-7", Properties: map[string]string{"session.timeout.ms": "6000", "linger.ms": "1"}}
	want(t, c.Consumer(w), kafka.ConfigMap{
		"bootstrap.servers": "a:1,b:2", "client.id": "kpush-7", "group.id": "kpush.default.billing",
		"isolation.level": "read_uncommitted", "session.timeout.ms": "6000", "linger.ms": nil,
		"fetch.min.bytes": 2, "max.partition.fetch.bytes": 3, "fetch.wait.max.ms": 4,
		"queued.min.messages": 5, "queued.max.messages.kbytes": 6,
		"enable.auto.commit": false, "enable.auto.offset.store": false, "enable.partition.eof": false,
		"auto.offset.reset": "error", "partition.assignment.strategy": "cooperative-sticky", "group.protocol": "classic",
		"enable.metrics.push": false, "statistics.interval.ms": 0, "allow.auto.create.topics": false,
		"topic.metadata.refresh.interval.ms": 30_000, "go.logs.channel.enable": true,
	})
}

// A queue that is full puts the fetcher to sleep; beside the small queues of a
// webhook the client's own default of a second is most of the time.
func TestSmallQueuesGoWithAShortBackoff(t *testing.T) {
	m := Config{}.Consumer(hook())
	if kb := m["queued.max.messages.kbytes"].(int); kb > 4096 {
		t.Errorf("queued.max.messages.kbytes is %d by default, want at most 4096", kb)
	}
	if ms := m["fetch.queue.backoff.ms"].(int); ms > 10 {
		t.Errorf("fetch.queue.backoff.ms is %d, want at most 10", ms)
	}
}

// What a pattern must not reach: the registry holds the secrets of all webhooks.
func TestAPatternDoesNotSeeInternalTopics(t *testing.T) {
	w := hook()
	want(t, Config{}.Consumer(w, "registry"), kafka.ConfigMap{"topic.blacklist": nil})
	w.Topics = []string{"^.*"}
	want(t, Config{}.Consumer(w), kafka.ConfigMap{"topic.blacklist": "^__"})
	c := Config{Properties: map[string]string{"topic.blacklist": "^secret,^x"}}
	want(t, c.Consumer(w, "our.registry"), kafka.ConfigMap{"topic.blacklist": `^secret,^x,^__,^our\.registry$`})
}

func TestTheOperatorMayChooseAnEagerAssignor(t *testing.T) {
	c := Config{Properties: map[string]string{"partition.assignment.strategy": "range", "topic.metadata.refresh.interval.ms": "1000"}}
	want(t, c.Consumer(hook()), kafka.ConfigMap{"partition.assignment.strategy": "range", "topic.metadata.refresh.interval.ms": "1000"})
}

func TestTheNewProtocolTakesNoAssignor(t *testing.T) {
	want(t, Config{GroupProtocol: ConsumerKIP848}.Consumer(hook()), kafka.ConfigMap{
		"group.protocol": "consumer", "partition.assignment.strategy": nil, "session.timeout.ms": nil, "heartbeat.interval.ms": nil,
	})
}

func TestTheControlGroupIsAlwaysClassicAndItsAssignorLeavesTheLeader(t *testing.T) {
	c := Config{GroupProtocol: ConsumerKIP848, ClientID: "kpush-7|http://h:1", Properties: map[string]string{
		"group.remote.assignor": "uniform", "security.protocol": "plaintext", "linger.ms": "1",
		"heartbeat.interval.ms": "15000", // beside the usual session of 45 s
		"topic.blacklist":       "^__",
	}}
	want(t, c.Control("r.control"), kafka.ConfigMap{
		"group.id": "r.control", "group.protocol": "classic", "partition.assignment.strategy": "cooperative-sticky",
		"group.remote.assignor": nil, "topic.blacklist": nil, "group.instance.id": nil, "client.id": "kpush-7|http://h:1",
		"session.timeout.ms": 10_000, "heartbeat.interval.ms": 3_000, "enable.auto.commit": false,
		"security.protocol": "plaintext", "linger.ms": nil,
	})
	c = Config{InstanceID: "i-1", Properties: map[string]string{"session.timeout.ms": "6000", "partition.assignment.strategy": "range"}}
	want(t, c.Control("r.control"), kafka.ConfigMap{
		"session.timeout.ms": "6000", "heartbeat.interval.ms": nil, "group.instance.id": nil, // it tells its address by client.id
		"partition.assignment.strategy": "cooperative-sticky",
	})
}

func TestStaticMembersBearTheInstanceID(t *testing.T) {
	want(t, Config{InstanceID: "i-1"}.Consumer(hook()), kafka.ConfigMap{"group.instance.id": "i-1"})
	want(t, Config{}.Consumer(hook()), kafka.ConfigMap{"group.instance.id": nil})
}

func TestProducersConfirmEveryWrite(t *testing.T) {
	c := Config{Properties: map[string]string{
		"session.timeout.ms": "6000", "compression.type": "zstd", "delivery.timeout.ms": "1000", "security.protocol": "plaintext",
	}}
	want(t, c.Producer(), kafka.ConfigMap{
		"enable.idempotence": true, "acks": "all", "compression.type": "zstd", "security.protocol": "plaintext",
		"delivery.timeout.ms": "1000", "message.timeout.ms": nil, // two names of one property: never both
		"session.timeout.ms": nil, "allow.auto.create.topics": false,
	})
	want(t, c.TransactionalProducer("t"), kafka.ConfigMap{
		"transactional.id": "t", "enable.idempotence": true, "acks": "all", "security.protocol": "plaintext",
		"compression.type": nil, "delivery.timeout.ms": nil, "session.timeout.ms": nil,
	})
	want(t, c.Admin(), kafka.ConfigMap{
		"security.protocol": "plaintext", "allow.auto.create.topics": false, "go.logs.channel.enable": nil, "compression.type": nil,
	})
}

// What the limits of a webhook allow, the client has to take.
func TestTheClientTakesEveryWebhook(t *testing.T) {
	least, most := hook(), hook()
	least.Fetch = webhooks.Fetch{MinBytes: 1, MaxBytes: 1, MaxWaitMs: 0, PrefetchRecords: 1, PrefetchBytes: 1 << 10}
	most.Fetch = webhooks.Fetch{MinBytes: 100_000_000, MaxBytes: 100_000_000, MaxWaitMs: 30_000, PrefetchRecords: 100_000, PrefetchBytes: 256 << 20}
	for name, w := range map[string]webhooks.Webhook{"least": least, "most": most} {
		for _, protocol := range []string{Classic, ConsumerKIP848} {
			conf := Config{Brokers: []string{"127.0.0.1:1"}, GroupProtocol: protocol}.Consumer(w)
			conf["log_level"] = 0
			consumer, err := kafka.NewConsumer(&conf)
			if err != nil {
				t.Errorf("%s, %s: %v", name, protocol, err)
				continue
			}
			consumer.Close()
		}
	}
}
