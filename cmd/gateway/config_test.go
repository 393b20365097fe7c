package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"
)

// Two keys that are as good as any in a test.
const (
	testKey  = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	testKey2 = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="
)

// write puts text into a file of its own and returns its name.
func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// load runs all layers over the defaults of serve.
func load(t *testing.T, environ []string, args ...string) (Config, error) {
	t.Helper()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	flags.StringP(configFlag, "c", "", "")
	addFlags(flags, defaultConfig())
	if err := flags.Parse(args); err != nil {
		t.Fatalf("flags %q: %v", args, err)
	}
	return loadConfig(defaultConfig(), environ, flags)
}

func TestLayers(t *testing.T) {
	token := write(t, "token", "from-a-file\n")
	keys := write(t, "keys", testKey+"\n"+testKey2+"\n")
	tests := map[string]struct {
		yaml    string
		environ []string
		args    []string
		change  func(c *Config) // what differs from the defaults
	}{
		"nothing set leaves the defaults": {
			change: func(*Config) {},
		},
		"the file wins over the defaults": {
			yaml: "kafka:\n  brokers: [a:1, b:2]\nshutdown:\n  drain_timeout: 3s\nlog: {level: debug, format: text}\n",
			change: func(c *Config) {
				c.Kafka.Brokers = []string{"a:1", "b:2"}
				c.Shutdown.DrainTimeout = 3 * time.Second
				c.Log = LogConfig{slog.LevelDebug, logText}
			},
		},
		"the environment wins over the file": {
			yaml:    "kafka:\n  brokers: a:1\napi:\n  listen: :1\n",
			environ: []string{"KPUSH_KAFKA_BROKERS=c:3, d:4", "KPUSH_REGISTRY_REPLICATION_FACTOR=3"},
			change: func(c *Config) {
				c.Kafka.Brokers = []string{"c:3", "d:4"}
				c.API.Listen = ":1"
				c.Registry.ReplicationFactor = 3
			},
		},
		"flags win over everything": {
			yaml:    "kafka:\n  brokers: a:1\n",
			environ: []string{"KPUSH_KAFKA_BROKERS=c:3", "KPUSH_SHUTDOWN_DRAIN_TIMEOUT=1m"},
			args:    []string{"--kafka-brokers", "e:5", "--shutdown-drain-timeout", "2m", "--registry-replication-factor=2"},
			change: func(c *Config) {
				c.Kafka.Brokers = []string{"e:5"}
				c.Shutdown.DrainTimeout = 2 * time.Minute
				c.Registry.ReplicationFactor = 2
			},
		},
		"librdkafka's properties keep their dots and merge over the layers": {
			yaml:    "kafka:\n  properties:\n    client.rack: 007\n    session.timeout.ms: 6000\n    socket.keepalive.enable: true\n",
			environ: []string{"KPUSH_KAFKA_PROPERTIES=metadata.max.age.ms=60000,session.timeout.ms=7000"},
			args:    []string{"--kafka-properties", "reconnect.backoff.ms=100"},
			change: func(c *Config) {
				c.Kafka.Properties = map[string]string{
					"client.rack": "007", "session.timeout.ms": "7000", "socket.keepalive.enable": "true",
					"metadata.max.age.ms": "60000", "reconnect.backoff.ms": "100",
				}
			},
		},
		"librdkafka's properties come from a file, where values have commas and equals signs": {
			yaml: "kafka:\n  properties: {client.rack: a, session.timeout.ms: 6000}\n",
			environ: []string{"KPUSH_KAFKA_PROPERTIES_FILE=" + write(t, "properties",
				"# a comment\n\nsasl.password = a,b=c# d \r\nsession.timeout.ms=7000\n")},
			change: func(c *Config) {
				c.Kafka.Properties = map[string]string{"client.rack": "a", "sasl.password": "a,b=c# d", "session.timeout.ms": "7000"}
			},
		},
		"an empty variable is not set": {
			environ: []string{"KPUSH_KAFKA_BROKERS=", "KPUSH_API_ADMIN_TOKEN_FILE="},
			change:  func(*Config) {},
		},
		"secrets come from files named by the environment": {
			environ: []string{"KPUSH_API_ADMIN_TOKEN_FILE=" + token, "KPUSH_SECRET_KEY_FILE=" + keys},
			change: func(c *Config) {
				c.API.AdminToken = "from-a-file"
				c.SecretKey = []string{testKey, testKey2}
			},
		},
		"secrets come from files named by flags": {
			environ: []string{"KPUSH_API_ADMIN_TOKEN=from-the-environment"},
			args:    []string{"--api-admin-token-file", token},
			change:  func(c *Config) { c.API.AdminToken = "from-a-file" },
		},
		"one secret key needs no list": {
			yaml:   "secret_key: " + testKey + "\n",
			change: func(c *Config) { c.SecretKey = []string{testKey} },
		},
		"a rotated secret key is a list": {
			yaml:   "secret_key: [" + testKey + ", " + testKey2 + "]\n",
			change: func(c *Config) { c.SecretKey = []string{testKey, testKey2} },
		},
		"what deliveries may reach, from each of the layers": {
			yaml:    "delivery:\n  allow_http: true\n  allowed_ports: [443, 8000-8099]\n  max_in_flight_bytes: 1000\n",
			environ: []string{"KPUSH_DELIVERY_ALLOWED_CIDRS=10.1.0.0/16, fd00::/8"},
			args:    []string{"--delivery-allow-http=false", "--delivery-allow-metadata", "--delivery-max-connections=7", "--delivery-denied-cidrs", "10.1.2.0/24"},
			change: func(c *Config) {
				c.Delivery = DeliveryConfig{
					AllowedCIDRs: []string{"10.1.0.0/16", "fd00::/8"}, AllowedPorts: []string{"443", "8000-8099"},
					AllowMetadata: true, DeniedCIDRs: []string{"10.1.2.0/24"},
					MaxInFlightBytes: 1000, MaxConnections: 7,
				}
			},
		},
		"variables go into the file's values": {
			yaml:    "api:\n  admin_token: ${TOKEN}\n  listen: '${HOST:-127.0.0.1}:80'\nregistry:\n  replication_factor: ${RF}\n  topic: $${RF}\n",
			environ: []string{"TOKEN=a: [b", "RF=3"},
			change: func(c *Config) {
				c.API.AdminToken = "a: [b"
				c.API.Listen = "127.0.0.1:80"
				c.Registry = RegistryConfig{Topic: "${RF}", ReplicationFactor: 3}
			},
		},
		"groups whose keys are commented out are fine": {
			yaml:   "# nothing yet\nkafka:\n#  brokers: x\nwebhooks:\n",
			change: func(*Config) {},
		},
		"what others put into the environment is none of our business": {
			environ: []string{
				"PATH=/bin", "KPUSH_SERVICE_HOST=10.0.0.1", "KPUSH_SERVICE_PORT=8080", "KPUSH_SERVICE_PORT_HTTP=8080",
				"KPUSH_PORT=tcp://10.0.0.1:8080", "KPUSH_PORT_8080_TCP=tcp://10.0.0.1:8080", "KPUSH_PORT_8080_TCP_ADDR=10.0.0.1",
				"KPUSH_REQUIRE_KAFKA=1", "KPUSH_TEST_RACE=1",
			},
			change: func(*Config) {},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.yaml != "" {
				tt.environ = append(tt.environ, "KPUSH_CONFIG="+write(t, "kpush.yaml", tt.yaml))
			}
			got, err := load(t, tt.environ, tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			want := defaultConfig()
			tt.change(&want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
		})
	}
}

func TestConfigFlagWinsOverItsVariable(t *testing.T) {
	a, b := write(t, "a.yaml", "replica: {id: a}"), write(t, "b.yaml", "replica: {id: b}")
	c, err := load(t, []string{"KPUSH_CONFIG=" + a}, "-c", b)
	if err != nil || c.Replica.ID != "b" {
		t.Errorf("replica.id = %q, %v; want b", c.Replica.ID, err)
	}
}

// TestRefused has a claim on every message: it names the line, key, variable or flag.
func TestRefused(t *testing.T) {
	tests := map[string]struct {
		yaml    string
		environ []string
		args    []string
		want    []string
	}{
		"unknown keys, all of them, with their lines": {
			yaml: "kafka:\n  brokers: a:1\n  brokrs: b:2\nlog:\n  levle: info\nmetrics: {}\n",
			want: []string{"kpush.yaml:3: unknown key kafka.brokrs", "kpush.yaml:5: unknown key log.levle", "kpush.yaml:6: unknown key metrics"},
		},
		"a key of a later version is unknown, too": {
			yaml: "delivery:\n  proxy: http://proxy:3128\n",
			want: []string{"kpush.yaml:2: unknown key delivery.proxy"},
		},
		"a value where a group belongs":     {yaml: "kafka: a:1\n", want: []string{"kpush.yaml:1: kafka takes a mapping"}},
		"a group where a value belongs":     {yaml: "api:\n  listen:\n    port: 1\n", want: []string{"kpush.yaml:3: api.listen takes a value"}},
		"a file that is a list":             {yaml: "- a\n", want: []string{"kpush.yaml:1: the file must be a mapping"}},
		"broken YAML":                       {yaml: "kafka: [\n", want: []string{"kpush.yaml", "line 1"}},
		"a key twice":                       {yaml: "log: {}\nlog: {}\n", want: []string{"kpush.yaml", "line 2"}},
		"a property written as a tree":      {yaml: "kafka:\n  properties:\n    security:\n      protocol: SSL\n", want: []string{"kpush.yaml:4", "security.protocol"}},
		"a variable that is not set":        {yaml: "api:\n  admin_token: ${NO_SUCH_TOKEN}\n", want: []string{"kpush.yaml:2: ${NO_SUCH_TOKEN} is not set"}},
		"a duration without a unit":         {yaml: "shutdown:\n  drain_timeout: 25\n", want: []string{"shutdown.drain_timeout", "like 30s"}},
		"a level that is none":              {environ: []string{"KPUSH_LOG_LEVEL=loud"}, want: []string{"log.level", "loud"}},
		"a word for a number":               {environ: []string{"KPUSH_REGISTRY_REPLICATION_FACTOR=three"}, want: []string{"registry.replication_factor"}},
		"an unknown variable":               {environ: []string{"KPUSH_KAFKA_BROKER=a:1"}, want: []string{"KPUSH_KAFKA_BROKER is not a setting"}},
		"a secret twice":                    {environ: []string{"KPUSH_SECRET_KEY=" + testKey, "KPUSH_SECRET_KEY_FILE=/x"}, want: []string{"KPUSH_SECRET_KEY and KPUSH_SECRET_KEY_FILE are both set"}},
		"a secret's file that is not there": {environ: []string{"KPUSH_SECRET_KEY_FILE=/no/such/file"}, want: []string{"KPUSH_SECRET_KEY_FILE", "/no/such/file"}},
		"a flag's file that is not there":   {args: []string{"--secret-key-file", "/no/such/file"}, want: []string{"--secret-key-file", "/no/such/file"}},
		"pairs that are none":               {environ: []string{"KPUSH_KAFKA_PROPERTIES=debug"}, want: []string{"KPUSH_KAFKA_PROPERTIES", "name=value"}},
		"properties twice":                  {environ: []string{"KPUSH_KAFKA_PROPERTIES=debug=all", "KPUSH_KAFKA_PROPERTIES_FILE=/x"}, want: []string{"KPUSH_KAFKA_PROPERTIES and KPUSH_KAFKA_PROPERTIES_FILE are both set"}},
		"a properties file with no pairs":   {environ: []string{"KPUSH_KAFKA_PROPERTIES_FILE=" + write(t, "properties", "a.b=c\ndebug\n")}, want: []string{"KPUSH_KAFKA_PROPERTIES_FILE: pair 2 of 2 is not name=value"}},
		"a configuration that is not there": {args: []string{"--config", "/no/such.yaml"}, want: []string{"/no/such.yaml"}},
		"an address without a port":         {args: []string{"--api-listen", "localhost"}, want: []string{"api.listen"}},
		"a public URL that is none":         {args: []string{"--api-public-url", "gw.example.com"}, want: []string{"api.public_url"}},
		"a limit below none":                {args: []string{"--api-max-failed-acks", "-1"}, want: []string{"api.max_failed_acks"}},
		"a replica's URL that is none":      {args: []string{"--replica-advertised-url", "10.0.0.7:8080"}, want: []string{"replica.advertised_url"}},
		"a replica's URL with a path":       {args: []string{"--replica-advertised-url", "http://10.0.0.7:8080/kpush"}, want: []string{"replica.advertised_url"}},
		"a replica's URL with credentials":  {environ: []string{"KPUSH_REPLICA_ADVERTISED_URL=http://u:p@10.0.0.7:8080"}, want: []string{"replica.advertised_url"}},
		"a replica's id with a space":       {args: []string{"--replica-id", "one two"}, want: []string{"replica.id"}},
		"a log format that is none":         {args: []string{"--log-format", "xml"}, want: []string{"log.format"}},
		"a replication factor of 0":         {args: []string{"--registry-replication-factor", "0"}, want: []string{"registry.replication_factor"}},
		"a word for yes or no":              {environ: []string{"KPUSH_DELIVERY_ALLOW_HTTP=maybe"}, want: []string{"delivery", "allow_http"}},
		"ranges that are none, all of them": {
			yaml: "delivery:\n  allowed_cidrs: [10.1.0.0]\n  denied_cidrs: [10.1.2.3/16]\n  allowed_ports: [443, 0]\n  nat64_prefixes: ['64:ff9b::/64']\n",
			want: []string{"delivery.allowed_cidrs", "delivery.denied_cidrs", "10.1.0.0/16 would be right", "delivery.allowed_ports", "delivery.nat64_prefixes"},
		},
		"no time to drain":              {args: []string{"--shutdown-drain-timeout", "0s"}, want: []string{"shutdown.drain_timeout"}},
		"a property the gateway owns":   {yaml: "kafka:\n  properties:\n    enable.auto.commit: true\n    group.id: x\n", want: []string{"enable.auto.commit", "group.id"}},
		"a group protocol that is none": {args: []string{"--kafka-group-protocol", "gossip"}, want: []string{"gossip"}},
		"a webhook that is not valid, at the line of its field": {
			yaml: "webhooks:\n  - id: a\n    url: https://a.example\n    topics: [t]\n    batch:\n      max_records: 0\n",
			want: []string{"kpush.yaml:6: webhooks[0]: /batch/max_records"},
		},
		"a webhook with an unknown field": {
			yaml: "webhooks:\n  - id: a\n    url: https://a.example\n    topic: t\n",
			want: []string{"kpush.yaml:4: webhooks[0]: /topic"},
		},
		"a webhook without an id": {
			yaml: "webhooks:\n  - url: https://a.example\n    topics: [t]\n",
			want: []string{"kpush.yaml:2: webhooks[0]: id is required"},
		},
		"a webhook whose id is empty": {
			yaml: "webhooks:\n  - url: https://a.example\n    id: ''\n    topics: [t]\n",
			want: []string{"kpush.yaml:3: webhooks[0]: /id"},
		},
		"a webhook whose id is a variable that is empty": {
			yaml:    "webhooks:\n  - url: https://a.example\n    id: \"${ID}\"\n    topics: [t]\n",
			environ: []string{"ID="},
			want:    []string{"kpush.yaml:3: webhooks[0]: /id"},
		},
		"the same without quotes": {
			yaml:    "webhooks:\n  - url: https://a.example\n    id: ${ID}\n    topics: [t]\n",
			environ: []string{"ID="},
			want:    []string{"kpush.yaml:2: webhooks[0]: id is required"},
		},
		"a webhook twice": {
			yaml: "webhooks:\n  - {id: a, url: 'https://a.example', topics: [t]}\n  - {id: a, url: 'https://a.example', topics: [t]}\n",
			want: []string{"kpush.yaml:3", "id a is declared on line 2 too"},
		},
		"a webhook that may not reach its receiver": {
			yaml: "webhooks:\n  - {id: a, url: 'http://a.example', topics: [t], lifecycle: {url: 'https://10.0.0.1/'}}\n",
			want: []string{"webhooks[0]: /url: must begin with https://", "webhooks[0]: /lifecycle/url: must not be an address", "delivery."},
		},
		"webhooks that are no list": {yaml: "webhooks: {a: {}}\n", want: []string{"kpush.yaml:1: webhooks takes a list"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.yaml != "" {
				tt.environ = append(tt.environ, "KPUSH_CONFIG="+write(t, "kpush.yaml", tt.yaml))
			}
			_, err := load(t, tt.environ, tt.args...)
			if err == nil {
				t.Fatal("it was taken")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error lacks %q:\n%v", want, err)
				}
			}
		})
	}
}

