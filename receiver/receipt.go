package receiver

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Result is what the gateway made of an ack. Others than these may come.
type Result string

// Results.
const (
	Committed        Result = "committed"         // Kafka has confirmed it: never delivered again
	AlreadyCommitted Result = "already_committed" // a repeat, or the group is past it; nothing moved
	Accepted         Result = "accepted"          // will be in the next commit; with WaitAccept
	PendingGap       Result = "pending_gap"       // counted, but an earlier delivery is still open
	Scheduled        Result = "scheduled"         // a nack: the delivery comes again
	Extended         Result = "extended"          // a new deadline
)

// Receipt is the gateway's answer to an ack that it took. Fields that the result has
// no use for are nil.
type Receipt struct {
	Result          Result     `json:"result"`
	Generation      *int32     `json:"generation"`        // the group's, now
	CommittedOffset *int64     `json:"committed_offset"`  // the next offset of the group
	BlockedByOffset *int64     `json:"blocked_by_offset"` // for PendingGap: the first that is still open
	Deadline        *time.Time `json:"deadline"`          // for Extended
}

// Why an ack was not taken: what a Refusal is, by errors.Is. In no case did an
// offset move.
var (
	// ErrGenerationStale: the partition has had another owner since, or has lost this
	// one. The records come again. Refusal.CurrentGeneration tells which it is now.
	ErrGenerationStale = errors.New("the delivery is of an earlier tenure of its partition")

	// ErrOutcomeConflict: another outcome already stands for the delivery.
	ErrOutcomeConflict = errors.New("another outcome already stands")

	// ErrTokenInvalid: the token is damaged, or of another installation.
	ErrTokenInvalid = errors.New("the token is not valid")

	// ErrTokenExpired: the delivery is past its deadline, and another outcome stands.
	ErrTokenExpired = errors.New("the token has expired")

	// ErrOffsetOutOfRange: an offset that the delivery does not have.
	ErrOffsetOutOfRange = errors.New("the offset was not delivered")

	// ErrNotFound: the webhook, or its partition, is not there any more.
	ErrNotFound = errors.New("there is no such webhook or partition")

	// ErrNoOwner: the partition is between owners. Sending the ack again is safe, after
	// Refusal.RetryAfter.
	ErrNoOwner = errors.New("the partition has no owner now")

	// ErrUnavailable: the gateway cannot take the ack now; ErrNoOwner is one such case.
	// Whether it was counted is not always known, and sending it again is safe.
	ErrUnavailable = errors.New("the gateway cannot take acks now")
)

var errorCodes = map[string]error{
	"generation_stale":    ErrGenerationStale,
	"outcome_conflict":    ErrOutcomeConflict,
	"token_invalid":       ErrTokenInvalid,
	"token_expired":       ErrTokenExpired,
	"offset_out_of_range": ErrOffsetOutOfRange,
	"webhook_not_found":   ErrNotFound,
	"partition_not_found": ErrNotFound,
	"no_owner":            ErrNoOwner,
}

// ErrAnswer means that what answered was no gateway: not JSON, too long, a redirect.
// Whether the ack was counted is not known.
var ErrAnswer = errors.New("the answer is not that of a gateway")

// Refusal is the gateway's answer to an ack that it did not take.
type Refusal struct {
	Status int    // of HTTP
	Code   string // stable; empty where something before the gateway answered
	Detail string // for people

	CurrentGeneration *int32        // for ErrGenerationStale
	RetryAfter        time.Duration // 0: nothing was said
}

func (r *Refusal) Error() string {
	s := "the ack was refused with " + strconv.Itoa(r.Status)
	if r.Code != "" {
		s += " " + r.Code
	}
	if r.CurrentGeneration != nil {
		s += fmt.Sprintf(" (generation is now %d)", *r.CurrentGeneration)
	}
	if r.Detail != "" {
		s += ": " + r.Detail
	}
	return s
}

// Is makes a refusal the error of its code, and of its status if that is unknown.
func (r *Refusal) Is(target error) bool {
	if target == ErrUnavailable {
		return r.again()
	}
	err, ok := errorCodes[r.Code]
	return ok && err == target
}

// again reports whether the ack may be taken at another time as it is.
func (r *Refusal) again() bool {
	switch r.Status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// answer is what the gateway says to one ack, alone or in a list.
type answer struct {
	Receipt
	Status            int    `json:"status"` // in a list, and in a problem
	Code              string `json:"code"`
	Detail            string `json:"detail"`
	CurrentGeneration *int32 `json:"current_generation"`
}

// receipt is what an answer with that status comes to.
func (a *answer) receipt(status int) (Receipt, error) {
	switch {
	case (status == http.StatusOK || status == http.StatusAccepted) && a.Result != "":
		return a.Receipt, nil
	case status >= http.StatusBadRequest:
		return Receipt{}, &Refusal{Status: status, Code: cut(a.Code), Detail: cut(a.Detail), CurrentGeneration: a.CurrentGeneration}
	}
	return Receipt{}, fmt.Errorf("%w: status %d", ErrAnswer, status)
}

// response is an answer to a call, whose body was read.
type response struct {
	status int
	header http.Header
	body   []byte
}

// decode reads the body of a 200 or 202 into v. Of any other status it makes the error.
func (r *response) decode(v any) error {
	switch {
	case r.status == http.StatusOK || r.status == http.StatusAccepted:
		if !isJSON(r.header, "application/json") || json.Unmarshal(r.body, v) != nil {
			return fmt.Errorf("%w: status %d without its JSON", ErrAnswer, r.status)
		}
		return nil
	case r.status < http.StatusBadRequest:
		return fmt.Errorf("%w: status %d", ErrAnswer, r.status)
	}
	var problem answer
	if !isJSON(r.header, "application/problem+json") || json.Unmarshal(r.body, &problem) != nil {
		problem = answer{}
	}
	_, err := problem.receipt(r.status)
	if refused, ok := errors.AsType[*Refusal](err); ok {
		refused.RetryAfter = retryAfter(r.header.Get("Retry-After"))
	}
	return err
}

func isJSON(h http.Header, want string) bool {
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return kind == want && (err == nil || errors.Is(err, mime.ErrInvalidMediaParameter))
}

// longestRetryAfter cuts what is told in Retry-After; AckerConfig.MaxWait is on top.
const longestRetryAfter = 24 * time.Hour

// retryAfter reads Retry-After: seconds, or a date (RFC 9110, 10.2.3). What is neither
// is nothing.
func retryAfter(text string) time.Duration {
	text = strings.TrimSpace(text)
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, longestRetryAfter)
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	return min(max(time.Until(at), 0), longestRetryAfter)
}
