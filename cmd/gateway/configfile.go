package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kpush/kpush/webhooks"
)

// webhooksKey is the list of declared webhooks in the file.
const webhooksKey = "webhooks"

// maxConfigFile bounds what is read; a thousand webhooks fit in a tenth of it.
const maxConfigFile = 16 << 20

// configFile is a YAML file being read. It keeps every complaint, with its line.
type configFile struct {
	name   string
	lookup func(name string) (string, bool) // environment, for ${NAME}
	keys   map[string]bool                  // true: a setting, false: a group of settings
	errs   []error
}

// readConfigFile returns the settings of a file as nested maps, and the webhooks it
// declares. Every unknown key, value of the wrong kind and webhook that is not
// valid is named with its line, all at once.
func readConfigFile(name string, environ map[string]string) (map[string]any, []webhooks.Webhook, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the configuration: %w", err)
	}
	if info.Size() > maxConfigFile {
		return nil, nil, fmt.Errorf("reading the configuration: %s is larger than %d bytes", name, maxConfigFile)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return parseConfigFile(name, data, environ)
}

func parseConfigFile(name string, data []byte, environ map[string]string) (map[string]any, []webhooks.Webhook, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	if doc.Kind == 0 { // an empty file
		return nil, nil, nil
	}
	f := &configFile{name: name, keys: map[string]bool{}}
	f.lookup = func(name string) (string, bool) { v, ok := environ[name]; return v, ok }
	for _, s := range settingsOf(new(Config)) {
		f.keys[s.key()] = true
		for i := 1; i < len(s.path); i++ {
			f.keys[strings.Join(s.path[:i], ".")] = false
		}
	}
	f.interpolate(&doc)
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, nil, fmt.Errorf("%s:%d: the file must be a mapping of keys to values", name, root.Line)
	}
	declared := f.takeWebhooks(root)
	f.check(root, "")
	if err := errors.Join(f.errs...); err != nil {
		return nil, nil, err
	}
	var values map[string]any
	if err := root.Decode(&values); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return values, declared, nil
}

func (f *configFile) complain(n *yaml.Node, format string, args ...any) {
	f.errs = append(f.errs, fmt.Errorf("%s:%d: "+format, append([]any{f.name, n.Line}, args...)...))
}

// check walks a mapping of settings; prefix is its key with a dot behind, or empty.
func (f *configFile) check(mapping *yaml.Node, prefix string) {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		name, value := mapping.Content[i], mapping.Content[i+1]
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		key := prefix + name.Value
		leaf, known := f.keys[key]
		switch {
		case !known:
			f.complain(name, "unknown key %s", key)
		case leaf && key == "kafka.properties":
			f.checkProperties(value)
		case leaf && value.Kind == yaml.MappingNode:
			f.complain(value, "%s takes a value, not a mapping", key)
		case leaf:
			asWritten(value)
		case value.Kind == yaml.MappingNode:
			f.check(value, key+".")
		case value.ShortTag() != "!!null": // "kafka:" with all its keys commented out is fine
			f.complain(value, "%s takes a mapping", key)
		}
	}
}

// checkProperties sees to it that librdkafka's names are written flat.
func (f *configFile) checkProperties(value *yaml.Node) {
	if value.Kind != yaml.MappingNode {
		if value.ShortTag() != "!!null" {
			f.complain(value, "kafka.properties takes a mapping of names to values")
		}
		return
	}
	for i := 0; i+1 < len(value.Content); i += 2 {
		v := value.Content[i+1]
		asWritten(v)
		if v.Kind != yaml.ScalarNode {
			f.complain(v, "kafka.properties: %s takes one value; write the property's name with its dots, like security.protocol", value.Content[i].Value)
		}
	}
}

// asWritten makes text of the scalars in a value: true is "true" for librdkafka, not
// "1", and a replica called 007 is. What is no text in Config is read from it.
func asWritten(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null" {
		n.Tag = "!!str"
	}
	for _, child := range n.Content {
		asWritten(child)
	}
}

