package main

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
)

// configFlag and configEnv name the configuration file.
const (
	configFlag = "config"
	configEnv  = envPrefix + "CONFIG"
)

// loadConfig lays the file, the environment and the flags over defaults, and
// validates what comes out.
func loadConfig(defaults Config, environ []string, flags *pflag.FlagSet) (Config, error) {
	env := map[string]string{}
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok {
			env[name] = value
		}
	}
	c := defaults
	k := koanf.New(delimiter)

	name, _ := flags.GetString(configFlag)
	if name == "" {
		name = env[configEnv]
	}
	if name != "" {
		values, declared, err := readConfigFile(name, env)
		if err != nil {
			return Config{}, err
		}
		c.Webhooks = declared
		if err := k.Load(confmap.Provider(values, ""), nil); err != nil {
			return Config{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	fromEnv, err := readEnvironment(env)
	if err != nil {
		return Config{}, err
	}
	if err := k.Load(confmap.Provider(fromEnv, delimiter), nil); err != nil {
		return Config{}, fmt.Errorf("reading the environment: %w", err)
	}
	fromFlags, err := readFlags(flags)
	if err != nil {
		return Config{}, err
	}
	if err := k.Load(confmap.Provider(fromFlags, delimiter), nil); err != nil {
		return Config{}, fmt.Errorf("reading the flags: %w", err)
	}

	if err := decode(k, &c); err != nil {
		return Config{}, err
	}
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// decode writes what the layers hold over c.
func decode(k *koanf.Koanf, c *Config) error {
	// The decoder writes into maps that it finds; defaults stay untouched.
	c.Kafka.Properties = maps.Clone(c.Kafka.Properties)
	err := k.UnmarshalWithConf("", c, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		ErrorUnused:      true,
		WeaklyTypedInput: true,
		ZeroFields:       false,
		DecodeHook:       mapstructure.ComposeDecodeHookFunc(toDuration, toLevel, toList),
	}})
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	return nil
}

// toDuration reads "30s" and refuses 30, of which nobody knows what it means.
func toDuration(_, to reflect.Type, value any) (any, error) {
	if to != reflect.TypeFor[time.Duration]() {
		return value, nil
	}
	switch v := value.(type) {
	case time.Duration: // a flag's
		return v, nil
	case string:
		if d, err := time.ParseDuration(v); err == nil {
			return d, nil
		}
	}
	return nil, fmt.Errorf("%v is not a duration; write it with its unit, like 30s", value)
}

func toLevel(_, to reflect.Type, value any) (any, error) {
	if to != reflect.TypeFor[slog.Level]() {
		return value, nil
	}
	if text, ok := value.(string); ok {
		switch strings.ToLower(text) {
		case "debug":
			return slog.LevelDebug, nil
		case "info":
			return slog.LevelInfo, nil
		case "warn":
			return slog.LevelWarn, nil
		case "error":
			return slog.LevelError, nil
		}
	}
	return nil, fmt.Errorf("%v is not a log level; write debug, info, warn or error", value)
}

// toList reads "a, b" as a list of two.
func toList(_, to reflect.Type, value any) (any, error) {
	text, ok := value.(string)
	if !ok || to != reflect.TypeFor[[]string]() {
		return value, nil
	}
	return splitList(text), nil
}

// splitList cuts at commas and line ends, and drops blanks around.
func splitList(text string) []string {
	list := []string{}
	for item := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}

// readEnvironment returns the settings of the environment by their koanf path. A
// variable that is empty counts as not set, as with most tools that pass one on. A
// variable of our prefix that is no setting is an error that names it.
func readEnvironment(env map[string]string) (map[string]any, error) {
	values := map[string]any{}
	known := map[string]bool{configEnv: true}
	var errs []error
	for _, s := range settingsOf(new(Config)) {
		known[s.env()] = true
		fileEnv := s.env() + fileSuffix
		text, source, split := env[s.env()], s.env(), splitList
		if s.fromFile() {
			known[fileEnv] = true
			if file := env[fileEnv]; file != "" && text != "" {
				errs = append(errs, fmt.Errorf("environment: %s and %s are both set", s.env(), fileEnv))
			} else if file != "" {
				var err error
				if text, err = readSecretFile(file); err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", fileEnv, err))
				}
				source, split = fileEnv, splitLines
			}
		}
		if text == "" {
			continue
		}
		path := strings.Join(s.path, delimiter)
		if s.value.Kind() != reflect.Map {
			values[path] = text
			continue
		}
		pairs, err := readPairs(split(text))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w; values with commas go into %s, a pair a line", source, err, fileEnv))
		}
		values[path] = pairs
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if strings.HasPrefix(name, envPrefix) && !known[name] && !foreign(name, env[name]) {
			errs = append(errs, fmt.Errorf("environment: %s is not a setting of the gateway", name))
		}
	}
	return values, errors.Join(errs...)
}

// readSecretFile returns what a file holds, without the blanks around it.
func readSecretFile(name string) (string, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	value := strings.TrimSpace(string(data))
	if value == "" {
		return "", fmt.Errorf("%s is empty", name)
	}
	return value, nil
}

// splitLines cuts at line ends, and drops empty lines and those that begin with #.
func splitLines(text string) []string {
	list := []string{}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			list = append(list, line)
		}
	}
	return list
}

// propertyName is what librdkafka's names look like.
var propertyName = regexp.MustCompile(`^[a-z][a-z0-9._]*$`)

// readPairs reads items of name=value. What is none is not repeated in the error:
// it may be the piece of a password that was behind a comma.
func readPairs(items []string) (map[string]any, error) {
	pairs := map[string]any{}
	for i, item := range items {
		name, value, ok := strings.Cut(item, "=")
		if name = strings.TrimSpace(name); !ok || !propertyName.MatchString(name) {
			return nil, fmt.Errorf("pair %d of %d is not name=value", i+1, len(items))
		}
		pairs[name] = strings.TrimSpace(value)
	}
	return pairs, nil
}

// serviceLink is what Kubernetes and Docker put into every container's environment
// for a service whose name begins with kpush.
var serviceLink = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)

// foreign tells variables that begin with our prefix and are none of our business.
func foreign(name, value string) bool {
	if name == "KPUSH_REQUIRE_KAFKA" || strings.HasPrefix(name, "KPUSH_TEST_") {
		return true // for the test suites, which pass them on to the gateways they start
	}
	return serviceLink.MatchString(name) || strings.HasSuffix(name, "_PORT") && strings.Contains(value, "://")
}

// readFlags returns the settings whose flags were given, by their koanf path.
func readFlags(flags *pflag.FlagSet) (map[string]any, error) {
	values := map[string]any{}
	var errs []error
	for _, s := range settingsOf(new(Config)) {
		flag := flags.Lookup(s.flag())
		if flag == nil || !flag.Changed {
			continue
		}
		value := posflag.FlagVal(flags, flag)
		if pairs, ok := value.(map[string]string); ok { // koanf merges maps of any alone
			merged := map[string]any{}
			for name, text := range pairs {
				merged[name] = text
			}
			value = merged
		}
		if s.secret {
			secret, err := readSecretFile(flag.Value.String())
			if err != nil {
				errs = append(errs, fmt.Errorf("--%s: %w", s.flag(), err))
			}
			value = secret
		}
		values[strings.Join(s.path, delimiter)] = value
	}
	return values, errors.Join(errs...)
}
