package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/kpush/kpush/webhooks"
)

func configCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print or validate the configuration",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, sub := range []*cobra.Command{
		{
			Use:   "print",
			Short: "Print the configuration that serve would run with; secrets are masked",
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, err := loadConfig(defaultConfig(), environ, cmd.Flags())
				if err != nil {
					return usageError{err}
				}
				return printConfig(cmd.OutOrStdout(), c)
			},
		},
		{
			Use:   "validate",
			Short: "Check the configuration that serve would run with",
			Long: "Check the configuration that serve would run with, declared webhooks included.\n" +
				"Secrets that are not set are only told of: they often come from elsewhere.",
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, err := loadConfig(defaultConfig(), environ, cmd.Flags())
				if err != nil {
					return usageError{err}
				}
				if err := c.requireSecrets(); err != nil {
					fmt.Fprintf(cmd.ErrOrStderr(), "note: serve would refuse to start:\n%v\n", err)
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "the configuration is valid")
				return err
			},
		},
	} {
		sub.Args = noArgs
		addFlags(sub.Flags(), defaultConfig())
		cmd.AddCommand(sub)
	}
	return cmd
}

// masked stands where a secret is set.
const masked = webhooks.Mask

// sensitive matches the names of librdkafka properties whose values do not belong on
// a screen.
var sensitive = regexp.MustCompile(`(?i)password|secret|token|credential|authorization|cookie|api-?key|jaas|oauthbearer\.config|\.pem$`)

// printConfig writes c as a configuration file that means the same, secrets aside.
func printConfig(w io.Writer, c Config) error {
	root := &yaml.Node{Kind: yaml.MappingNode}
	for _, s := range settingsOf(&c) {
		at := root
		for _, group := range s.path[:len(s.path)-1] {
			at = childMapping(at, group)
		}
		var value yaml.Node
		if err := value.Encode(printable(s)); err != nil {
			return fmt.Errorf("printing %s: %w", s.key(), err)
		}
		at.Content = append(at.Content, scalar(s.path[len(s.path)-1]), &value)
	}
	if len(c.Webhooks) > 0 {
		list, err := printableWebhooks(c.Webhooks)
		if err != nil {
			return err
		}
		root.Content = append(root.Content, scalar(webhooksKey), list)
	}
	out := yaml.NewEncoder(w)
	out.SetIndent(2)
	if err := out.Encode(root); err != nil {
		return fmt.Errorf("printing the configuration: %w", err)
	}
	return out.Close()
}

// printable is a setting's value as the file would have it, or a mask.
func printable(s setting) any {
	switch value := s.value.Interface().(type) {
	case map[string]string:
		return maskValues(value)
	case slog.Level:
		return strings.ToLower(value.String())
	default:
		if s.secret && !s.value.IsZero() && (s.value.Kind() != reflect.Slice || s.value.Len() > 0) {
			return masked
		}
		return value
	}
}

func maskValues(values map[string]string) map[string]string {
	shown := make(map[string]string, len(values))
	for name, value := range values {
		if sensitive.MatchString(name) {
			value = masked
		}
		shown[name] = value
	}
	return shown
}

// serverSet are the fields of a webhook that are answered and never given.
var serverSet = []string{"tenant", "state", "state_reason", "created_at", "updated_at"}

func printableWebhooks(declared []webhooks.Webhook) (*yaml.Node, error) {
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for _, w := range declared {
		data, err := json.Marshal(w.Masked())
		if err != nil {
			return nil, fmt.Errorf("printing webhook %s: %w", w.ID, err)
		}
		// JSON is YAML: reading it as such keeps the order of the fields.
		var doc yaml.Node
		if err := yaml.Unmarshal(data, &doc); err != nil {
			return nil, fmt.Errorf("printing webhook %s: %w", w.ID, err)
		}
		fields := doc.Content[0]
		for _, name := range serverSet {
			fields.Content = without(fields.Content, name)
		}
		blockStyle(fields)
		list.Content = append(list.Content, fields)
	}
	return list, nil
}

func without(pairs []*yaml.Node, name string) []*yaml.Node {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i].Value == name {
			return append(pairs[:i:i], pairs[i+2:]...)
		}
	}
	return pairs
}

// blockStyle takes JSON's braces and needless quotes away.
func blockStyle(n *yaml.Node) {
	n.Style &^= yaml.FlowStyle | yaml.DoubleQuotedStyle
	for _, child := range n.Content {
		blockStyle(child)
	}
}

// childMapping is the mapping under name in n, made if missing.
func childMapping(n *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	child := &yaml.Node{Kind: yaml.MappingNode}
	n.Content = append(n.Content, scalar(name), child)
	return child
}

func scalar(value string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Value: value}
}
