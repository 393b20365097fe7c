package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/internal/kafkaconf"
)

const (
	// trusted is how old an answer may be that is not asked for anew.
	trusted = time.Second

	// failureTrusted is how long nobody asks again after a failure, which may have
	// cost the one who asked all of describeTimeout.
	failureTrusted = time.Second

	// remembered is how long a replica is found that is not in the group any more:
	// what it has under way may take its time to end.
	remembered = 2 * time.Minute

	// glance is how often the group is looked at if nobody asks, so that there is
	// something to remember.
	glance = 15 * time.Second

	// describeTimeout bounds one question to Kafka.
	describeTimeout = 3 * time.Second
)

// view is the control group as Kafka described it. It is never changed.
type view struct {
	asked, told time.Time
	err         error // why there is no description

	peers  []Peer // the live members, each once
	leader Peer   // the owner of the partition; zero if there is none

	seen map[string]sighting // by id; who was a member lately, whatever err says
}

type sighting struct {
	Peer
	at time.Time
}

// live tells whether there is a member of that id.
func (v *view) live(id string) bool {
	return slices.ContainsFunc(v.peers, func(p Peer) bool { return p.ID == id })
}

// directory knows the members of the control group by asking Kafka. All who ask
// meanwhile share one question: its goroutine asks, and nobody else.
type directory struct {
	group, topic string
	logger       *slog.Logger

	questions chan question
	last      atomic.Pointer[view] // nil before the first
	started   chan struct{}        // closed by answer
	ended     chan struct{}        // closed when answer has returned

	// Owned by answer.
	warned  bool // of a foreign member
	failing bool // to describe the group
}

// question asks for a view that was asked for after since.
type question struct {
	since time.Time
	reply chan<- *view // has room for one
}

// errNotRunning says that there is nobody to ask: Run has not begun, or has ended.
var errNotRunning = errors.New("the replica does not take part")

func newDirectory(group, topic string, logger *slog.Logger) *directory {
	return &directory{
		group: group, topic: topic, logger: logger,
		questions: make(chan question),
		started:   make(chan struct{}),
		ended:     make(chan struct{}),
	}
}

// look returns a view of the group that was asked for after since. A
// failure counts as one for failureTrusted. Errors are ctx's and what came of
// asking.
func (d *directory) look(ctx context.Context, since time.Time) (*view, error) {
	v := d.last.Load()
	if !v.answers(since, time.Now()) {
		select {
		case <-d.started:
		default:
			return nil, errNotRunning
		}
		reply := make(chan *view, 1)
		select {
		case d.questions <- question{since, reply}:
		case <-d.ended:
			return nil, errNotRunning
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		select {
		case v = <-reply:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if v.err != nil {
		return nil, v.err
	}
	return v, nil
}

// answers tells whether a view will do for a question.
func (v *view) answers(since, now time.Time) bool {
	switch {
	case v == nil:
		return false
	case v.err != nil:
		return now.Sub(v.told) < failureTrusted
	default:
		return v.asked.After(since)
	}
}

// remembered returns who bore an id lately, without asking.
func (d *directory) remembered(id string) (Peer, bool) {
	v := d.last.Load()
	if v == nil {
		return Peer{}, false
	}
	s, ok := v.seen[id]
	return s.Peer, ok && time.Since(s.at) < remembered
}

// run asks Kafka until ctx ends.
func (d *directory) run(ctx context.Context, conf kafka.ConfigMap) error {
	admin, err := kafka.NewAdminClient(&conf)
	if err != nil {
		return fmt.Errorf("making the admin client: %w", err)
	}
	defer admin.Close()
	d.answer(ctx, func() (kafka.ConsumerGroupDescription, error) { return describe(admin, d.group) })
	return nil
}

// answer answers questions until ctx ends.
func (d *directory) answer(ctx context.Context, describe func() (kafka.ConsumerGroupDescription, error)) {
	defer close(d.ended)
	close(d.started)
	idle := time.NewTimer(0)
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-idle.C:
			d.ask(describe)
		case q := <-d.questions:
			if !d.last.Load().answers(q.since, time.Now()) {
				d.ask(describe)
			}
			q.reply <- d.last.Load()
		}
		idle.Reset(glance)
	}
}

// describe asks Kafka for a group. The context bounds it, see CoordinatorTimeout.
func describe(admin *kafka.AdminClient, group string) (kafka.ConsumerGroupDescription, error) {
	var none kafka.ConsumerGroupDescription
	ctx, cancel := context.WithTimeout(context.Background(), describeTimeout)
	defer cancel()
	result, err := admin.DescribeConsumerGroups(ctx, []string{group}, kafka.SetAdminRequestTimeout(kafkaconf.CoordinatorTimeout))
	if err != nil {
		return none, err
	}
	if len(result.ConsumerGroupDescriptions) != 1 {
		return none, errors.New("the broker said nothing of it")
	}
	description := result.ConsumerGroupDescriptions[0]
	switch description.Error.Code() {
	case kafka.ErrNoError, kafka.ErrGroupIDNotFound: // without a member there is no group
		return description, nil
	default:
		return none, description.Error
	}
}

// ask makes the next view.
func (d *directory) ask(describe func() (kafka.ConsumerGroupDescription, error)) {
	v := &view{asked: time.Now()}
	description, err := describe()
	v.told = time.Now()
	if err != nil {
		v.err = fmt.Errorf("describing the control group %s: %w", d.group, err)
	}
	if failing := err != nil; failing != d.failing {
		d.failing = failing
		if failing {
			d.logger.Warn("the control group cannot be described, other replicas are not found", "group", d.group, "error", err)
		} else {
			d.logger.Info("the control group can be described again", "group", d.group)
		}
	}
	for _, m := range description.Members {
		d.enter(v, m)
	}
	v.seen = d.sightings(v)
	d.last.Store(v)
}

// enter adds a member to a view.
func (d *directory) enter(v *view, m kafka.MemberDescription) {
	p, ok := parsePeer(m.ClientID)
	if !ok {
		if !d.warned {
			d.logger.Warn("somebody who is no replica is a member of the control group; registrations stand still while it owns the partition",
				"group", d.group, "client_id", m.ClientID, "host", m.Host)
		}
		d.warned = true
		return
	}
	if !slices.Contains(v.peers, p) {
		v.peers = append(v.peers, p)
	}
	for _, tp := range m.Assignment.TopicPartitions {
		if tp.Topic != nil && *tp.Topic == d.topic && tp.Partition == 0 {
			v.leader = p
		}
	}
}

// sightings are those of the last view that are not too old, and those of this one.
func (d *directory) sightings(v *view) map[string]sighting {
	seen := map[string]sighting{}
	if last := d.last.Load(); last != nil {
		maps.Copy(seen, last.seen)
	}
	maps.DeleteFunc(seen, func(_ string, s sighting) bool { return v.told.Sub(s.at) >= remembered })
	for _, p := range v.peers {
		seen[p.ID] = sighting{p, v.asked}
	}
	return seen
}
