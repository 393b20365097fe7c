package server

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/server/api"
)

const (
	// maxAcks is how many acks a list may hold.
	maxAcks = 1000

	// acksAtOnce is how many acks of a list are worked on at a time: enough for
	// those that wait for a commit to share few of them, and few enough for another
	// replica to be called about each.
	acksAtOnce = 250
)

func (o operations) Ack(ctx context.Context, r api.AckRequestObject) (api.AckResponseObject, error) {
	accept, err := waitAccept(r.Params.Wait)
	if err != nil {
		return nil, err
	}
	acks, isList, err := ackList(*r.Body)
	if err != nil {
		return nil, err
	}
	if isList {
		results := api.AckResults{Results: o.ackAll(ctx, acks, accept)}
		return api.Ack200JSONResponse{AckCountedJSONResponse: api.AckCountedJSONResponse{Body: results}}, nil
	}
	answer, err := o.ackOne(ctx, *r.Body, accept)
	if err != nil {
		return nil, err
	}
	result := ackResult(answer)
	if ackStatus(result) == 202 {
		return api.Ack202JSONResponse{AckRecordedJSONResponse: api.AckRecordedJSONResponse{Body: result}}, nil
	}
	return api.Ack200JSONResponse{AckCountedJSONResponse: api.AckCountedJSONResponse{Body: result}}, nil
}

func waitAccept(wait *api.AckParamsWait) (bool, error) {
	switch {
	case wait == nil || *wait == api.AckParamsWaitCommit:
		return false, nil
	case *wait == api.AckParamsWaitAccept:
		return true, nil
	}
	return false, invalid(inQuery("wait"), "must be one of: commit, accept")
}

// ackOne decodes one ack and hands it in. By fields it takes the admin token. What
// fails for its credential counts against the address that sent it, unless that has
// the admin token.
func (o operations) ackOne(ctx context.Context, body json.RawMessage, accept bool) (groupmanager.AckAnswer, error) {
	c := callerOf(ctx)
	if !c.admin && o.strangers.refuses(c.address, time.Now()) { // by what stands before it in a list
		return groupmanager.AckAnswer{}, errTooManyFailures
	}
	request, err := decodeAck(body, c.admin)
	var answer groupmanager.AckAnswer
	if err == nil {
		request.WaitAccept = accept
		answer, err = o.gateway.Ack(ctx, request)
	}
	if !c.admin && (errors.Is(err, errUnauthorized) || errors.Is(err, groupmanager.ErrTokenInvalid)) {
		o.strangers.failed(c.address, time.Now())
	}
	return answer, err
}

// ackAll returns one result per ack, in order. Each has such a share of the
// request's time that all come to their turn, though many wait for an owner that
// does not answer.
func (o operations) ackAll(ctx context.Context, acks []json.RawMessage, accept bool) []api.AckItemResult {
	results := make([]api.AckItemResult, len(acks))
	turns := 1 + (len(acks)-1)/acksAtOnce
	share := o.requestTimeout / time.Duration(turns)
	var working errgroup.Group
	working.SetLimit(acksAtOnce)
	for i, ack := range acks {
		working.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, share)
			defer cancel()
			results[i] = o.ackItem(ctx, ack, accept)
			return nil
		})
	}
	_ = working.Wait() // no ack fails another
	return results
}

// ackItem is ackOne for an ack in a list: a failure, even a panic, is its result.
func (o operations) ackItem(ctx context.Context, body json.RawMessage, accept bool) (item api.AckItemResult) {
	defer func() {
		if p := recover(); p != nil {
			item = o.refusedItem(ctx, panicError(p))
		}
	}()
	answer, err := o.ackOne(ctx, body, accept)
	if err != nil {
		return o.refusedItem(ctx, err)
	}
	r := ackResult(answer)
	return api.AckItemResult{
		Status: ackStatus(r), Result: &r.Result, Generation: r.Generation,
		CommittedOffset: r.CommittedOffset, BlockedByOffset: r.BlockedByOffset, Deadline: r.Deadline,
	}
}

func (o operations) refusedItem(ctx context.Context, err error) api.AckItemResult {
	p := statusOf(err)
	o.noteFailure(ctx, p, err)
	item := api.AckItemResult{Status: p.status, Code: &p.code, Detail: &p.detail, CurrentGeneration: p.generation}
	if len(p.fields) > 0 {
		item.Errors = &p.fields
	}
	return item
}

func ackStatus(r api.AckResult) int {
	if r.Result == api.AckResultWordAccepted {
		return 202
	}
	return 200
}

// ackResult is an answer as it is told. About a delivery that comes again, or
// stays, there is nothing to tell of commits.
func ackResult(a groupmanager.AckAnswer) api.AckResult {
	r := api.AckResult{Result: api.AckResultWord(a.Result)}
	switch r.Result {
	case api.AckResultWordScheduled:
	case api.AckResultWordExtended:
		r.Deadline = utc(a.Deadline)
	default:
		r.Generation = &a.Generation
		r.CommittedOffset, r.BlockedByOffset = a.CommittedOffset, a.BlockedBy
	}
	return r
}
