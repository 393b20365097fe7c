package server

import (
	"cmp"
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/server/api"
)

func (o operations) ListPartitions(ctx context.Context, r api.ListPartitionsRequestObject) (api.ListPartitionsResponseObject, error) {
	limit, err := parseLimit(r.Params.Limit)
	if err != nil {
		return nil, err
	}
	after, err := parsePlace(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := o.gateway.Partitions(ctx, tenant, r.ID)
	if err != nil {
		return nil, err
	}
	page := api.PartitionList{Data: []api.Partition{}}
	for _, row := range rows {
		if !after.before(row) {
			continue
		}
		if len(page.Data) == limit {
			last := page.Data[limit-1]
			page.NextCursor = place{last.Topic, last.Partition}.cursor()
			break
		}
		page.Data = append(page.Data, partition(row))
	}
	return api.ListPartitions200JSONResponse{Body: page}, nil
}

// place is where a partition stands in the order of the list; the zero value is
// before all.
type place struct {
	topic     string
	partition int32
}

func (p place) before(row groupmanager.PartitionStatus) bool {
	return cmp.Or(cmp.Compare(p.topic, row.Topic), cmp.Compare(p.partition, row.Partition)) < 0
}

// cursor has the partition behind a separator that no topic's name has in it.
func (p place) cursor() *string { return cursor(p.topic + "/" + strconv.Itoa(int(p.partition))) }

// parsePlace returns the place after which a page begins.
func parsePlace(c *string) (place, error) {
	text, err := parseCursor(c)
	if err != nil || text == "" {
		return place{}, err
	}
	topic, number, found := strings.Cut(text, "/")
	partition, err := strconv.ParseInt(number, 10, 32)
	if err != nil || !found {
		return place{}, errCursor
	}
	return place{topic, int32(partition)}, nil
}

// partition is a row as it is answered. What is not known is null.
func partition(p groupmanager.PartitionStatus) api.Partition {
	row := api.Partition{
		Topic:           p.Topic,
		Partition:       p.Partition,
		State:           api.PartitionState(p.State),
		CommittedOffset: p.CommittedOffset,
		DeliveredOffset: p.DeliveredOffset,
		EndOffset:       p.EndOffset,
		Lag:             p.Lag,
		Filtered:        p.Filtered,
		InFlight:        p.InFlight,
		Attempt:         p.Attempt,
		NextAttemptAt:   utc(p.NextAttemptAt),
	}
	if p.Owner != "" {
		row.Owner = &p.Owner
	}
	if p.Generation >= 0 {
		row.Generation = &p.Generation
	}
	if e := p.LastError; e != nil {
		row.LastError = &api.AttemptError{Code: e.Code, At: *utc(&e.At)}
		if e.Status != 0 {
			row.LastError.Status = &e.Status
		}
	}
	return row
}

// utc is a time as answers tell it, or nil.
func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	return new(t.UTC().Truncate(time.Millisecond))
}
