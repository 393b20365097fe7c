package delivery

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Verdict is what an attempt came to.
type Verdict uint8

// Verdicts; see contract section 4, "What the answer means".
const (
	Failed   Verdict = iota // try again, Code says why
	Acked                   // the whole delivery is done
	Received                // the ack will come by POST /ack
	Stated                  // the answer carried an inline ack, in Ack
	TooLarge                // 413: cut the batch
	Gone                    // 410: disable the webhook
	Looped                  // 508 of our own installation: the URL leads back to it, pause the webhook
)

// Result of one attempt.
type Result struct {
	Verdict    Verdict
	Status     int           // HTTP status; 0 when none was read
	Code       string        // for Failed, TooLarge, Gone and Looped: a word of the closed list in codes.go
	RetryAfter time.Duration // what the receiver asked for; 0: nothing
	Ack        *Ack          // for Stated
	At         time.Time     // when the answer had been read
	Took       time.Duration
}

// maxAnswer is how much of an answer's body is read.
const maxAnswer = 64 << 10

// answer is what was read of a receiver's response.
type answer struct {
	status int
	header http.Header
	json   bool   // it says of itself that it is JSON, where an inline ack may be
	packed bool   // it says of itself that it is compressed
	body   []byte // of a JSON answer to a 2xx, at most maxAnswer bytes; else nil
	longer bool   // the body goes on after maxAnswer bytes
	whole  bool   // the body was read to its end
	broken string // code of what kept the body from being read; empty: nothing
}

func newAnswer(status int, h http.Header) answer {
	return answer{
		status: status,
		header: h,
		json:   isJSON(h.Get("Content-Type")),
		packed: slices.ContainsFunc(h["Content-Encoding"], isPacked),
	}
}

// isPacked reports whether a content encoding is other than none.
func isPacked(encoding string) bool {
	return encoding != "" && !strings.EqualFold(encoding, "identity")
}

func (a *answer) success() bool { return a.status/100 == 2 }

// isJSON reports whether a content type is that of JSON, whatever its parameters.
func isJSON(contentType string) bool {
	if contentType == "" || contentType == "application/json" {
		return contentType != ""
	}
	kind, _, err := mime.ParseMediaType(contentType)
	return kind == "application/json" && (err == nil || errors.Is(err, mime.ErrInvalidMediaParameter))
}

// read takes in the body of resp, into memory of r. A body that is not kept is
// read all the same: only then can the connection be used again, and only then is
// it known to be whole.
func (a *answer) read(resp *http.Response, r *request) error {
	if resp.ContentLength > maxAnswer {
		a.longer = true
		return nil
	}
	if resp.Body == http.NoBody {
		a.whole = true
		return nil
	}
	keep := a.success() && a.json
	buf, total := r.answer[:0], 0
	for total < maxAnswer {
		if !keep {
			buf = buf[:0]
		}
		buf = slices.Grow(buf, min(maxAnswer-total, 512))
		n, err := resp.Body.Read(buf[len(buf):min(cap(buf), len(buf)+maxAnswer-total)])
		buf, total = buf[:len(buf)+n], total+n
		r.answer = buf
		if keep {
			a.body = buf
		}
		if err == io.EOF {
			a.whole = true
			return nil
		}
		if err != nil {
			return err
		}
	}
	var beyond [1]byte
	n, err := io.ReadFull(resp.Body, beyond[:])
	if a.longer = n > 0; a.longer || err == io.EOF {
		a.whole = !a.longer
		return nil
	}
	return err
}

// judge says what the answer means; now is what a date in Retry-After is measured from.
func (a *answer) judge(explicit bool, now time.Time) Result {
	res := Result{Verdict: Failed, Status: a.status}
	if a.retryable() {
		res.RetryAfter = retryAfter(a.header, now)
	}
	switch {
	case a.broken != "":
		res.Code = a.broken
	case a.success():
		a.judgeSuccess(explicit, &res)
	case a.status < 400:
		res.Code = CodeRedirect
	case a.status == http.StatusGone:
		res.Verdict, res.Code = Gone, httpCode(a.status)
	case a.status == http.StatusRequestEntityTooLarge:
		res.Verdict, res.Code = TooLarge, httpCode(a.status)
	default:
		res.Code = httpCode(a.status)
	}
	return res
}

// looped tells that the answer is our own installation's, to a delivery of its own.
// A receiver that says so without need does so to itself alone.
func (a *answer) looped(marker string) bool {
	return a.status == http.StatusLoopDetected && marker != "" && a.header.Get(LoopHeader) == marker
}

// judgeCall is judge for an answer in which no ack can be: every 2xx is a yes.
func (a *answer) judgeCall(now time.Time) Result {
	if a.success() && a.broken == "" {
		return Result{Verdict: Acked, Status: a.status}
	}
	return a.judge(false, now)
}

// judgeSuccess judges a 2xx.
func (a *answer) judgeSuccess(explicit bool, res *Result) {
	if a.json {
		if a.longer {
			res.Code = CodeTooLarge
			return
		}
		if a.packed && len(a.body) > 0 {
			// We asked for it plain and do not unpack: it might be a nack.
			res.Code = CodeAckMalformed
			return
		}
		ack, err := inlineAck(a.body)
		if err != nil {
			res.Code = CodeAckMalformed
			return
		}
		if ack != nil {
			res.Verdict, res.Ack = Stated, ack
			return
		}
	}
	if explicit || a.status == http.StatusAccepted {
		res.Verdict = Received
		return
	}
	res.Verdict = Acked
}

// retryable reports whether the receiver may say in Retry-After when to come again.
func (a *answer) retryable() bool {
	switch a.status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	default:
		return a.status >= 500
	}
}
