package groupmanager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/kpush/kpush/internal/kafkaconf"
	"github.com/kpush/kpush/internal/partitionqueue"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

const (
	// Backoff between two lives of a member.
	restartInitial = time.Second
	restartMax     = time.Minute
	// minLife is how long a member has to live for its successor to begin
	// without a grudge.
	minLife = 5 * time.Second

	// Statistics tell of the coordinator's signs of life, often enough for a lease.
	statisticsPart = 10
	minStatistics  = 250 * time.Millisecond
)

// Why a member is stopped while its group goes on, or for good.
var (
	errReconfigured = errors.New("the webhook was changed")
	errStopped      = errors.New("the group was stopped")
)

// group is one webhook at run time. It supervises its member alone: whatever
// happens to it, other groups do not notice.
type group struct {
	shared *shared
	logger *slog.Logger
	memory *memory          // of committed offsets, over the lives of members
	signer *delivery.Signer // of all requests; its keys are those of entry
	retry  chan struct{}    // ends a backoff; one slot
	done   chan struct{}    // closed when run has returned

	// Written under mu, read by partitions without it. The revision comes first: what
	// is sent because the webhook was resumed is sent at the revision that did it.
	revision atomic.Int64 // of entry
	paused   atomic.Bool  // nothing new is sent

	mu     sync.Mutex
	entry  webhooks.Entry
	gone   bool    // the receiver wants no more of entry, and the leader does not know yet
	looped bool    // with gone: it answered no 410, but is this installation itself
	member *member // nil between two lives
	topics map[string]topicInfo
	reason string                  // why it cannot run; empty when it can
	cancel context.CancelCauseFunc // of the member's life
	ended  bool
}

func newGroup(s *shared, e webhooks.Entry) *group {
	g := &group{
		shared: s, entry: e,
		logger: s.logger.With("webhook", e.Webhook.ID, "group", e.Webhook.GroupID),
		memory: newMemory(),
		signer: delivery.NewSigner(e),
		retry:  make(chan struct{}, 1),
		done:   make(chan struct{}),
		cancel: func(error) {},
	}
	g.revision.Store(e.Revision)
	g.paused.Store(e.Webhook.State != webhooks.Active)
	return g
}

// run keeps a member alive until ctx ends. It first waits for a former group of
// the same webhook, whose member may still be leaving.
func (g *group) run(ctx context.Context, former <-chan struct{}) {
	defer close(g.done)
	if former != nil {
		<-former
	}
	backoff := restartInitial
	for ctx.Err() == nil && !g.stopped() {
		began := time.Now()
		err := g.live(ctx)
		switch {
		case ctx.Err() != nil || g.stopped():
			return
		case err == nil || errors.Is(err, errReconfigured) || errors.Is(err, errOffsetsReset):
			backoff = restartInitial
			continue
		}
		if time.Since(began) >= minLife {
			backoff = restartInitial
		}
		g.failed(err)
		if errors.Is(err, errInstanceFenced) {
			g.fenced(ctx, err)
			continue
		}
		wait := backoff/2 + rand.N(backoff/2)
		g.logger.Error("the group stopped and will begin again", "error", err, "reason", g.failure(), "retry_in", wait)
		backoff = min(2*backoff, restartMax)
		select {
		case <-time.After(wait):
		case <-g.retry:
			backoff = restartInitial
		case <-ctx.Done():
		}
	}
}

// fenced waits until somebody resumes the webhook. Joining again would fence the
// other process, which would join again.
func (g *group) fenced(ctx context.Context, err error) {
	g.logger.Error("the group stopped until the webhook is resumed or the process is restarted", "error", err)
	select {
	case <-g.retry:
	case <-ctx.Done():
	}
}

