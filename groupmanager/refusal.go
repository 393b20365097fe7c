package groupmanager

import (
	"encoding/json"
	"errors"

	"github.com/kpush/kpush/replica"
	"github.com/kpush/kpush/webhooks"
)

// Codes of refusals whose error carries data.
const (
	codeNotValid        = "validation_failed" // data: []webhooks.FieldError
	codeTopicNotFound   = "topic_not_found"   // data: the topic
	codeGenerationStale = "generation_stale"  // data: the current generation
)

// refusals pairs the errors that carry no data with their codes between replicas.
// The first that matches counts, so what is an ErrUnavailable besides comes first.
var refusals = []struct {
	err  error
	code string
}{
	{webhooks.ErrNotLeader, "not_leader"},
	{webhooks.ErrNotFound, "not_found"},
	{webhooks.ErrExists, "exists"},
	{webhooks.ErrGroupInUse, "group_in_use"},
	{webhooks.ErrPrecondition, "precondition_failed"},
	{webhooks.ErrUnreadable, "unreadable"},
	{webhooks.ErrUnavailable, "unavailable"},

	{ErrTokenInvalid, "token_invalid"},
	{ErrWebhookNotFound, "webhook_not_found"},
	{ErrPartitionNotFound, "partition_not_found"},
	{ErrOutcomeConflict, "outcome_conflict"},
	{ErrOffsetOutOfRange, "offset_out_of_range"},
	{ErrNoOwner, "no_owner"},
}

// refusal puts an error into words for another replica. One that it has no words
// for is left as it is.
func refusal(err error) error {
	if e, ok := errors.AsType[*webhooks.ValidationError](err); ok {
		return refusalOf(codeNotValid, e.Fields)
	}
	if e, ok := errors.AsType[*TopicError](err); ok {
		return refusalOf(codeTopicNotFound, e.Topic)
	}
	if e, ok := errors.AsType[*StaleError](err); ok {
		return refusalOf(codeGenerationStale, e.Current)
	}
	for _, r := range refusals {
		if errors.Is(err, r.err) {
			return &replica.Refusal{Code: r.code}
		}
	}
	return err
}

func refusalOf(code string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	return &replica.Refusal{Code: code, Data: text}
}

// meaning makes the error anew that another replica had put into words. Any other
// error is left as it is.
func meaning(err error) error {
	r, ok := errors.AsType[*replica.Refusal](err)
	if !ok {
		return err
	}
	switch r.Code {
	case codeNotValid:
		e := &webhooks.ValidationError{}
		if json.Unmarshal(r.Data, &e.Fields) == nil {
			return e
		}
	case codeTopicNotFound:
		e := &TopicError{}
		if json.Unmarshal(r.Data, &e.Topic) == nil {
			return e
		}
	case codeGenerationStale:
		e := &StaleError{}
		if json.Unmarshal(r.Data, &e.Current) == nil {
			return e
		}
	}
	for _, known := range refusals {
		if r.Code == known.code {
			return known.err
		}
	}
	return err
}

// ackCode is the word for the refusal of an ack, from the closed list of the contract.
func ackCode(err error) string {
	if r, ok := errors.AsType[*replica.Refusal](refusal(err)); ok {
		return r.Code
	}
	return "no_owner"
}
