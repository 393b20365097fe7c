package delivery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Ack is the receiver's statement as it stands in an inline ack: contract 5.2 without the token.
type Ack struct {
	Outcome    string // ack, nack, extend, reject, partial; empty is ack
	UpToOffset *int64
	Delay      time.Duration // nack
	Extend     time.Duration // extend
	Reason     string
	Failures   []AckFailure // partial: each offset once
}

// AckFailure is what a partial ack says of one record.
type AckFailure struct {
	Offset int64
	Action string // retry, dead_letter, skip
	Reason string
}

const (
	outcomeAck    = "ack"
	outcomeNack   = "nack"
	outcomeExtend = "extend"

	outcomeReject  = "reject"
	outcomePartial = "partial"
)

// longestReason cuts what a receiver says for people, in bytes.
const longestReason = 1024

// longestDelay cuts what a receiver may ask for; the webhook's own limits, which
// are lower, come on top.
const longestDelay = 24 * time.Hour

var errAckMalformed = errors.New("the inline ack is malformed")

// inlineAck finds the ack in the JSON body of an answer. It returns nil for a
// body without one, and an error for one that does not fit. A body that is not
// JSON has no ack, unless the word stands in it: then it may be a damaged one,
// and to take the delivery for done would be a guess.
func inlineAck(body []byte) (*Ack, error) {
	if !bytes.Contains(body, []byte(`ack`)) && !bytes.ContainsRune(body, '\\') {
		return nil, nil
	}
	body = bytes.TrimLeft(body, " \t\r\n")
	if !json.Valid(body) {
		if bytes.Contains(body, []byte(`"ack"`)) {
			return nil, errAckMalformed
		}
		return nil, nil
	}
	if body[0] != '{' {
		return nil, nil
	}
	var text json.RawMessage
	err := eachMember(body, func(name string, value json.RawMessage) error {
		if name != "ack" {
			return nil
		}
		if text != nil {
			return errAckMalformed
		}
		text = value
		return nil
	})
	if err != nil || text == nil {
		return nil, err
	}
	return parseAck(text)
}

// parseAck reads the object an inline ack is.
func parseAck(text json.RawMessage) (*Ack, error) {
	a := &Ack{Outcome: outcomeAck}
	var delay, extend *time.Duration
	seen := make(map[string]bool)
	err := eachMember(text, func(name string, value json.RawMessage) (err error) {
		if seen[name] {
			return errAckMalformed
		}
		seen[name] = true
		switch name {
		case "outcome":
			a.Outcome, err = parseString(value)
		case "reason":
			a.Reason, err = parseReason(value)
		case "up_to_offset":
			a.UpToOffset, err = parseCount(value)
		case "delay_ms":
			delay, err = parseMillis(value)
		case "extend_ms":
			extend, err = parseMillis(value)
		case "failures":
			a.Failures, err = parseFailures(value)
		default:
			err = errAckMalformed
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAckMalformed, err)
	}
	fits := false
	switch a.Outcome {
	case outcomeAck:
		fits = delay == nil && extend == nil
	case outcomeNack:
		fits = a.UpToOffset == nil && extend == nil
	case outcomeExtend:
		fits = a.UpToOffset == nil && delay == nil && extend != nil && *extend > 0
	case outcomeReject, outcomePartial:
		fits = a.UpToOffset == nil && delay == nil && extend == nil
	}
	if !fits || seen["failures"] != (a.Outcome == outcomePartial) {
		return nil, errAckMalformed
	}
	if delay != nil {
		a.Delay = *delay
	}
	if extend != nil {
		a.Extend = *extend
	}
	return a, nil
}

// parseFailures reads what a partial ack lists: at least one record, and each once.
func parseFailures(text json.RawMessage) ([]AckFailure, error) {
	var values []json.RawMessage
	if err := json.Unmarshal(text, &values); err != nil || len(values) == 0 {
		return nil, errAckMalformed
	}
	failures := make([]AckFailure, len(values))
	listed := make(map[int64]bool, len(values))
	for i, value := range values {
		f, seen := &failures[i], make(map[string]bool, 3)
		err := eachMember(value, func(name string, value json.RawMessage) (err error) {
			if seen[name] {
				return errAckMalformed
			}
			seen[name] = true
			switch name {
			case "offset":
				var offset *int64
				offset, err = parseCount(value)
				f.Offset = *offset
			case "action":
				f.Action, err = parseString(value)
			case "reason":
				f.Reason, err = parseReason(value)
			default:
				err = errAckMalformed
			}
			return err
		})
		known := f.Action == "retry" || f.Action == "dead_letter" || f.Action == "skip"
		if err != nil || !seen["offset"] || !known || listed[f.Offset] {
			return nil, errAckMalformed
		}
		listed[f.Offset] = true
	}
	return failures, nil
}

// parseReason reads a text for people, and cuts it at the end of a character.
func parseReason(value json.RawMessage) (string, error) {
	s, err := parseString(value)
	if len(s) > longestReason {
		s = strings.ToValidUTF8(s[:longestReason], "")
	}
	return s, err
}

// eachMember calls f with each member of a JSON object, until it returns an error.
// Anything else than an object is an error, too.
func eachMember(text []byte, f func(name string, value json.RawMessage) error) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errAckMalformed
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		name := t.(string) // what a decoder gives in an object's key position
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
		if err := f(name, value); err != nil {
			return err
		}
	}
	return nil
}

func parseString(value json.RawMessage) (string, error) {
	if value[0] != '"' {
		return "", errAckMalformed
	}
	var s string
	err := json.Unmarshal(value, &s)
	return s, err
}

// parseCount reads an integer from 0 on.
func parseCount(value json.RawMessage) (*int64, error) {
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err == nil && n < 0 {
		err = errAckMalformed
	}
	return &n, err
}

func parseMillis(value json.RawMessage) (*time.Duration, error) {
	n, err := parseCount(value)
	if err != nil {
		return nil, err
	}
	d := time.Duration(min(*n, longestDelay.Milliseconds())) * time.Millisecond
	return &d, nil
}
