package delivery

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"syscall"
	"time"

	"github.com/kpush/kpush/webhooks/egress"
)

// Codes say why an attempt failed. They are what users see of it: no address, no
// system's message. Besides these there is "http_" and a status.
const (
	CodeDNS             = "dns_error"             // the host's name could not be resolved
	CodeAddressDenied   = "address_denied"        // the operator's policy does not allow the target; nothing was sent
	CodeConnectRefused  = "connect_refused"       // nobody listens
	CodeConnectTimeout  = "connect_timeout"       // no connection within 3 s of the name's resolution
	CodeConnectFailed   = "connect_failed"        // any other way not to be connected, as no route
	CodeTLS             = "tls_error"             // no TLS, a bad certificate, or no handshake within 5 s
	CodeTimeout         = "timeout"               // the request's deadline passed
	CodeConnectionReset = "connection_reset"      // the connection ended before an answer came
	CodeMalformed       = "response_malformed"    // the answer is not HTTP/1.1, its headers are too long, or where it ends is not certain
	CodeTruncated       = "response_truncated"    // the answer's body was cut short
	CodeTooLarge        = "response_too_large"    // a JSON answer longer than what is read
	CodeRedirect        = "redirect_not_followed" // a final 1xx or a 3xx
	CodeAckMalformed    = "ack_malformed"         // the answer has an ack that does not fit, or is packed so that nobody can tell
	CodeLoop            = "loop_detected"         // the request came back to the installation that sent it
	CodeUndecodable     = "undecodable"           // a value is not JSON, and the webhook wants such values held or given up: nothing was sent
	CodeTokenRefused    = "auth_token_refused"    // the token endpoint does not take the client's credentials, or what it asks for
	CodeTokenDenied     = "auth_token_denied"     // the operator's policy does not allow the token endpoint; nothing was sent
	CodeTokenFailed     = "auth_token_failed"     // any other way to get no token from the endpoint; the receiver was not asked
	CodeCanceled        = "canceled"              // we gave the attempt up
	codeHTTPPrefix      = "http_"
)

// httpCode is the code of a status that is no success.
func httpCode(status int) string { return codeHTTPPrefix + strconv.Itoa(status) }

// transportCode finds the code for an attempt that got no answer; deadline is the
// attempt's.
func transportCode(ctx context.Context, deadline time.Time, err error) string {
	if ctx.Err() != nil {
		return CodeCanceled
	}
	if errors.Is(err, egress.ErrDenied) {
		return CodeAddressDenied
	}
	if !time.Now().Before(deadline) {
		return CodeTimeout
	}
	if _, ok := errors.AsType[*tlsError](err); ok {
		return CodeTLS
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return CodeDNS
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		switch op.Op {
		case "dial":
			return dialCode(op)
		case "remote error", "local error":
			return CodeTLS // an alert; in TLS 1.3 a missing client certificate shows only now
		default:
			return CodeConnectionReset
		}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return CodeConnectionReset
	}
	return CodeMalformed
}

func dialCode(err *net.OpError) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return CodeConnectRefused
	case err.Timeout():
		return CodeConnectTimeout
	default:
		return CodeConnectFailed
	}
}

// bodyCode is transportCode for an answer that broke off within its body.
func bodyCode(ctx context.Context, deadline time.Time, err error) string {
	code := transportCode(ctx, deadline, err)
	if code == CodeConnectionReset {
		return CodeTruncated
	}
	return code
}