// live runs one member to its end.
func (g *group) live(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	select {
	case <-g.retry: // this life is what it asked for, not the end of a pause to come
	default:
	}
	g.mu.Lock()
	if g.ended {
		g.mu.Unlock()
		return errStopped
	}
	g.cancel = cancel
	w, pinned := g.entry.Webhook, g.entry.Pinned
	g.mu.Unlock()

	topics, err := g.shared.cluster.resolve(ctx, w)
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.topics = topics
	g.mu.Unlock()
	sending := g.shared.clientConfig(w, g.signer)
	if sending.Tokens, err = delivery.NewTokenSource(sending); err != nil {
		return fmt.Errorf("making the source of access tokens: %w", err)
	}
	if sending.Tokens != nil {
		defer sending.Tokens.Close()
	}
	client, err := delivery.NewClient(sending)
	if err != nil {
		return fmt.Errorf("making the delivery client: %w", err)
	}
	defer client.Close()
	told, endCalls, err := g.lifecycle(sending)
	if err != nil {
		return err
	}
	defer endCalls()
	m, logs, err := g.join(ctx, w, client)
	if err != nil {
		return err
	}
	defer logs()
	g.mu.Lock()
	m.lifecycle, m.pinned = told, pinned
	g.member, g.reason = m, ""
	g.mu.Unlock()
	err = m.run(ctx, w.Topics)
	g.mu.Lock()
	g.member = nil
	g.mu.Unlock()
	if err == nil {
		err = context.Cause(ctx)
	}
	return err
}

// clientConfig is what whatever sends requests for a webhook is made from.
func (s *shared) clientConfig(w webhooks.Webhook, signer *delivery.Signer) delivery.Config {
	return delivery.Config{
		Webhook: w, Signer: signer, AckURL: s.cfg.AckURL, UserAgent: s.cfg.UserAgent,
		Guard: s.cfg.Guard, LoopMarker: s.cfg.Keys.LoopMarkers()[0],
	}
}

// lifecycle makes what tells the receiver of partitions, nil if it wants to hear
// nothing; end closes its connections, after the member has left.
func (g *group) lifecycle(cfg delivery.Config) (l *lifecycle, end func(), err error) {
	w := cfg.Webhook
	if w.Lifecycle == nil {
		return nil, func() {}, nil
	}
	n, err := delivery.NewNotifier(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("making the client of lifecycle calls: %w", err)
	}
	return newLifecycle(n, w.Retry, g.logger), n.Close, nil
}

// join makes the member; logs ends the reading of its client's log, after the member has left.
func (g *group) join(ctx context.Context, w webhooks.Webhook, client *delivery.Client) (m *member, logs func(), err error) {
	s := g.shared
	metrics, err := newInstruments(s.meter, w.ID)
	if err != nil {
		return nil, nil, fmt.Errorf("making metrics: %w", err)
	}
	accepts, err := filterOf(w)
	if err != nil {
		return nil, nil, err
	}
	conf := s.cfg.Kafka.Consumer(w, s.cluster.registryTopic)
	session := s.leaseOf(ctx, conf)
	conf["statistics.interval.ms"] = int(max(minStatistics, session/statisticsPart).Milliseconds())
	born := time.Now()
	consumer, err := kafka.NewConsumer(&conf)
	if err != nil {
		return nil, nil, fmt.Errorf("making the consumer: %w", err)
	}
	logs = s.readLogs(consumer.Logs())
	queues, err := partitionqueue.Open(consumer)
	if err != nil {
		err = errors.Join(fmt.Errorf("opening the partition queues: %w", err), consumer.Close())
		logs()
		return nil, nil, err
	}
	m = &member{
		consumer: consumer, queues: queues, paused: &g.paused,
		describe: func(topic string, partition int32) (topicInfo, error) { return g.describe(ctx, topic, partition) },
		look:     func(topic string) (topicInfo, error) { return g.look(ctx, topic) },
		memory:   g.memory,
		says:     s.cfg.Kafka.InstanceID == "" && s.cfg.Kafka.GroupProtocol != kafkaconf.ConsumerKIP848,
		drain:    min(s.cfg.DrainTimeout, rebalanceTimeout(conf)*6/10),
		born:     born, session: session, maxPoll: rebalanceTimeout(conf),
		logger:  g.logger,
		orders:  make(chan order),
		done:    make(chan struct{}),
		crashed: make(map[topicPartition]*crash),
		held:    make(map[topicPartition]held),
		reset:   w.OffsetReset,
		fenced: func() {
			g.failed(errInstanceFenced)
			g.logger.Error("another process has joined the group with this one's kafka.group_instance_id", "instance_id", s.cfg.Kafka.InstanceID)
		},
		static: s.cfg.Kafka.InstanceID != "",
	}
	m.current.Store(-1)
	m.committer = newCommitter(m.commit, queues.Generation, metrics, g.logger)
	pacer := s.pacer(w, metrics)
	m.lane = &laneConfig{
		webhook: w, client: client, dead: s.dead, filter: accepts, tokens: s.tokens, ids: s.ids,
		generation: m.current.Load, publish: m.committer.publish, note: m.committer.note, lease: &m.lease,
		revision: g.revision.Load, gone: g.departed,
		pacer:   pacer,
		metrics: metrics,
		tracer:  &tracer{tracer: s.tracer, on: s.cfg.Tracing, group: w.GroupID},
		owner:   s.cfg.ReplicaID, logger: g.logger,
	}
	return m, logs, nil
}

