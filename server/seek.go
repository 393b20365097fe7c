package server

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/server/api"
	"github.com/kpush/kpush/webhooks"
)

// maxSeekPartitions is how many partitions a seek may name one by one.
const maxSeekPartitions = 10_000

// SeekWebhook moves the committed offsets of a webhook's group.
func (o operations) SeekWebhook(ctx context.Context, r api.SeekWebhookRequestObject) (api.SeekWebhookResponseObject, error) {
	request, err := decodeSeek(*r.Body)
	if err != nil {
		return nil, err
	}
	request.DryRun = r.Params.DryRun != nil && *r.Params.DryRun
	moves, err := o.gateway.Seek(ctx, tenant, r.ID, request)
	if err != nil {
		return nil, err
	}
	result := api.SeekResult{Data: make([]api.SeekMove, len(moves)), DryRun: request.DryRun}
	for i, m := range moves {
		result.Data[i] = api.SeekMove{Topic: m.Topic, Partition: m.Partition, From: m.From, To: m.To}
	}
	return api.SeekWebhook200JSONResponse{Body: result}, nil
}

// decodeSeek reads where to seek to: a word, or an object of one field that says
// what it means. Errors are *invalidError.
func decodeSeek(body json.RawMessage) (groupmanager.SeekRequest, error) {
	o, err := readObject(body)
	if err != nil {
		return groupmanager.SeekRequest{}, err
	}
	o.refuseBeside("to")
	o.require("to")
	var r groupmanager.SeekRequest
	if to, ok := o.values["to"]; ok && to[0] == '{' {
		r = o.seekTarget(to)
	} else if r.To, ok = o.text("to"); ok && r.To != webhooks.StartEarliest && r.To != webhooks.StartLatest {
		o.complain("/to", "must be earliest, latest, or an object with a time or partitions")
	}
	return r, o.err()
}

// seekTarget reads the object that "to" may be.
func (o *object) seekTarget(data json.RawMessage) (r groupmanager.SeekRequest) {
	to, ok := o.within("/to", data)
	if !ok {
		return r
	}
	to.refuseBeside("time", "partitions")
	_, byTime := to.values["time"]
	_, byPartition := to.values["partitions"]
	switch {
	case byTime && byPartition:
		to.complain("/partitions", "must not stand beside time")
	case byTime:
		r.Time = to.time("time")
	case byPartition:
		r.Partitions = to.seekPartitions()
	default:
		to.complain("", "must have a time or partitions")
	}
	return r
}

func (o *object) seekPartitions() []groupmanager.SeekPartition {
	values, ok := o.array("partitions", 1, maxSeekPartitions, "partitions")
	if !ok {
		return nil
	}
	type place struct {
		topic     string
		partition int32
	}
	partitions := make([]groupmanager.SeekPartition, 0, len(values))
	seen := make(map[place]bool, len(values))
	for i, value := range values {
		p, ok := o.within(fmt.Sprintf("/partitions/%d", i), value)
		if !ok {
			continue
		}
		p.refuseBeside("topic", "partition", "offset")
		for _, name := range []string{"topic", "partition", "offset"} {
			p.require(name)
		}
		topic, named := p.text("topic")
		partition, numbered := p.integer("partition", 0, math.MaxInt32)
		offset, _ := p.integer("offset", 0, math.MaxInt64)
		at := place{topic, int32(partition)}
		if named && numbered && seen[at] {
			p.complain("", "is a partition given twice")
		}
		seen[at] = true
		partitions = append(partitions, groupmanager.SeekPartition{Topic: topic, Partition: int32(partition), Offset: offset})
	}
	return partitions
}

// time reads an RFC 3339 time, not before 1970: in Kafka's protocol negative times
// are words of their own.
func (o *object) time(name string) *time.Time {
	text, ok := o.text(name)
	if !ok {
		return nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.UnixMilli() < 0 {
		o.complain(pointerTo(name), "must be an RFC 3339 time from 1970 on")
		return nil
	}
	return &t
}
