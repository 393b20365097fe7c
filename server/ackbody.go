package server

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/kpush/kpush/groupmanager"
)

// Outcomes of a delivery that an ack can tell.
const (
	outcomeAck    = "ack"
	outcomeNack   = "nack"
	outcomeExtend = "extend"

	outcomeReject  = "reject"
	outcomePartial = "partial"
)

const (
	maxDelayMs = 86_400_000 // of delay_ms and extend_ms: what ack.max_timeout_ms may be
	maxReason  = 1024       // bytes
	maxFailed  = 10_000     // records, as many as a delivery may have
)

// ackFields are the fields by which an ack names its delivery without a token.
var ackFields = []string{"webhook_id", "group_id", "topic", "partition", "generation", "offset"}

// tokenFields are the fields that an ack has only beside a token.
var tokenFields = []string{"up_to_offset", "delay_ms", "extend_ms", "reason", "failures"}

// outcomeFields tells which outcomes a field belongs to.
var outcomeFields = map[string][]string{
	"up_to_offset": {outcomeAck}, "delay_ms": {outcomeNack}, "reason": {outcomeNack, outcomeReject},
	"extend_ms": {outcomeExtend}, "failures": {outcomePartial},
}

// failureActions are what may become of a record that failed.
var failureActions = []string{"retry", "dead_letter", "skip"}

// ackList returns the acks of a body that is a list of them. Each is left as it
// stands, so that what is wrong with one is that one's result.
func ackList(body json.RawMessage) (acks []json.RawMessage, isList bool, err error) {
	o, err := readObject(body)
	if err != nil {
		return nil, false, err
	}
	if _, isList = o.values["acks"]; !isList {
		return nil, false, nil
	}
	for _, name := range o.names {
		if name != "acks" {
			o.complain(pointerTo(name), "is not a known field beside acks")
		}
	}
	acks, _ = o.array("acks", 0, maxAcks, "acks")
	return acks, true, o.err()
}

// decodeAck reads one ack. One that has no token is refused at once unless its
// caller is an admin. Errors are errUnauthorized or an *invalidError.
func decodeAck(body json.RawMessage, admin bool) (groupmanager.AckRequest, error) {
	o, err := readObject(body)
	if err != nil {
		return groupmanager.AckRequest{}, err
	}
	_, byToken := o.values["token"]
	if !byToken && !admin {
		return groupmanager.AckRequest{}, errUnauthorized
	}
	o.refuseBeside(slices.Concat([]string{"token", "outcome"}, ackFields, tokenFields)...)
	var a groupmanager.AckRequest
	if byToken {
		a = o.ackByToken()
	} else {
		a = o.ackByFields()
	}
	return a, o.err()
}

// ackByFields reads an ack that names its delivery by fields.
func (o *object) ackByFields() groupmanager.AckRequest {
	for _, name := range tokenFields {
		if _, ok := o.values[name]; ok {
			o.complain(pointerTo(name), "is only for an ack by token")
		}
	}
	if outcome, ok := o.text("outcome"); ok && outcome != outcomeAck {
		o.complain("/outcome", "must be ack for an ack by fields")
	}
	a := groupmanager.AckRequest{Tenant: tenant}
	_, byID := o.values["webhook_id"]
	_, byGroup := o.values["group_id"]
	switch {
	case byID && byGroup:
		o.complain("/group_id", "must not stand beside webhook_id")
	case byGroup:
		a.GroupID, _ = o.text("group_id")
	default:
		a.WebhookID, _ = o.text("webhook_id")
		o.require("webhook_id")
	}
	a.Topic, _ = o.text("topic")
	partition, _ := o.integer("partition", 0, math.MaxInt32)
	generation, _ := o.integer("generation", 0, math.MaxInt32)
	a.Partition, a.Generation = int32(partition), int32(generation)
	a.Offset, _ = o.integer("offset", math.MinInt64, math.MaxInt64)
	for _, name := range []string{"topic", "partition", "generation", "offset"} {
		o.require(name)
	}
	return a
}

// ackByToken reads an ack that carries its delivery's token.
func (o *object) ackByToken() groupmanager.AckRequest {
	for _, name := range ackFields {
		if _, ok := o.values[name]; ok {
			o.complain(pointerTo(name), "must not stand beside token")
		}
	}
	a := groupmanager.AckRequest{Outcome: outcomeAck}
	a.Token, _ = o.text("token")
	if outcome, ok := o.text("outcome"); ok {
		a.Outcome = outcome
	}
	switch a.Outcome {
	case outcomeAck, outcomeNack, outcomeExtend, outcomeReject, outcomePartial:
	default:
		o.complain("/outcome", "must be one of: ack, nack, extend, reject, partial")
		return a
	}
	for _, name := range tokenFields {
		if _, ok := o.values[name]; ok && !slices.Contains(outcomeFields[name], a.Outcome) {
			o.complain(pointerTo(name), "is only for the outcome "+strings.Join(outcomeFields[name], " or "))
		}
	}
	if upTo, ok := o.integer("up_to_offset", math.MinInt64, math.MaxInt64); ok {
		a.UpToOffset = &upTo
	}
	if ms, ok := o.integer("delay_ms", 0, maxDelayMs); ok {
		a.Delay = time.Duration(ms) * time.Millisecond
	}
	if ms, ok := o.integer("extend_ms", 1, maxDelayMs); ok {
		a.Extend = time.Duration(ms) * time.Millisecond
	}
	if a.Outcome == outcomeExtend {
		o.require("extend_ms")
	}
	if a.Outcome == outcomePartial {
		o.require("failures")
		a.Failures = o.failures()
	}
	a.Reason, _ = o.textUpTo("reason", maxReason)
	return a
}

// failures reads what a partial ack lists: each record once.
func (o *object) failures() []groupmanager.AckFailure {
	values, _ := o.array("failures", 1, maxFailed, "failures")
	failures := make([]groupmanager.AckFailure, 0, len(values))
	seen := make(map[int64]bool, len(values))
	for i, value := range values {
		f, ok := o.within(fmt.Sprintf("/failures/%d", i), value)
		if !ok {
			continue
		}
		f.refuseBeside("offset", "action", "reason")
		f.require("offset")
		f.require("action")
		var failure groupmanager.AckFailure
		failure.Offset, ok = f.integer("offset", 0, math.MaxInt64)
		if ok && seen[failure.Offset] {
			f.complain("/offset", "is listed twice")
		}
		seen[failure.Offset] = ok
		if failure.Action, ok = f.text("action"); ok && !slices.Contains(failureActions, failure.Action) {
			f.complain("/action", "must be one of: "+strings.Join(failureActions, ", "))
		}
		failure.Reason, _ = f.textUpTo("reason", maxReason)
		failures = append(failures, failure)
	}
	return failures
}
