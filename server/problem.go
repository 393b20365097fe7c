package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/kpush/kpush/groupmanager"
	"github.com/kpush/kpush/server/api"
	"github.com/kpush/kpush/webhooks"
)

// What the server itself refuses.
var (
	errNotFound         = errors.New("no such path")
	errMethodNotAllowed = errors.New("no such method on this path")
	errUnauthorized     = errors.New("no valid bearer token")
	errNotJSON          = errors.New("content type or encoding is not plain JSON")
	errBodyTooLarge     = errors.New("body is too large")
	errBodyTooSlow      = errors.New("body did not arrive in time")
	errTooManyFailures  = errors.New("too many acks without a valid credential from this address")
)

// invalidError says which fields of a request are not valid.
type invalidError struct{ fields []api.FieldError }

func (e *invalidError) Error() string {
	return fmt.Sprintf("%d fields are not valid, first %s", len(e.fields), e.fields[0].Pointer)
}

// invalid is an invalidError about one field. detail completes "<field> ...".
func invalid(pointer, detail string) error {
	return &invalidError{[]api.FieldError{{Pointer: pointer, Detail: detail}}}
}

// creationError is what came of creating a webhook whose id the client may not
// know yet.
type creationError struct {
	id  string
	err error
}

func (e *creationError) Error() string { return "creating webhook " + e.id + ": " + e.err.Error() }

func (e *creationError) Unwrap() error { return e.err }

// unreadyError says that the gateway is up and cannot do its work.
type unreadyError struct{ reason string }

func (e *unreadyError) Error() string { return e.reason }

// problem is what an error is to the outside. It never holds an error's own text.
type problem struct {
	status     int
	code       api.ErrorCode
	title      string // the same for all of a code
	detail     string
	fields     []api.FieldError
	generation *int32        // current generation, for generation_stale
	after      time.Duration // for rate_limited: when to ask again
}

func refusal(status int, code api.ErrorCode, title, detail string) problem {
	return problem{status: status, code: code, title: title, detail: detail}
}

// retryAfter is what a 503 tells in Retry-After, in seconds, and a 429 at least: most of what
// makes one is cured in a moment, and asking costs little.
const retryAfter = "1"

// problems pairs the errors that carry no data with what they are to the outside.
// The first that matches counts.
var problems = []struct {
	err error
	problem
}{
	{errNotFound, refusal(404, api.ErrorCodeNotFound, "Not found", "There is nothing at this path.")},
	{errMethodNotAllowed, refusal(405, api.ErrorCodeMethodNotAllowed, "Method not allowed", "The path does not take this method; the Allow header tells which it takes.")},
	{errUnauthorized, refusal(401, api.ErrorCodeUnauthorized, "Unauthorized", "A valid bearer token is needed.")},
	{errNotJSON, refusal(415, api.ErrorCodeUnsupportedMediaType, "Unsupported media type", "The body has to be application/json in UTF-8, not compressed.")},
	{errBodyTooLarge, refusal(413, api.ErrorCodeBodyTooLarge, "Body too large", "The body is larger than 1 MiB.")},
	{errBodyTooSlow, refusal(408, api.ErrorCodeRequestTimeout, "Request timeout", "The body did not arrive in time.")},

	{errTooManyFailures, refusal(429, api.ErrorCodeRateLimited, "Rate limited", "Too many acks without a valid token or bearer came from this address. Nothing of this one was read; it may be sent again.")},
	{errLoop, refusal(508, api.ErrorCodeLoopDetected, "Loop detected", "This is a delivery of this installation: the webhook's URL leads back to it.")},

	{webhooks.ErrMalformed, refusal(400, api.ErrorCodeMalformed, "Malformed body", "The body is not one JSON object.")},
	{webhooks.ErrNotFound, refusal(404, api.ErrorCodeNotFound, "Not found", "There is no such webhook.")},
	{webhooks.ErrExists, refusal(409, api.ErrorCodeExists, "Exists", "There is a webhook of this id.")},
	{webhooks.ErrGroupInUse, refusal(409, api.ErrorCodeGroupInUse, "Group in use", "The consumer group belongs to another webhook or has other members.")},
	{webhooks.ErrPrecondition, refusal(412, api.ErrorCodePreconditionFailed, "Precondition failed", "The webhook is not at the revision that If-Match asks for.")},
	{webhooks.ErrNotLeader, refusal(503, api.ErrorCodeUnavailable, "Unavailable", "No replica leads the registry at this moment. Nothing was changed; try again.")},
	{webhooks.ErrFenced, refusal(503, api.ErrorCodeUnavailable, "Unavailable", "Another replica has taken the registry over meanwhile. Whether anything was changed is not known; trying again is safe.")},
	{webhooks.ErrUnreadable, refusal(503, api.ErrorCodeUnavailable, "Unavailable", "The webhook is stored in a form that this process cannot read. It can be deleted.")},
	{webhooks.ErrUnavailable, refusal(503, api.ErrorCodeUnavailable, "Unavailable", "Kafka, or another replica that has a part in it, cannot be reached. Whether anything was changed is not known; trying again is safe.")},

	{groupmanager.ErrTokenInvalid, refusal(401, api.ErrorCodeTokenInvalid, "Token invalid", "The ack token was not made by this installation.")},
	{groupmanager.ErrWebhookNotFound, refusal(404, api.ErrorCodeWebhookNotFound, "Webhook not found", "There is no such webhook.")},
	{groupmanager.ErrPartitionNotFound, refusal(404, api.ErrorCodePartitionNotFound, "Partition not found", "The webhook has no such topic and partition.")},
	{groupmanager.ErrOutcomeConflict, refusal(409, api.ErrorCodeOutcomeConflict, "Outcome conflict", "Another outcome already stands for this delivery.")},
	{groupmanager.ErrOffsetOutOfRange, refusal(422, api.ErrorCodeOffsetOutOfRange, "Offset out of range", "The offset was not delivered in this tenure.")},
	{groupmanager.ErrNoOwner, refusal(503, api.ErrorCodeNoOwner, "No owner", "The partition is between owners, or its owner does not answer. Sending the ack again is safe.")},

	{context.DeadlineExceeded, refusal(503, api.ErrorCodeUnavailable, "Unavailable", "The request did not come to an end in time. Whether it took effect is not known; trying again is safe.")},
	{context.Canceled, refusal(503, api.ErrorCodeUnavailable, "Unavailable", "The request was given up by its caller.")},
}