func TestErrorsKeepSecrets(t *testing.T) {
	_, err := load(t, []string{"KPUSH_SECRET_KEY=hunter2"})
	if err == nil || !strings.Contains(err.Error(), "secret_key") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error = %v, want one that names secret_key and not its value", err)
	}
}

// TestErrorsKeepPasswordsWithCommas: what was behind the comma of a password is no
// pair, and was told to whoever reads the log of a start that failed.
func TestErrorsKeepPasswordsWithCommas(t *testing.T) {
	properties := write(t, "properties", "sasl.username=me\nhunter2\n")
	for _, environ := range []string{
		"KPUSH_KAFKA_PROPERTIES=sasl.password=ab,hunter2",
		"KPUSH_KAFKA_PROPERTIES=sasl.password=ab,Hunter2=,sasl.username=me",
		"KPUSH_KAFKA_PROPERTIES_FILE=" + properties,
	} {
		_, err := load(t, []string{environ})
		if err == nil || strings.Contains(strings.ToLower(err.Error()), "hunter2") || !strings.Contains(err.Error(), "KPUSH_KAFKA_PROPERTIES_FILE") {
			t.Errorf("%s: error = %v, want one that says where to put such a value and not what it is", environ, err)
		}
	}
}

func TestRequireSecrets(t *testing.T) {
	tests := map[string]struct {
		token    string
		insecure bool
		keys     []string
		want     []string // nil: fine
	}{
		"both are there":         {token: "t", keys: []string{testKey}},
		"no auth was asked for":  {insecure: true, keys: []string{testKey}},
		"no token":               {keys: []string{testKey}, want: []string{"api.admin_token", "openssl rand -base64 32", "KPUSH_API_ADMIN_TOKEN", "--insecure-no-auth"}},
		"no key":                 {token: "t", want: []string{"secret_key", "openssl rand -base64 32", "KPUSH_SECRET_KEY"}},
		"neither, told together": {want: []string{"api.admin_token", "secret_key"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := Config{SecretKey: tt.keys, API: APIConfig{AdminToken: tt.token, InsecureNoAuth: tt.insecure}}
			err := c.requireSecrets()
			if (err == nil) != (tt.want == nil) {
				t.Fatalf("error = %v, want one: %v", err, tt.want != nil)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error lacks %q: %v", want, err)
				}
			}
		})
	}
}

