package delivery

import (
	"context"
	"time"

	"github.com/kpush/kpush/internal/records"
)

// SampleHeader is in a sample's request, whatever the webhook's format, and in no
// delivery's. In an envelope the type is "kafka.records.test", too.
const SampleHeader = "kpush-test"

// What a sample has in place of what it would be acked by. The topic is no webhook's
// by any pattern, so that a receiver which remembers what it has seen does not take a
// record for the sample; the generation is refused in every ack, and so is the token.
const (
	sampleTopic      = "__kpush_test"
	sampleGeneration = -1
	sampleToken      = "test"
)

// Sample makes one attempt to deliver one invented record, in the webhook's format,
// signed and authenticated like any other; id is the delivery's. It is bounded as Send
// is, and ctx bounds the fetching of a token, too.
func (c *Client) Sample(ctx context.Context, id string, now time.Time) Result {
	b := records.Get()
	defer b.Free()
	b.Append(records.Record{Timestamp: now.UnixMilli(), TimestampType: records.TimestampCreate},
		[]byte("test"), []byte(`{"test":true,"text":"This record was invented by kpush. It is in no topic."}`))
	b.AppendHeader([]byte(SampleHeader), []byte("true"))
	m := c.Encode(id, sampleTopic, 0, b, 0, 1)
	defer m.Free()
	return c.Send(ctx, m, Attempt{Number: 1, Generation: sampleGeneration, Token: sampleToken, Now: now, Sample: true})
}
