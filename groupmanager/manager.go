package groupmanager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/kpush/kpush/acker"
	"github.com/kpush/kpush/groupmanager/pacing"
	"github.com/kpush/kpush/internal/kafkaconf"
	"github.com/kpush/kpush/internal/telemetry"
	"github.com/kpush/kpush/replica"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/egress"
)

const (
	goneCalls   = 16 // webhooks that the leader is told of at once
	goneRetry   = 5 * time.Second
	goneTimeout = 15 * time.Second // of telling the leader
	goneConfirm = 5 * time.Second  // what the leader waits for other replicas because of that
)

// Config is what a Manager is made from. All fields but Peers, RegistryTopic,
// Guard, MaxInFlightBytes, MaxConnections, Logger, Tracing and DrainTimeout are required.
type Config struct {
	Kafka     kafkaconf.Config
	Registry  *webhooks.Registry
	Keys      *webhooks.Keys // ack tokens and delivery ids are keyed from it
	ReplicaID string         // shown as owner of partitions

	// Peers are the replicas this one is among; its id there is ReplicaID. New tells
	// them what this replica does for others. Default: none, this one leads always.
	Peers Peers

	// RegistryTopic is matched by no pattern of topics, and no webhook may name it.
	// Topics whose names begin with __ are matched by none either. By its name a
	// replica knows the members of its own installation in the groups of webhooks.
	RegistryTopic string

	AckURL    string // told to receivers
	UserAgent string // kpush/<version>

	// Guard makes the connections to receivers. Default: the strictest, which
	// delivers to public addresses by https alone.
	Guard *egress.Guard

	// MaxInFlightBytes of records may be under way to all receivers together; see
	// pacing.Share. 0: any number. MaxConnections may be open to the receiver of one
	// webhook; 0: as many as it has deliveries under way.
	MaxInFlightBytes int64
	MaxConnections   int

	// DrainTimeout is how long requests under way may go on when partitions are
	// given up; six tenths of max.poll.interval.ms if that is less. Default 25s.
	DrainTimeout time.Duration
	Tracing      bool // spans are recorded
	Logger       *slog.Logger
}

// Manager runs a group for each webhook of the registry, and is the door through
// which the API reaches registry, groups and cluster. All methods may be called
// concurrently.
type Manager struct {
	*shared
	registry *webhooks.Registry
	peers    Peers
	health   health
	draining atomic.Bool
	goneWake chan struct{} // a receiver answered 410, or is none; one slot
	acks     metric.Int64Counter
	moved    metric.Int64Counter

	groupLocks keyLocks // by Kafka group: Manager.create, Manager.finishDeletion, Manager.moveUnheld
	seekLocks  keyLocks // by webhook: Manager.seek
	owners     owners
	failing    failingElsewhere
	samples    samples

	mu      sync.Mutex
	groups  map[webhookKey]*group
	leaving []*group // of deleted webhooks, still draining maybe
}

type webhookKey struct{ tenant, id string }

func keyOf(w webhooks.Webhook) webhookKey { return webhookKey{w.Tenant, w.ID} }

// shared is what all groups of a Manager use.
type shared struct {
	cfg      Config
	cluster  *cluster
	dead     *deadLetterWriter
	tokens   *acker.Tokens
	ids      *acker.DeliveryIDs
	share    *pacing.Share // nil: no limit
	meter    metric.Meter
	tracer   trace.Tracer
	logger   *slog.Logger
	gone     func() // some group has a 410 or a loop to tell; never waits
	readLogs func(<-chan kafka.LogEvent) (stop func())
}

// New makes a Manager; nothing is asked of Kafka before Run.
func New(cfg Config) (*Manager, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Guard == nil {
		cfg.Guard = egress.New(egress.Policy{}, egress.Options{})
	}
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = 25 * time.Second
	}
	// By this the owner of a partition is found.
	cfg.Kafka.ClientID = kafkaconf.MembersOf(cfg.RegistryTopic).ClientID(cfg.ReplicaID)
	admin := cfg.Kafka.Admin()
	delete(admin, "go.logs.channel.enable") // an admin client has no log channel
	cluster, err := newCluster(admin, cfg.RegistryTopic)
	if err != nil {
		return nil, err
	}
	readLogs := logReader(cfg.Kafka)
	dead, err := newDeadLetterWriter(cfg.Kafka.Producer(), readLogs, cfg.Logger)
	if err != nil {
		cluster.close()
		return nil, err
	}
	if cfg.Peers == nil {
		cfg.Peers = alone{replica.Peer{ID: cfg.ReplicaID, Instance: cfg.Kafka.InstanceID}}
	}
	m := &Manager{
		registry: cfg.Registry,
		peers:    cfg.Peers,
		goneWake: make(chan struct{}, 1),
		groups:   make(map[webhookKey]*group),
	}
	m.shared = &shared{
		cfg: cfg, cluster: cluster, dead: dead,
		tokens: acker.NewTokens(cfg.Keys.Derive("ack-token")...),
		ids:    acker.NewDeliveryIDs(cfg.Keys.Derive("delivery-id")[0]),
		meter:  otel.Meter(telemetry.Scope), tracer: otel.Tracer(telemetry.Scope),
		logger: cfg.Logger, gone: m.noteGone, readLogs: readLogs,
	}
	if cfg.MaxInFlightBytes > 0 {
		m.share = pacing.NewShare(cfg.MaxInFlightBytes)
	}
	m.health.heard(time.Now())
	b := builder{meter: m.meter}
	m.acks = b.counter(telemetry.Acks, telemetry.UnitAcks, "Acks by POST /ack, by the answer they got.")
	m.moved = b.counter(telemetry.OffsetsMoved, telemetry.UnitPartitions, "Partitions whose committed offset was moved on request.")
	if b.err != nil {
		dead.close()
		cluster.close()
		return nil, fmt.Errorf("making metrics: %w", b.err)
	}
	m.handle(cfg.Peers)
	return m, nil
}