const printed = `kafka:
  brokers: [a:1]
  properties:
    sasl.password: hunter2
    ssl.key.password: hunter2
    security.protocol: SSL
api:
  admin_token: hunter2
secret_key: ` + testKey + `
webhooks:
  - id: orders
    url: https://billing.example.com/hooks
    topics: [orders]
    start: 2026-01-02T03:04:05Z
    request:
      headers: {authorization: Bearer hunter2, x-env: prod}
`

// TestPrintMasksAllCredentialsOfWebhooks: what answers of the API mask is masked.
func TestPrintMasksAllCredentialsOfWebhooks(t *testing.T) {
	const head = "webhooks:\n  - id: orders\n    url: https://billing.example.com/hooks\n    topics: [orders]\n    auth: "
	for _, auth := range []string{
		"{type: bearer, token: hunter2}", "{type: basic, username: kpush, password: hunter2}", "{type: header, name: x-env, value: hunter2}",
		"{type: oauth2, token_url: https://id.example.com/token, client_id: kpush, client_secret: hunter2}",
	} {
		c, err := load(t, nil, "-c", write(t, "kpush.yaml", head+auth+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := printConfig(&out, c); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "hunter2") || !strings.Contains(out.String(), masked) {
			t.Errorf("of %s is printed:\n%s", auth, &out)
		}
	}
}

func TestPrintMasksSecrets(t *testing.T) {
	c, err := load(t, nil, "-c", write(t, "kpush.yaml", printed))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := printConfig(&out, c); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"hunter2", testKey} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("the print shows %q:\n%s", secret, &out)
		}
	}
	for _, want := range []string{
		"admin_token: '" + masked + "'", "secret_key: '" + masked + "'", "sasl.password: '" + masked + "'", "authorization: '" + masked + "'",
		"security.protocol: SSL", "x-env: prod", "drain_timeout: 25s", "level: info", "replication_factor: -1",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the print lacks %q:\n%s", want, &out)
		}
	}
}

