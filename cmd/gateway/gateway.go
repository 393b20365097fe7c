package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"golang.org/x/sync/errgroup"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/internal/partitionqueue"
	"github.com/kpush/kpush/internal/telemetry"
	"github.com/kpush/kpush/internal/version"
	"github.com/kpush/kpush/replica"
	"github.com/kpush/kpush/server"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/kafkastore"
)

const (
	// shutdownGrace is how long after the drain deadline the process ends for sure.
	shutdownGrace = 5 * time.Second

	// httpGrace is how long requests under way may take to end, once nothing is
	// delivered any more.
	httpGrace = 2 * time.Second

	// telemetryGrace is how long the last spans and metrics may take to be sent.
	telemetryGrace = 2 * time.Second

	// maxDeclarePause is the longest pause between attempts to apply a declared webhook.
	maxDeclarePause = time.Minute
)

// gateway is the running product: everything that serve and dev have in common.
type gateway struct {
	config    Config
	logger    *slog.Logger
	telemetry *telemetry.Telemetry
	registry  *webhooks.Registry
	replica   *replica.Replica
	manager   *groupmanager.Manager
	server    *server.Server

	api, management *listener
}

// listener is an HTTP server and the address it has.
type listener struct {
	net.Listener
	server *http.Server
}

// newGateway checks what can be checked and takes its addresses; nothing is asked
// of Kafka yet.
func newGateway(ctx context.Context, c Config, logger *slog.Logger) (_ *gateway, err error) {
	if err := partitionqueue.Check(); err != nil {
		return nil, err
	}
	c.Replica.ID = replicaID(c)
	g := &gateway{config: c, logger: logger, api: &listener{}, management: &listener{}}
	defer func() {
		if err != nil {
			g.abandon(ctx)
		}
	}()
	if g.api.Listener, err = listen(c.API.Listen, "api-listen"); err != nil {
		return nil, err
	}
	if g.management.Listener, err = listen(c.Management.Listen, "management-listen"); err != nil {
		return nil, err
	}
	if g.config.API.PublicURL == "" {
		g.config.API.PublicURL = publicURL(g.api)
	}
	if g.config.Replica.AdvertisedURL == "" {
		g.config.Replica.AdvertisedURL = advertisedURL(g.api)
	}
	build := version.Get()
	_, librdkafka := kafka.LibraryVersion()
	if g.telemetry, err = telemetry.Setup(ctx, telemetry.Options{
		Version: build.Version, Commit: build.Commit, GoVersion: build.Go, LibrdkafkaVersion: librdkafka,
		InstanceID: c.Replica.ID, Logger: logger,
	}); err != nil {
		return nil, err
	}
	if err := g.wire(build); err != nil {
		return nil, err
	}
	return g, nil
}

// wire makes registry, replica, manager and the two HTTP servers over them.
func (g *gateway) wire(build version.Info) error {
	c := g.config
	keys, err := webhooks.NewKeys(c.SecretKey...)
	if err != nil {
		return err
	}
	guard, err := g.newGuard()
	if err != nil {
		return err
	}
	conf := c.kafka(g.logger)
	store, err := kafkastore.New(kafkastore.Config{
		Kafka: conf, Topic: c.Registry.Topic, ReplicationFactor: c.Registry.ReplicationFactor, Logger: g.logger,
	})
	if err != nil {
		return err
	}
	g.registry = webhooks.NewRegistry(store, keys, g.logger)
	g.replica, err = replica.New(replica.Config{
		Kafka:  conf,
		Topic:  c.Registry.Topic,
		ID:     c.Replica.ID,
		URL:    c.Replica.AdvertisedURL,
		Keys:   keys.Derive("internal-call"),
		Lead:   g.registry.Lead,
		Logger: g.logger,
	})
	if err != nil {
		return err
	}
	g.manager, err = groupmanager.New(groupmanager.Config{
		Kafka:         conf,
		Registry:      g.registry,
		RegistryTopic: c.Registry.Topic,
		Peers:         g.replica,
		Keys:          keys,
		ReplicaID:     c.Replica.ID,
		AckURL:        strings.TrimSuffix(c.API.PublicURL, "/") + "/ack",
		UserAgent:     build.UserAgent(),
		Guard:         guard,
		DrainTimeout:  c.Shutdown.DrainTimeout,

		MaxInFlightBytes: int64(c.Delivery.MaxInFlightBytes),
		MaxConnections:   c.Delivery.MaxConnections,

		Tracing: g.telemetry.Tracing(),
		Logger:  g.logger,
	})
	if err != nil {
		return err
	}
	g.server, err = server.New(server.Config{
		Gateway:        g.manager,
		AdminToken:     c.API.AdminToken,
		InsecureNoAuth: c.API.InsecureNoAuth,
		MaxFailedAcks:  c.API.MaxFailedAcks,
		Internal:       g.replica,
		LoopMarkers:    keys.LoopMarkers(),
		Version:        build,
		Logger:         g.logger,
	})
	if err != nil {
		return err
	}
	g.api.server = server.NewHTTPServer(g.server, g.logger)
	g.management.server = server.NewHTTPServer(g.server.Management(g.telemetry.Handler()), g.logger)
	return nil
}

