package server

import (
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
	rows, more, err := o.gateway.PartitionsPage(ctx, tenant, r.ID, after, limit)
	if err != nil {
		return nil, err
	}
	page := api.PartitionList{Data: make([]api.Partition, 0, len(rows))}
	for _, row := range rows {
		page.Data = append(page.Data, partition(row))
	}
	if more && len(rows) > 0 {
		last := rows[len(rows)-1]
		page.NextCursor = cursorAfter(groupmanager.Place{Topic: last.Topic, Partition: last.Partition})
	}
	return api.ListPartitions200JSONResponse{Body: page}, nil
}

// cursorAfter has the partition behind a separator that no topic's name has in it.
func cursorAfter(p groupmanager.Place) *string {
	return cursor(p.Topic + "/" + strconv.Itoa(int(p.Partition)))
}

// parsePlace returns the place after which a page begins.
func parsePlace(c *string) (groupmanager.Place, error) {
	text, err := parseCursor(c)
	if err != nil || text == "" {
		return groupmanager.Place{}, err
	}
	topic, number, found := strings.Cut(text, "/")
	partition, err := strconv.ParseInt(number, 10, 32)
	if err != nil || !found {
		return groupmanager.Place{}, errCursor
	}
	return groupmanager.Place{Topic: topic, Partition: int32(partition)}, nil
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
		HeldRecords:     p.HeldRecords,
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
