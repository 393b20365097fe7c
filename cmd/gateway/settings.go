package main

import (
	"reflect"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// envPrefix begins the name of every environment variable of the gateway.
const envPrefix = "KPUSH_"

// fileSuffix ends the variable that names a file with secrets in it.
const fileSuffix = "_FILE"

// delimiter joins the levels of a key in koanf. It is not the dot, since names of
// librdkafka properties have dots in them.
const delimiter = "/"

// setting is one leaf of Config.
type setting struct {
	path   []string // kafka, brokers
	usage  string
	secret bool
	value  reflect.Value // in the Config that settingsOf was given; settable
}

// key is how people call it: kafka.brokers.
func (s setting) key() string { return strings.Join(s.path, ".") }

// env is its environment variable: KPUSH_KAFKA_BROKERS.
func (s setting) env() string { return envPrefix + strings.ToUpper(strings.Join(s.path, "_")) }

// fromFile tells whether its variable has a twin that names a file: it is a secret,
// or has secrets among its values.
func (s setting) fromFile() bool { return s.secret || s.value.Kind() == reflect.Map }

// flag is its flag: kafka-brokers. A secret has no flag, since everybody on the
// machine can read a command line, but one that names a file.
func (s setting) flag() string {
	name := strings.ReplaceAll(strings.Join(s.path, "-"), "_", "-")
	if s.secret {
		return name + "-file"
	}
	return name
}

// settingsOf lists the leaves of c in the order of its fields.
func settingsOf(c *Config) []setting {
	return appendSettings(nil, nil, reflect.ValueOf(c).Elem())
}

func appendSettings(list []setting, path []string, v reflect.Value) []setting {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		tag := field.Tag.Get("koanf")
		if tag == "-" {
			continue
		}
		at := append(path[:len(path):len(path)], tag)
		if field.Type.Kind() == reflect.Struct {
			list = appendSettings(list, at, v.Field(i))
			continue
		}
		list = append(list, setting{
			path:   at,
			usage:  field.Tag.Get("usage"),
			secret: field.Tag.Get("secret") == "true",
			value:  v.Field(i),
		})
	}
	return list
}

// addFlags gives flags to every setting of defaults, whose values help shows.
func addFlags(flags *pflag.FlagSet, defaults Config) {
	for _, s := range settingsOf(&defaults) {
		if s.secret {
			flags.String(s.flag(), "", "file with the "+s.usage)
			continue
		}
		switch value := s.value.Interface().(type) {
		case bool:
			flags.Bool(s.flag(), value, s.usage)
		case int:
			flags.Int(s.flag(), value, s.usage)
		case time.Duration:
			flags.Duration(s.flag(), value, s.usage)
		case []string:
			flags.StringSlice(s.flag(), value, s.usage)
		case map[string]string:
			flags.StringToString(s.flag(), value, s.usage)
		default: // strings, and what is written like one
			flags.String(s.flag(), textOf(s.value), s.usage)
		}
	}
}

// textOf is a value as people write it.
func textOf(v reflect.Value) string {
	if text, ok := v.Interface().(interface{ String() string }); ok {
		return strings.ToLower(text.String())
	}
	return v.String()
}
