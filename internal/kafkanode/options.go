package kafkanode

import "os"

// cpuVariable names the processors nodes run on unless told otherwise, in the
// manner of taskset: "0" or "1,3" or "4-7". Empty leaves it to the system.
const cpuVariable = "KPUSH_KAFKA_CPU"

// Option changes how a node is run.
type Option func(*options)

type options struct {
	properties map[string]string
	cpus       string
	heap       string
	detours    []string
}

func newOptions(given []Option) *options {
	o := &options{properties: map[string]string{}, cpus: os.Getenv(cpuVariable)}
	for _, option := range given {
		option(o)
	}
	return o
}

// WithProperty sets a property of the broker, over what the package sets.
func WithProperty(name, value string) Option {
	return func(o *options) { o.properties[name] = value }
}

// WithCPUs pins the node to processors, given as taskset takes them; it goes over
// KPUSH_KAFKA_CPU.
func WithCPUs(list string) Option {
	return func(o *options) { o.cpus = list }
}

// WithHeap sets the most memory the node's heap may take, as Java's -Xmx takes
// it. Default 512m, and 384m for each node of a cluster.
func WithHeap(size string) Option {
	return func(o *options) { o.heap = size }
}

// WithDetour gives each node a second listener, for clients that are to come by
// way of something in between: to those who connect there the node says that it
// is at the address given, one for each node in order. Node.Detour is where such
// a proxy has to pass connections on to.
func WithDetour(advertised ...string) Option {
	return func(o *options) { o.detours = advertised }
}
