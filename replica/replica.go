package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kpush/kpush/internal/kafkaconf"
)

// Config is what a Replica is made from. All fields but Logger are required.
type Config struct {
	Kafka kafkaconf.Config // valid
	Topic string           // of the registry; the control group is <topic>.control

	ID  string // see CheckID
	URL string // where other replicas reach this one's ServeHTTP; see CheckURL

	// Keys authenticate calls between replicas: the first signs, all of them
	// verify. They are the same for all replicas of an installation, and secret.
	Keys [][]byte

	// Lead is called whenever this replica becomes the leader. It leads until ctx
	// ends, which it does when the leadership is taken away; should it return
	// before, it is called again, with backoff. It is never called while a former
	// call of it goes on. Another replica leads at the latest leadGrace after the
	// end of ctx, whether it has returned or not.
	Lead func(ctx context.Context) error

	Logger *slog.Logger // default: none
}

// groupSuffix makes the name of the control group from that of the topic.
const groupSuffix = ".control"

// Replica is this process among its like. All methods may be called concurrently,
// but for Handle, which comes first.
type Replica struct {
	self       Peer
	topic      string
	group      string
	kafka      kafkaconf.Config // its ClientID is the one of the control group
	lead       func(ctx context.Context) error
	logger     *slog.Logger
	keys       keys
	nonces     *nonces
	operations map[string]operation
	transport  *http.Transport
	directory  *directory

	leads    atomic.Bool // it owns the partition
	leaving  chan struct{}
	leave    sync.Once // closes leaving
	badClock atomic.Pointer[time.Time]
}

// New makes a Replica; nothing is asked of Kafka before Run.
func New(cfg Config) (*Replica, error) {
	cfg.URL = strings.TrimSuffix(cfg.URL, "/")
	if err := CheckID(cfg.ID); err != nil {
		return nil, fmt.Errorf("the replica's id %w", err)
	}
	if err := CheckURL(cfg.URL); err != nil {
		return nil, fmt.Errorf("the replica's address: %w", err)
	}
	if cfg.Topic == "" || len(cfg.Keys) == 0 || cfg.Lead == nil {
		return nil, errors.New("a replica needs the registry's topic, keys, and to know how to lead")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Replica{
		self:       Peer{ID: cfg.ID, URL: cfg.URL, Instance: cfg.Kafka.InstanceID},
		topic:      cfg.Topic,
		group:      cfg.Topic + groupSuffix,
		kafka:      cfg.Kafka,
		lead:       cfg.Lead,
		logger:     cfg.Logger,
		keys:       cfg.Keys,
		nonces:     newNonces(maxNonces),
		operations: map[string]operation{},
		transport:  newTransport(),
		leaving:    make(chan struct{}),
	}
	r.kafka.ClientID = r.self.clientID()
	r.directory = newDirectory(r.group, r.topic, r.logger)
	return r, nil
}

// Run takes part until ctx ends, and leads when it is this replica's turn. It
// blocks and is called once, when the registry's topic exists. Its error is one by
// which Kafka's client could not be made.
func (r *Replica) Run(ctx context.Context) error {
	defer r.transport.CloseIdleConnections()
	parts, ctx := errgroup.WithContext(ctx)
	belonging, leave := context.WithCancel(ctx)
	defer leave()
	parts.Go(func() error {
		select {
		case <-r.leaving:
			leave()
		case <-ctx.Done():
		}
		return nil
	})
	parts.Go(func() error {
		r.belong(belonging)
		return nil
	})
	parts.Go(func() error { return r.directory.run(ctx, r.kafka.Admin()) })
	return parts.Wait()
}

// Leave makes the replica give up its leadership and leave the control group, for
// good. Until Run's context ends its peers are still found and called.
func (r *Replica) Leave() { r.leave.Do(func() { close(r.leaving) }) }

// Self is this replica.
func (r *Replica) Self() Peer { return r.self }

// Leader is the replica that writes the registry, maybe this one. ErrNoLeader when
// there is none now, or when that could not be found out. fresh asks Kafka anew
// instead of believing what was true a moment ago.
func (r *Replica) Leader(ctx context.Context, fresh bool) (Peer, error) {
	since := time.Now()
	if !fresh {
		if r.leads.Load() {
			return r.self, nil
		}
		since = since.Add(-trusted)
	}
	v, err := r.directory.look(ctx, since)
	switch {
	case err == nil && v.leader != (Peer{}) && v.leader != r.self:
		return v.leader, nil
	case r.leads.Load():
		return r.self, nil // also during a rebalance, of which Kafka tells no owners
	case err != nil:
		return Peer{}, fmt.Errorf("%w: %w", ErrNoLeader, err)
	default: // nobody, or a former process of our name whose session has not run out
		return Peer{}, ErrNoLeader
	}
}

// Others are the live replicas besides this one, as they are now.
func (r *Replica) Others(ctx context.Context) ([]Peer, error) {
	v, err := r.directory.look(ctx, time.Now())
	if err != nil {
		return nil, err
	}
	var others []Peer
	for _, p := range v.peers {
		if p != r.self {
			others = append(others, p)
		}
	}
	return others, nil
}

// Find returns the replica of an id, also one that has left the control group in
// the last two minutes, or whose group cannot be asked now. ErrUnknownPeer.
func (r *Replica) Find(ctx context.Context, id string) (Peer, error) {
	if id == r.self.ID {
		return r.self, nil
	}
	v, err := r.directory.look(ctx, time.Now().Add(-trusted))
	if err == nil && !v.live(id) { // it may have come since
		_, err = r.directory.look(ctx, time.Now())
	}
	if p, ok := r.directory.remembered(id); ok {
		return p, nil
	}
	if err != nil {
		return Peer{}, fmt.Errorf("%w: %w", ErrUnknownPeer, err)
	}
	return Peer{}, ErrUnknownPeer
}