// takeWebhooks removes the list of webhooks from root and decodes it.
func (f *configFile) takeWebhooks(root *yaml.Node) []webhooks.Webhook {
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value != webhooksKey {
			continue
		}
		list := root.Content[i+1]
		root.Content = append(root.Content[:i:i], root.Content[i+2:]...)
		if list.ShortTag() == "!!null" {
			return nil
		}
		if list.Kind != yaml.SequenceNode {
			f.complain(list, "%s takes a list", webhooksKey)
			return nil
		}
		var declared []webhooks.Webhook
		seen := map[string]int{}
		for n, item := range list.Content {
			w, ok := f.webhook(n, item)
			if !ok {
				continue
			}
			if line, twice := seen[w.ID]; twice {
				f.complain(item, "webhooks[%d]: id %s is declared on line %d too", n, w.ID, line)
			}
			seen[w.ID] = item.Line
			declared = append(declared, w)
		}
		return declared
	}
	return nil
}

// webhook decodes item n by the rules of the API.
func (f *configFile) webhook(n int, item *yaml.Node) (webhooks.Webhook, bool) {
	var value any
	if err := item.Decode(&value); err != nil {
		f.complain(item, "webhooks[%d]: %v", n, err)
		return webhooks.Webhook{}, false
	}
	data, err := json.Marshal(value)
	if err != nil {
		f.complain(item, "webhooks[%d]: keys must be text", n)
		return webhooks.Webhook{}, false
	}
	if fields, ok := value.(map[string]any); ok && fields["id"] == nil {
		// An id made up at every start would make a new webhook at every start.
		f.complain(item, "webhooks[%d]: id is required", n)
		return webhooks.Webhook{}, false
	}
	w, err := webhooks.Decode(data, "")
	if invalid, ok := errors.AsType[*webhooks.ValidationError](err); ok {
		for _, field := range invalid.Fields {
			f.complain(lineOf(item, field.Pointer), "webhooks[%d]: %s: %s", n, field.Pointer, field.Detail)
		}
		return w, false
	}
	if err != nil {
		f.complain(item, "webhooks[%d]: %v", n, err)
		return w, false
	}
	return w, true
}

// lineOf follows a JSON pointer as far as the node goes.
func lineOf(n *yaml.Node, pointer string) *yaml.Node {
	for name := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		if n.Kind != yaml.MappingNode {
			break
		}
		found := false
		for i := 0; i+1 < len(n.Content) && !found; i += 2 {
			if n.Content[i].Value == name {
				n, found = n.Content[i+1], true
			}
		}
		if !found {
			break
		}
	}
	return n
}

// reference is ${NAME} or ${NAME:-default}; $${NAME} stands for the text ${NAME}.
var reference = regexp.MustCompile(`\$?\$\{([A-Za-z_][A-Za-z0-9_]*)(:-[^}]*)?\}`)

// interpolate puts environment variables into values, not into keys. It works on
// the parsed file, so that what a variable holds is never read as YAML structure.
func (f *configFile) interpolate(n *yaml.Node) {
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			continue
		}
		f.interpolate(child)
	}
	if n.Kind != yaml.ScalarNode || !strings.Contains(n.Value, "${") {
		return
	}
	n.Value = reference.ReplaceAllStringFunc(n.Value, func(ref string) string {
		if strings.HasPrefix(ref, "$$") {
			return ref[1:]
		}
		parts := reference.FindStringSubmatch(ref)
		if value, set := f.lookup(parts[1]); set {
			return value
		}
		if fallback, has := strings.CutPrefix(parts[2], ":-"); has {
			return fallback
		}
		f.complain(n, "${%s} is not set", parts[1])
		return ""
	})
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0 {
		n.Tag = "" // unquoted: ${PORT} may well be a number now
	}
}