// failed keeps the reason that the API shows. Kafka being away is none: the
// webhook is fine and goes on when it is back.
func (g *group) failed(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reason = reasonOf(err)
}

// reasonFenced is the reason of a group whose member was replaced by another
// process's with the same group.instance.id.
const reasonFenced = "instance_fenced"

// reasonOf names a failure; empty for those that time alone heals.
func reasonOf(err error) string {
	var topic *TopicError
	switch {
	case errors.As(err, &topic), errors.Is(err, errTopicGone):
		return "topic_not_found"
	case errors.Is(err, errOffsetOutOfRange):
		return "offset_out_of_range"
	case errors.Is(err, errCommitGone):
		return "committed_offset_gone"
	case errors.Is(err, errWentBack):
		return "committed_offset_went_back"
	case errors.Is(err, errInstanceFenced):
		return reasonFenced
	case errors.Is(err, errNotAuthorized):
		return "not_authorized"
	case errors.Is(err, errFilter):
		return "filter_invalid"
	case errors.Is(err, errLeaked):
		return "internal"
	}
	var unreadable *partitionqueue.Error
	if errors.As(err, &unreadable) {
		return "fetch_failed"
	}
	var k kafka.Error
	if errors.As(err, &k) && k.IsFatal() {
		return "kafka_client_failed"
	}
	return ""
}

// failure is why the group cannot run, or that its receiver is sick; empty when all is
// well, or only has to wait.
func (g *group) failure() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reason == "" && g.member != nil {
		return degradation(g.member.lane.pacer)
	}
	return g.reason
}

// webhook is the webhook as it stands.
func (g *group) webhook() webhooks.Webhook {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.entry.Webhook
}

// is tells whether this group runs that webhook, and not a former one of its name.
func (g *group) is(w webhooks.Webhook) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.ended && g.entry.Webhook.GroupID == w.GroupID && g.entry.Webhook.CreatedAt.Equal(w.CreatedAt)
}

func (g *group) stopped() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ended
}

