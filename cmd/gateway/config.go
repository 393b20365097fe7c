package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/kpush/kpush/internal/devbroker"
	"github.com/kpush/kpush/internal/kafkaconf"
	"github.com/kpush/kpush/replica"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/egress"
)

// Config is every setting of the gateway. Its koanf tags are the keys of the YAML
// file; environment variables and flags are derived from them (settings.go). Later
// layers win: defaults, file, environment, flags.
type Config struct {
	Kafka      KafkaConfig      `koanf:"kafka"`
	API        APIConfig        `koanf:"api"`
	Management ManagementConfig `koanf:"management"`
	Replica    ReplicaConfig    `koanf:"replica"`

	// SecretKey seals webhook secrets in the registry and signs ack tokens: 32 bytes
	// in base64. While rotating it is a list: the first one seals, all of them open.
	SecretKey []string `koanf:"secret_key" secret:"true" usage:"32 bytes in base64 that seal secrets; a list when rotating, the first one seals"`

	Registry RegistryConfig `koanf:"registry"`
	Delivery DeliveryConfig `koanf:"delivery"`
	Shutdown ShutdownConfig `koanf:"shutdown"`
	Log      LogConfig      `koanf:"log"`

	// DataDir is where "gateway dev" keeps the embedded broker's data and its own
	// keys. "gateway serve" keeps nothing on disk.
	DataDir string `koanf:"data_dir" usage:"folder of the embedded broker's data (dev only)"`

	// EmbeddedBroker lets Kafka.Brokers be empty: then a broker of our own runs. It is
	// so in dev alone.
	EmbeddedBroker bool `koanf:"-"`

	// Webhooks are declared in the file alone and applied at start as upserts.
	Webhooks []webhooks.Webhook `koanf:"-"`
}

// KafkaConfig is how Kafka is reached.
type KafkaConfig struct {
	Brokers []string `koanf:"brokers" usage:"brokers to start from, as host:port"`

	// Properties go to librdkafka as they are (SASL, TLS, timeouts), except those
	// the gateway owns, which are refused by name. A variable is cut at its commas;
	// a file that KPUSH_KAFKA_PROPERTIES_FILE names has a pair a line instead, so
	// that a value may have commas, as passwords do.
	Properties map[string]string `koanf:"properties" usage:"librdkafka properties, as name=value"`

	// GroupProtocol is classic, or consumer for KIP-848, a preview in the client.
	GroupProtocol string `koanf:"group_protocol" usage:"group protocol: classic or consumer"`

	// GroupInstanceID makes the replica a static member of its groups: back within
	// the session timeout it goes on without a rebalance. Each replica needs one of
	// its own.
	GroupInstanceID string `koanf:"group_instance_id" usage:"static membership: a name of this replica that outlives restarts; no other may have it (default: dynamic)"`
}

// APIConfig is the listener that users and receivers talk to.
type APIConfig struct {
	Listen string `koanf:"listen" usage:"address of the API"`

	// PublicURL is the base of the ack URL told to receivers. Default: the listener's
	// address, with the host's name where that is a wildcard.
	PublicURL string `koanf:"public_url" usage:"base URL under which receivers reach the API (default: from the listener)"`

	AdminToken string `koanf:"admin_token" secret:"true" usage:"bearer token of the API"`

	// MaxFailedAcks bounds the work that strangers make: acks a second from one client
	// address that have neither a valid token nor the bearer. Behind a proxy all
	// clients have one address.
	MaxFailedAcks int `koanf:"max_failed_acks" usage:"acks a second without a valid credential that are read of one client address; more are answered 429; 0 for no limit"`

	// InsecureNoAuth lets everybody do everything; a flag of serve alone.
	InsecureNoAuth bool `koanf:"-"`
}

// ManagementConfig is the listener for operators: metrics, health, pprof. It has
// no authentication and belongs on a private address.
type ManagementConfig struct {
	Listen string `koanf:"listen" usage:"address for metrics, health and pprof; keep it private"`
}

// ReplicaConfig names this process among its like.
type ReplicaConfig struct {
	ID string `koanf:"id" usage:"name of this replica (default: kafka.group_instance_id if set, else host name and a random suffix)"`

	// AdvertisedURL is where other replicas reach the API's listener, directly and
	// not through a load balancer. Default: the listener's address, with one of the
	// host where that is a wildcard.
	AdvertisedURL string `koanf:"advertised_url" usage:"URL under which other replicas reach this one's API (default: from the listener)"`
}

// RegistryConfig is where webhooks are kept.
type RegistryConfig struct {
	Topic             string `koanf:"topic" usage:"compacted topic that holds the webhooks"`
	ReplicationFactor int    `koanf:"replication_factor" usage:"of the registry's topic when it is created; -1 for the broker's default"`
}

// ShutdownConfig bounds the end.
type ShutdownConfig struct {
	// DrainTimeout is how long deliveries under way may take to end. The process
	// ends at the latest shutdownGrace after it.
	DrainTimeout time.Duration `koanf:"drain_timeout" usage:"how long deliveries under way may take to end"`
}

// LogConfig is what is logged, and how it looks.
type LogConfig struct {
	Level  slog.Level `koanf:"level" usage:"debug, info, warn or error"`
	Format string     `koanf:"format" usage:"json or text"`
}

// Log formats.
const (
	logJSON = "json"
	logText = "text"
)

