package groupmanager

import (
	"context"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/kpush/kpush/internal/telemetry"
	"github.com/kpush/kpush/webhooks"
)

// observe registers the metrics that are read when somebody looks.
func (m *Manager) observe() (unregister func(), err error) {
	lag, err := m.meter.Int64ObservableGauge(telemetry.ConsumerLag, metric.WithUnit(telemetry.UnitRecords),
		metric.WithDescription("Records between the committed offset and the end of the log."))
	if err != nil {
		return nil, err
	}
	age, err := m.meter.Float64ObservableGauge(telemetry.ConsumerLagTime, metric.WithUnit(telemetry.UnitSeconds),
		metric.WithDescription("Age of the oldest record read and not settled; 0 when there is none."))
	if err != nil {
		return nil, err
	}
	flying, err := m.meter.Int64ObservableUpDownCounter(telemetry.DeliveryInFlight, metric.WithUnit(telemetry.UnitRequests),
		metric.WithDescription("Requests under way."))
	if err != nil {
		return nil, err
	}
	states, err := m.meter.Int64ObservableGauge(telemetry.Webhooks, metric.WithUnit(telemetry.UnitWebhooks),
		metric.WithDescription("Webhooks by state."))
	if err != nil {
		return nil, err
	}
	circuit, err := m.meter.Int64ObservableGauge(telemetry.DeliveryCircuit,
		metric.WithDescription("The circuit of a webhook here: 0 closed, 1 half-open, 2 open."))
	if err != nil {
		return nil, err
	}
	r, err := m.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		count := map[webhooks.State]int64{webhooks.Active: 0, webhooks.Paused: 0, webhooks.Degraded: 0, webhooks.Disabled: 0, webhooks.Failed: 0}
		for _, e := range m.registry.List(webhooks.DefaultTenant) {
			count[m.withFailure(e).Webhook.State]++ // each replica tells its own failures
		}
		for state, n := range count {
			o.ObserveInt64(states, n, metric.WithAttributes(attribute.String(telemetry.AttrState, string(state))))
		}
		for _, g := range m.all() {
			g.observe(o, lag, age, flying, circuit)
		}
		return nil
	}, lag, age, flying, states, circuit)
	if err != nil {
		return nil, err
	}
	return func() { _ = r.Unregister() }, nil
}

// observe tells the circuit, the requests under way and the lag of the partitions held here. One whose end or committed
// offset is not known yet has no series: 0 always means caught up.
func (g *group) observe(o metric.Observer, lag metric.Int64Observable, age metric.Float64Observable, flying, circuit metric.Int64Observable) {
	g.mu.Lock()
	m, id := g.member, g.entry.Webhook.ID
	g.mu.Unlock()
	if m == nil {
		return
	}
	now, requests := time.Now(), int64(0)
	for _, h := range m.all() {
		t := h.tenure
		requests += t.inFlight.Load()
		at := metric.WithAttributes(attribute.String(telemetry.AttrWebhook, id),
			attribute.String(telemetry.AttrTopic, t.topic), attribute.String(telemetry.AttrPartition, strconv.Itoa(int(t.partition))))
		end, committed := m.highWatermark(t.topicPartition), m.committer.committed(t)
		if end < 0 || committed < 0 {
			continue
		}
		o.ObserveInt64(lag, max(0, end-committed), at)
		seconds := 0.0
		if oldest := t.oldest.Load(); oldest > 0 {
			seconds = max(0, now.Sub(time.UnixMilli(oldest)).Seconds())
		}
		o.ObserveFloat64(age, seconds, at)
	}
	of := metric.WithAttributes(attribute.String(telemetry.AttrWebhook, id))
	o.ObserveInt64(flying, requests, of)
	o.ObserveInt64(circuit, int64(m.lane.pacer.State()), of)
}
