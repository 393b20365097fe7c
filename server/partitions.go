package server

import (
	"context"
	"time"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/server/api"
)

func (o operations) ListPartitions(ctx context.Context, r api.ListPartitionsRequestObject) (api.ListPartitionsResponseObject, error) {
	rows, err := o.gateway.Partitions(ctx, tenant, r.ID)
	if err != nil {
		return nil, err
	}
	list := api.PartitionList{Data: make([]api.Partition, len(rows))}
	for i, row := range rows {
		list.Data[i] = partition(row)
	}
	return api.ListPartitions200JSONResponse{Body: list}, nil
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