// run serves until ctx ends or a part of it cannot go on. Then the replica leaves its
// like, so that another one leads, and one after the other: deliveries drain, while
// their acks are still taken, here and from other replicas; the API ends; the replica
// ends, which has still found others for the API; the registry ends; the operators'
// listener ends, which has answered "not ready" all the while; telemetry is sent. It
// returns at the latest shutdownGrace after the drain deadline, whatever hangs.
func (g *gateway) run(ctx context.Context) error {
	ended := make(chan error, 1)
	parts, ctx := errgroup.WithContext(ctx)
	go func() { ended <- g.runParts(ctx, parts) }()

	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	g.logger.Info("stopping", "drain_timeout", g.config.Shutdown.DrainTimeout)
	deadline := g.config.Shutdown.DrainTimeout + shutdownGrace
	select {
	case err := <-ended:
		g.logger.Info("stopped")
		return err
	case <-time.After(deadline):
		return fmt.Errorf("still stopping after %v; giving up", deadline)
	}
}

// runParts starts the parts under one errgroup: if one fails, all end. In an orderly
// end each part's return lets the next one go.
func (g *gateway) runParts(ctx context.Context, parts *errgroup.Group) error {
	last := context.WithoutCancel(ctx)
	apiCtx, stopAPI := context.WithCancel(last)
	replicaCtx, stopReplica := context.WithCancel(last)
	registryCtx, stopRegistry := context.WithCancel(last)
	managementCtx, stopManagement := context.WithCancel(last)
	defer context.AfterFunc(ctx, g.server.Drain)()
	defer context.AfterFunc(ctx, g.replica.Leave)()

	parts.Go(func() error {
		defer stopAPI()
		return g.manager.Run(ctx)
	})
	parts.Go(func() error {
		defer stopReplica()
		return g.api.serve(apiCtx)
	})
	parts.Go(func() error {
		defer stopRegistry()
		return g.takePart(replicaCtx)
	})
	parts.Go(func() error {
		defer stopManagement()
		return g.registry.Run(registryCtx)
	})
	parts.Go(func() error { return g.management.serve(managementCtx) })
	parts.Go(func() error {
		g.declare(ctx)
		return nil
	})
	g.logger.Info("gateway started", "version", version.Get().Version,
		"replica", g.config.Replica.ID, "advertised_url", g.config.Replica.AdvertisedURL,
		"api", g.api.Addr().String(), "management", g.management.Addr().String(),
		"ack_url", g.config.API.PublicURL+"/ack", "brokers", g.config.Kafka.Brokers)
	err := parts.Wait()

	ctx, cancel := context.WithTimeout(last, telemetryGrace)
	defer cancel()
	if lost := g.telemetry.Shutdown(ctx); lost != nil {
		g.logger.Warn("the last telemetry was lost", "error", lost)
	}
	return err
}

// takePart makes this process one of the replicas until ctx ends, once it has read
// the registry: its topic is there then, and whoever leads knows what is in it.
func (g *gateway) takePart(ctx context.Context) error {
	select {
	case <-g.registry.Ready():
		return g.replica.Run(ctx)
	case <-ctx.Done():
		return nil
	}
}

// abandon gives back what newGateway has taken, if it fails or what runs it does
// before run.
func (g *gateway) abandon(ctx context.Context) {
	for _, l := range []*listener{g.api, g.management} {
		if l.Listener != nil {
			l.Close()
		}
	}
	if g.telemetry != nil {
		g.telemetry.Shutdown(ctx)
	}
}

// declare applies the webhooks of the configuration file, each until it succeeds: a
// topic that does not exist yet may come.
func (g *gateway) declare(ctx context.Context) {
	if len(g.config.Webhooks) == 0 {
		return
	}
	select {
	case <-g.registry.Ready():
	case <-ctx.Done():
		return
	}
	var declared errgroup.Group
	for _, w := range g.config.Webhooks {
		declared.Go(func() error {
			return retry(ctx, maxDeclarePause, g.logger.With("webhook", w.ID), "applying the declared webhook", func() error {
				_, created, err := g.manager.Put(ctx, w, nil)
				if err == nil {
					g.logger.Info("declared webhook applied", "webhook", w.ID, "created", created)
				}
				return err
			})
		})
	}
	declared.Wait() // errors mean that ctx ended
}

// serve answers requests until ctx ends, then lets those under way end for httpGrace.
func (l *listener) serve(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- l.server.Serve(l.Listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serving %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), httpGrace)
	defer cancel()
	if l.server.Shutdown(ctx) != nil {
		l.server.Close()
	}
	<-ended // http.ErrServerClosed
	return nil
}

// newLogger writes to w as configured, with the ids of the span at hand.
func newLogger(c LogConfig, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: c.Level, ReplaceAttr: readableDuration}
	var h slog.Handler = slog.NewJSONHandler(w, opts)
	if c.Format == logText {
		h = slog.NewTextHandler(w, opts)
	}
	return slog.New(telemetry.LogHandler(h))
}

// readableDuration writes durations with their unit; JSON would have nanoseconds.
func readableDuration(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// replicaID is the replica's id: the one configured, or that by which Kafka knows the
// replica over restarts, or one made up.
func replicaID(c Config) string {
	return cmp.Or(c.Replica.ID, c.Kafka.GroupInstanceID, randomReplicaID())
}

// randomReplicaID is the host's name and what tells two processes on it apart.
func randomReplicaID() string {
	name, err := os.Hostname()
	if err != nil {
		name = "gateway"
	}
	var suffix [3]byte
	rand.Read(suffix[:]) // never fails
	return name + "-" + hex.EncodeToString(suffix[:])
}