// logReader reads a client's log on a goroutine of its own until stop, which waits for it.
func logReader(conf kafkaconf.Config) func(<-chan kafka.LogEvent) func() {
	return func(ch <-chan kafka.LogEvent) func() {
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { conf.Logs(ctx, ch) })
		return func() {
			cancel()
			wg.Wait()
		}
	}
}

// Run keeps a group running for every webhook until ctx ends, then drains all of
// them at once. When it returns nothing that it started is running. Besides nil it
// returns ErrReplaced, or why its metrics could not be registered.
func (m *Manager) Run(ctx context.Context) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	unregister, err := m.observe()
	if err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	defer unregister()
	var side sync.WaitGroup
	side.Go(func() { m.watchHealth(ctx) })
	side.Go(func() { m.disableGone(ctx) })
	side.Go(func() { m.watchTopics(ctx) })
	side.Go(func() { m.watchReplaced(ctx, end) })
	side.Go(func() { m.finishDeletions(ctx) })

	var running sync.WaitGroup
	m.follow(ctx, &running)

	m.draining.Store(true)
	running.Wait()
	m.dead.close()
	side.Wait()
	m.cluster.close()
	if cause := context.Cause(ctx); errors.Is(cause, ErrReplaced) {
		return cause
	}
	return nil
}

// follow makes the groups what the registry says, until ctx ends.
func (m *Manager) follow(ctx context.Context, running *sync.WaitGroup) {
	changed, stop := m.registry.Watch()
	defer stop()
	select {
	case <-m.registry.Ready():
	case <-ctx.Done():
		return
	}
	for {
		m.reconcile(ctx, running)
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// reconcile starts, changes and stops groups; it waits for none.
func (m *Manager) reconcile(ctx context.Context, running *sync.WaitGroup) {
	m.mu.Lock()
	defer m.mu.Unlock()
	wanted := make(map[webhookKey]bool)
	for _, e := range m.registry.List(webhooks.DefaultTenant) {
		key := keyOf(e.Webhook)
		wanted[key] = true
		g := m.groups[key]
		if g != nil && g.is(e.Webhook) {
			g.update(e)
			continue
		}
		var former <-chan struct{}
		if g != nil { // deleted and created again between two looks
			m.leave(g)
			former = g.done
		}
		g = newGroup(m.shared, e)
		m.groups[key] = g
		running.Go(func() { g.run(ctx, former) })
	}
	for key, g := range m.groups {
		if wanted[key] {
			continue
		}
		g.stop()
		select {
		case <-g.done:
			delete(m.groups, key)
		default: // still leaving; a webhook of that name waits for it
		}
	}
	m.leaving = slices.DeleteFunc(m.leaving, func(g *group) bool {
		select {
		case <-g.done:
			return true
		default:
			return false
		}
	})
}

// leave ends a group whose place another one takes. m.mu is held.
func (m *Manager) leave(g *group) {
	g.stop()
	m.leaving = append(m.leaving, g)
}

// sameLife tells whether a member made for a also serves b. By which keys it signs
// does not matter: they are exchanged under way.
func sameLife(a, b webhooks.Entry) bool {
	x, y := a.Webhook, b.Webhook
	for _, w := range []*webhooks.Webhook{&x, &y} {
		w.State, w.StateReason, w.Description, w.Labels, w.Start = "", nil, "", nil, ""
		w.UpdatedAt = time.Time{}
	}
	return reflect.DeepEqual(x, y)
}

// find returns the running group of a webhook, or nil.
func (m *Manager) find(tenant, id string) *group {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.groups[webhookKey{tenant, id}]
}

// lives are all groups of a webhook that may still send something: the running one
// and those of former webhooks of its name.
func (m *Manager) lives(key webhookKey) []*group {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []*group
	for _, g := range m.leaving {
		if keyOf(g.webhook()) == key {
			all = append(all, g)
		}
	}
	if g := m.groups[key]; g != nil {
		all = append(all, g)
	}
	return all
}

func (m *Manager) all() []*group {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.groups))
}

// noteGone is called by partitions and never waits.
func (m *Manager) noteGone() {
	select {
	case m.goneWake <- struct{}{}:
	default:
	}
}

// disableGone tells the leader that receivers answered 410, or are none, in rounds: what
// could not be told comes again with a later one, and holds up no other webhook.
func (m *Manager) disableGone(ctx context.Context) {
	for {
		var again <-chan time.Time
		if !m.tellGone(ctx) {
			again = time.After(goneRetry)
		}
		select {
		case <-m.goneWake:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// tellGone is one round: it tells the leader of every webhook whose receiver has gone
// or is this installation, and returns whether all could be told.
func (m *Manager) tellGone(ctx context.Context) bool {
	var telling errgroup.Group
	telling.SetLimit(goneCalls)
	for _, g := range m.all() {
		in, ok := g.untold()
		if !ok {
			continue
		}
		telling.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, goneTimeout)
			defer cancel()
			_, err := lead(ctx, m, operationDisable, in, func(ctx context.Context) (change, error) { return m.disable(ctx, in) })
			if err != nil && !errors.Is(err, webhooks.ErrNotFound) {
				m.logger.Error("the webhook could not be disabled, it stays paused here", "webhook", in.ID, "error", err)
				return err
			}
			text := "the receiver answered 410, the leader disables the webhook"
			if in.Looped {
				text = "the webhook's url leads back to this installation, the leader pauses it"
			}
			m.logger.Warn(text, "webhook", in.ID)
			g.told(in.Revision)
			return nil
		})
	}
	return telling.Wait() == nil
}