// statusOf is the only place that pairs errors with statuses and codes.
func statusOf(err error) problem {
	if e, ok := errors.AsType[*invalidError](err); ok {
		return notValid(e.fields)
	}
	if e, ok := errors.AsType[*creationError](err); ok {
		return notCreated(e)
	}
	if e, ok := errors.AsType[*webhooks.ValidationError](err); ok {
		fields := make([]api.FieldError, len(e.Fields))
		for i, f := range e.Fields {
			fields[i] = api.FieldError{Pointer: f.Pointer, Detail: f.Detail}
		}
		if e.URLNotAllowed() {
			p := refusal(422, api.ErrorCodeURLNotAllowed, "URL not allowed", "Requests may not be sent to this URL; errors tells why.")
			p.fields = fields
			return p
		}
		return notValid(fields)
	}
	if e, ok := errors.AsType[*groupmanager.TopicError](err); ok {
		return refusal(422, api.ErrorCodeTopicNotFound, "Topic not found", fmt.Sprintf("Topic %s does not exist.", e.Topic))
	}
	if e, ok := errors.AsType[*groupmanager.StaleError](err); ok {
		const detail = "The generation is not of the current tenure. Nothing moved; the records come again."
		p := refusal(409, api.ErrorCodeGenerationStale, "Generation stale", detail)
		p.generation = &e.Current
		return p
	}
	if e, ok := errors.AsType[*groupmanager.RateLimitedError](err); ok {
		p := refusal(429, api.ErrorCodeRateLimited, "Rate limited", "This was asked for a moment ago; Retry-After tells when it may be again.")
		p.after = e.After
		return p
	}
	if e, ok := errors.AsType[*unreadyError](err); ok {
		return refusal(503, api.ErrorCodeUnavailable, "Unavailable", "Not ready: "+e.reason+".")
	}
	for _, p := range problems {
		if errors.Is(err, p.err) {
			return p.problem
		}
	}
	return refusal(500, api.ErrorCodeInternal, "Internal error", "Something went wrong inside the gateway; its log tells what, under the request id.")
}

// notCreated is the problem of a creation. Where it is not known whether there is a
// webhook now, trying again is not safe: it may make a second one, under another id.
func notCreated(e *creationError) problem {
	p := statusOf(e.err)
	if p.status == http.StatusServiceUnavailable && !errors.Is(e.err, webhooks.ErrNotLeader) {
		p.detail = fmt.Sprintf("Whether webhook %s was created is not known. GET it before you try again; "+
			"if it is there, its secret was told to nobody: DELETE it first.", e.id)
	}
	return p
}

func notValid(fields []api.FieldError) problem {
	detail := "One field is not valid; errors tells which."
	if n := len(fields); n > 1 {
		detail = fmt.Sprintf("%d fields are not valid; errors tells which.", n)
	}
	p := refusal(422, api.ErrorCodeValidationFailed, "Not valid", detail)
	p.fields = fields
	return p
}

// handle makes an http.HandlerFunc of a handler that returns its failure.
func (s *Server) handle(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			s.fail(w, r, err)
		}
	}
}

// fail answers a request with the problem that err is.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := statusOf(err)
	s.noteFailure(r.Context(), p, err)
	h := w.Header()
	switch p.status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="kpush"`)
	case http.StatusRequestTimeout:
		h.Set("Connection", "close") // RFC 9110, 15.5.9
	case http.StatusTooManyRequests:
		h.Set("Retry-After", strconv.Itoa(max(int(math.Ceil(p.after.Seconds())), 1)))
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", retryAfter)
	}
	h.Set("Content-Type", "application/problem+json")
	body := api.Problem{
		Type:              "urn:kpush:problem:" + string(p.code),
		Title:             p.title,
		Status:            p.status,
		Detail:            p.detail,
		Code:              p.code,
		RequestID:         requestID(r.Context()),
		CurrentGeneration: p.generation,
	}
	if len(p.fields) > 0 {
		body.Errors = &p.fields
	}
	w.WriteHeader(p.status)
	_ = json.NewEncoder(w).Encode(body) // fails only when the client is gone
}

// noteFailure logs what is our own fault as an error, and what an operator may
// look for one day at debug.
func (s *Server) noteFailure(ctx context.Context, p problem, err error) {
	switch {
	case p.status == http.StatusInternalServerError:
		s.logger.ErrorContext(ctx, "request failed", "request_id", requestID(ctx), "error", err)
	case p.status > http.StatusInternalServerError:
		s.logger.DebugContext(ctx, "request refused", "request_id", requestID(ctx), "code", p.code, "error", err)
	}
}

func notFound(http.ResponseWriter, *http.Request) error { return errNotFound }