// TestPrintIsAConfiguration reads back what was printed.
func TestPrintIsAConfiguration(t *testing.T) {
	text := printed
	for _, secret := range []string{ // a mask is no value
		"    sasl.password: hunter2\n", "    ssl.key.password: hunter2\n", "api:\n  admin_token: hunter2\n", "secret_key: " + testKey + "\n",
		"authorization: Bearer hunter2, ",
	} {
		text = strings.Replace(text, secret, "", 1)
	}
	c, err := load(t, nil, "-c", write(t, "kpush.yaml", text))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := printConfig(&out, c); err != nil {
		t.Fatal(err)
	}
	again, err := load(t, nil, "-c", write(t, "printed.yaml", out.String()))
	if err != nil {
		t.Fatalf("reading back: %v\n%s", err, &out)
	}
	if diff := cmp.Diff(c, again, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("config (-read +printed and read back):\n%s\n%s", diff, &out)
	}
}

func TestSettingNames(t *testing.T) {
	got := map[string][2]string{}
	for _, s := range settingsOf(new(Config)) {
		got[s.key()] = [2]string{s.env(), s.flag()}
		if s.usage == "" {
			t.Errorf("%s has no usage", s.key())
		}
	}
	// The names people build on; contract section 8.
	want := map[string][2]string{
		"kafka.brokers":                {"KPUSH_KAFKA_BROKERS", "kafka-brokers"},
		"kafka.properties":             {"KPUSH_KAFKA_PROPERTIES", "kafka-properties"},
		"kafka.group_protocol":         {"KPUSH_KAFKA_GROUP_PROTOCOL", "kafka-group-protocol"},
		"kafka.group_instance_id":      {"KPUSH_KAFKA_GROUP_INSTANCE_ID", "kafka-group-instance-id"},
		"api.listen":                   {"KPUSH_API_LISTEN", "api-listen"},
		"api.max_failed_acks":          {"KPUSH_API_MAX_FAILED_ACKS", "api-max-failed-acks"},
		"api.public_url":               {"KPUSH_API_PUBLIC_URL", "api-public-url"},
		"api.admin_token":              {"KPUSH_API_ADMIN_TOKEN", "api-admin-token-file"},
		"management.listen":            {"KPUSH_MANAGEMENT_LISTEN", "management-listen"},
		"replica.id":                   {"KPUSH_REPLICA_ID", "replica-id"},
		"replica.advertised_url":       {"KPUSH_REPLICA_ADVERTISED_URL", "replica-advertised-url"},
		"secret_key":                   {"KPUSH_SECRET_KEY", "secret-key-file"},
		"registry.topic":               {"KPUSH_REGISTRY_TOPIC", "registry-topic"},
		"registry.replication_factor":  {"KPUSH_REGISTRY_REPLICATION_FACTOR", "registry-replication-factor"},
		"delivery.allow_http":          {"KPUSH_DELIVERY_ALLOW_HTTP", "delivery-allow-http"},
		"delivery.allowed_cidrs":       {"KPUSH_DELIVERY_ALLOWED_CIDRS", "delivery-allowed-cidrs"},
		"delivery.allowed_ports":       {"KPUSH_DELIVERY_ALLOWED_PORTS", "delivery-allowed-ports"},
		"delivery.denied_cidrs":        {"KPUSH_DELIVERY_DENIED_CIDRS", "delivery-denied-cidrs"},
		"delivery.max_connections":     {"KPUSH_DELIVERY_MAX_CONNECTIONS", "delivery-max-connections"},
		"delivery.max_in_flight_bytes": {"KPUSH_DELIVERY_MAX_IN_FLIGHT_BYTES", "delivery-max-in-flight-bytes"},
		"delivery.allow_metadata":      {"KPUSH_DELIVERY_ALLOW_METADATA", "delivery-allow-metadata"},
		"delivery.nat64_prefixes":      {"KPUSH_DELIVERY_NAT64_PREFIXES", "delivery-nat64-prefixes"},
		"shutdown.drain_timeout":       {"KPUSH_SHUTDOWN_DRAIN_TIMEOUT", "shutdown-drain-timeout"},
		"log.level":                    {"KPUSH_LOG_LEVEL", "log-level"},
		"log.format":                   {"KPUSH_LOG_FORMAT", "log-format"},
		"data_dir":                     {"KPUSH_DATA_DIR", "data-dir"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

func FuzzConfigFile(f *testing.F) {
	f.Add([]byte(printed))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("<<: {kafka: {brokers: x}}\n"))
	f.Add([]byte("? [a]\n: ${X:-y}\n"))
	f.Add([]byte("webhooks: [1, {1: 2}, null, {id: }]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		parseConfigFile("kpush.yaml", data, map[string]string{"X": "1"}) // must not panic
	})
}