// defaultConfig is what "gateway serve" runs with when nothing is set.
func defaultConfig() Config {
	return Config{
		Kafka:      KafkaConfig{Brokers: []string{"127.0.0.1:9092"}, Properties: map[string]string{}, GroupProtocol: "classic"},
		API:        APIConfig{Listen: ":8080", MaxFailedAcks: 1000},
		Management: ManagementConfig{Listen: "127.0.0.1:8081"},
		Registry:   RegistryConfig{Topic: "__kpush_registry", ReplicationFactor: -1},
		Delivery:   DeliveryConfig{MaxInFlightBytes: 256 << 20, MaxConnections: 1024},
		Shutdown:   ShutdownConfig{DrainTimeout: 25 * time.Second},
		Log:        LogConfig{Level: slog.LevelInfo, Format: logJSON},
		DataDir:    "./kpush-data",
	}
}

// Validate joins everything that is wrong with the values. That secrets are there
// is a matter of the command: see requireSecrets.
func (c *Config) Validate() error {
	var errs []error
	complain := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{key}, args...)...))
	}
	for _, l := range []struct{ key, address string }{
		{"api.listen", c.API.Listen}, {"management.listen", c.Management.Listen},
	} {
		if _, _, err := net.SplitHostPort(l.address); err != nil {
			complain(l.key, "%q is not host:port", l.address)
		}
	}
	if c.API.PublicURL != "" {
		if u, err := url.Parse(c.API.PublicURL); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			complain("api.public_url", "not an http or https URL")
		}
	}
	if c.API.MaxFailedAcks < 0 {
		complain("api.max_failed_acks", "must be 0 or more, not %d", c.API.MaxFailedAcks)
	}
	if c.Replica.ID != "" {
		if err := replica.CheckID(c.Replica.ID); err != nil {
			complain("replica.id", "%w", err)
		}
	}
	if c.Replica.AdvertisedURL != "" {
		if err := replica.CheckURL(c.Replica.AdvertisedURL); err != nil {
			complain("replica.advertised_url", "%w", err)
		}
	}
	if len(c.SecretKey) > 0 {
		if _, err := webhooks.NewKeys(c.SecretKey...); err != nil {
			complain("secret_key", "%w", err)
		}
	}
	if c.Registry.Topic == "" {
		complain("registry.topic", "must not be empty")
	}
	if c.Registry.ReplicationFactor < 1 && c.Registry.ReplicationFactor != -1 {
		complain("registry.replication_factor", "must be -1 or at least 1, not %d", c.Registry.ReplicationFactor)
	}
	policy, err := c.Delivery.policy()
	if err != nil {
		errs = append(errs, err)
	}
	guard := egress.New(policy, egress.Options{})
	for i, w := range c.Webhooks {
		if refused, ok := errors.AsType[*webhooks.ValidationError](w.Admit(guard)); ok {
			for _, f := range refused.Fields {
				complain(fmt.Sprintf("webhooks[%d]: %s", i, f.Pointer), "%s; delivery.* says what is allowed", f.Detail)
			}
		}
	}
	if c.Delivery.MaxInFlightBytes < 0 {
		complain("delivery.max_in_flight_bytes", "must not be negative")
	}
	if c.Delivery.MaxConnections < 0 {
		complain("delivery.max_connections", "must not be negative")
	}
	if c.Shutdown.DrainTimeout <= 0 {
		complain("shutdown.drain_timeout", "must be above 0, not %v", c.Shutdown.DrainTimeout)
	}
	if !slices.Contains([]string{logJSON, logText}, c.Log.Format) {
		complain("log.format", "must be json or text, not %q", c.Log.Format)
	}
	kafka := c.kafka(nil)
	if len(kafka.Brokers) == 0 && c.EmbeddedBroker {
		kafka.Brokers = []string{devbroker.DefaultListen}
	}
	if err := kafka.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("kafka: %w", err))
	}
	return errors.Join(errs...)
}

// kafka is the part of the settings that Kafka's clients need.
func (c *Config) kafka(logger *slog.Logger) kafkaconf.Config {
	return kafkaconf.Config{
		Brokers:       c.Kafka.Brokers,
		Properties:    c.Kafka.Properties,
		GroupProtocol: c.Kafka.GroupProtocol,
		ClientID:      "kpush-" + c.Replica.ID,
		InstanceID:    c.Kafka.GroupInstanceID,
		Logger:        logger,
	}
}

// makeSecret is how to make a secret of any kind.
const makeSecret = "openssl rand -base64 32"

// requireSecrets refuses to serve without the secrets that nobody can make up for
// the operator, and says how to make them.
func (c *Config) requireSecrets() error {
	var errs []error
	if c.API.AdminToken == "" && !c.API.InsecureNoAuth {
		errs = append(errs, errors.New("api.admin_token is not set: without it nobody could use the API. "+
			"Make one with: "+makeSecret+" and set KPUSH_API_ADMIN_TOKEN, or a file by KPUSH_API_ADMIN_TOKEN_FILE. "+
			"--insecure-no-auth lets everybody in instead"))
	}
	if len(c.SecretKey) == 0 {
		errs = append(errs, errors.New("secret_key is not set: it seals webhook secrets in Kafka and signs ack tokens. "+
			"Make one with: "+makeSecret+" and set KPUSH_SECRET_KEY, or a file by KPUSH_SECRET_KEY_FILE. "+
			"Keep it: what it sealed nothing else opens"))
	}
	return errors.Join(errs...)
}