// update takes a changed webhook. A change of what the member was made from gives
// it a new life; pausing, resuming and a rotation of its signing keys do not.
func (g *group) update(e webhooks.Entry) {
	g.mu.Lock()
	before := g.entry
	if before.Revision == e.Revision {
		g.mu.Unlock()
		return
	}
	g.entry, g.gone, g.looped = e, false, false
	g.revision.Store(e.Revision)
	g.paused.Store(e.Webhook.State != webhooks.Active)
	g.signer.Set(e)
	cancel := g.cancel
	member := g.member
	g.mu.Unlock()
	resumed := e.Webhook.State == webhooks.Active && before.Webhook.State != webhooks.Active
	if member != nil {
		for _, h := range member.all() {
			h.nudge()
		}
	}
	if !sameLife(before, e) {
		cancel(errReconfigured)
	}
	if resumed || !sameLife(before, e) {
		g.again()
	}
}

// departed is told by partitions that an attempt that began at a revision was answered
// 410, or came back to this installation (Gone, Looped). Nothing new is sent, and the
// leader is told. If the webhook was changed since, by somebody who resumed it for
// one, the attempt has failed and no more than that: the next such answer tells it
// again. It never waits.
func (g *group) departed(v delivery.Verdict, revision int64) {
	g.mu.Lock()
	now := g.entry.Revision == revision
	if now {
		g.gone, g.looped = true, v == delivery.Looped
		g.paused.Store(true)
	}
	g.mu.Unlock()
	if now {
		g.shared.gone()
	}
}

// untold is what the leader is to do, if the receiver has answered 410 or is this
// installation and the leader does not know.
func (g *group) untold() (in disableRequest, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	w := g.entry.Webhook
	return disableRequest{quiesceRequest{webhookTarget{w.Tenant, w.ID}, g.entry.Revision}, g.looped}, g.gone && !g.ended
}

// told is called when the leader knows what became of the receiver at a revision.
// What it makes of that comes by the registry.
func (g *group) told(revision int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.entry.Revision == revision {
		g.gone = false
	}
}

// again ends a backoff.
func (g *group) again() {
	select {
	case g.retry <- struct{}{}:
	default:
	}
}

// quiesce returns once nothing new is sent to the receiver any more because of what
// stood in the registry before the revision. Requests under way may go on. A webhook
// that is past that revision already, resumed or made anew, is left alone.
func (g *group) quiesce(ctx context.Context, revision int64) {
	g.mu.Lock()
	m, past := g.member, g.entry.Revision > revision
	if !past {
		g.paused.Store(true)
	}
	g.mu.Unlock()
	if m == nil || past {
		return
	}
	for _, h := range m.all() {
		h.inspect(ctx) // it has gone through its loop since, and has seen the pause
	}
}

// hush returns once no lifecycle call is begun any more, after stop.
func (g *group) hush(ctx context.Context) {
	g.mu.Lock()
	m := g.member
	g.mu.Unlock()
	if m != nil {
		m.lifecycle.hush(ctx)
	}
}

// stop ends the group for good; done tells when it has left.
func (g *group) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = true
	g.cancel(errStopped)
	g.again()
}

// find returns the live partition and the member.
func (g *group) find(tp topicPartition) (m *member, h held, ok bool) {
	g.mu.Lock()
	m = g.member
	g.mu.Unlock()
	if m != nil {
		h, ok = m.find(tp)
	}
	return m, h, ok
}

// describe tells what is known of a topic, and asks about one, or a partition of
// one, that is not known yet: a pattern's topics come one by one, and topics grow.
func (g *group) describe(ctx context.Context, topic string, partition int32) (topicInfo, error) {
	g.mu.Lock()
	info, ok := g.topics[topic]
	g.mu.Unlock()
	if ok && partition < info.partitions {
		return info, nil
	}
	return g.look(ctx, topic)
}

// look asks the cluster about a topic and keeps what it says.
func (g *group) look(ctx context.Context, topic string) (topicInfo, error) {
	found, err := g.shared.cluster.topics(ctx, []string{topic})
	if err != nil {
		return topicInfo{}, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.topics = maps.Clone(g.topics) // others may be reading it
	if g.topics == nil {
		g.topics = make(map[string]topicInfo)
	}
	g.topics[topic] = found[topic]
	return found[topic], nil
}
