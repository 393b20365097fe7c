package webhooks

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The limits of a webhook. Those that contract section 2 leaves open are ours:
// they keep an entry of the registry well below what one Kafka record may hold.
const (
	maxURL         = 2048
	maxTopics      = 100
	maxTopicName   = 249
	maxPattern     = 500
	maxGroupID     = 255
	maxDescription = 1024
	maxLabels      = 32
	maxLabelValue  = 256
	maxHeaders     = 32
	maxHeaderBytes = 8 << 10 // names and values together

	maxInFlight     = 1000
	maxBatchRecords = 10_000
	maxBatchBytes   = 16 << 20
	maxLingerMs     = 60_000

	maxFetchBytes      = 100_000_000 // what the Kafka client takes for fetch.min.bytes
	maxFetchWaitMs     = 30_000      // stays below the client's socket timeout
	maxPrefetchRecords = 100_000
	minPrefetchBytes   = 1 << 10
	maxPrefetchBytes   = 256 << 20

	minTimeoutMs        = 100
	maxRequestTimeoutMs = 600_000
	maxAckTimeoutMs     = 3_600_000
	maxAckMaxTimeoutMs  = 86_400_000
	maxBackoffMs        = 3_600_000
	maxMultiplier       = 10
	maxPerSecond        = 1_000_000_000_000 // records, requests, bytes
	maxAttempts         = 1_000_000_000
	maxAgeMs            = 10 * 365 * 86_400_000 // ten years
)

var (
	idPattern    = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$`)
	topicPattern = regexp.MustCompile(`^[a-zA-Z0-9._-]+$`)
	groupPattern = regexp.MustCompile(`^[!-~]+$`)
	labelPattern = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._/-]{0,61}[a-zA-Z0-9])?$`)
	tokenPattern = regexp.MustCompile("^[a-zA-Z0-9!#$%&'*+.^_`|~-]+$")
	valuePattern = regexp.MustCompile(`^([!-~]([\t -~]*[!-~])?)?$`)
)

// Validate checks every rule and limit of the resource. It returns nil or a
// *ValidationError with all complaints.
func (w *Webhook) Validate() error {
	var c complaints
	w.check(&c)
	return c.err()
}

func (w *Webhook) check(c *complaints) {
	w.checkIdentity(c)
	checkURL(c, "/url", w.URL)
	w.checkTopics(c)
	checkLabels(c, "/labels", w.Labels)
	checkStart(c, "/start", w.Start)
	oneOf(c, "/offset_reset", w.OffsetReset, ResetError, ResetEarliest, ResetLatest)
	oneOf(c, "/isolation_level", w.IsolationLevel, ReadCommitted, ReadUncommitted)
	oneOf(c, "/ordering", w.Ordering, OrderingPartition, OrderingNone, OrderingKey)
	within(c, "/max_in_flight", w.MaxInFlight, 1, maxInFlight)

	within(c, "/batch/max_records", w.Batch.MaxRecords, 1, maxBatchRecords)
	within(c, "/batch/max_bytes", w.Batch.MaxBytes, 1, maxBatchBytes)
	within(c, "/batch/linger_ms", w.Batch.LingerMs, 0, maxLingerMs)

	within(c, "/fetch/min_bytes", w.Fetch.MinBytes, 1, maxFetchBytes)
	within(c, "/fetch/max_bytes", w.Fetch.MaxBytes, 1, maxFetchBytes)
	within(c, "/fetch/max_wait_ms", w.Fetch.MaxWaitMs, 0, maxFetchWaitMs)
	within(c, "/fetch/prefetch_records", w.Fetch.PrefetchRecords, 1, maxPrefetchRecords)
	within(c, "/fetch/prefetch_bytes", w.Fetch.PrefetchBytes, minPrefetchBytes, maxPrefetchBytes)

	w.checkFormat(c)

	within(c, "/request/timeout_ms", w.Request.TimeoutMs, minTimeoutMs, maxRequestTimeoutMs)
	checkHeaders(c, "/request/headers", w.Request.Headers)
	w.checkAck(c)
	w.checkRetry(c)
	within(c, "/limits/records_per_second", w.Limits.RecordsPerSecond, 0, maxPerSecond)
	within(c, "/limits/requests_per_second", w.Limits.RequestsPerSecond, 0, maxPerSecond)
	within(c, "/limits/bytes_per_second", w.Limits.BytesPerSecond, 0, maxPerSecond)
	w.checkExhausted(c)
	checkTLS(c, "/tls", w.TLS)
	checkAuth(c, "/auth", w.Auth, w.Request.Headers)
	checkSigning(c, "/signing", w.Signing)
	checkFilter(c, "/filter", w.Filter)
	if w.Lifecycle != nil {
		checkURL(c, "/lifecycle/url", w.Lifecycle.URL)
	}
}

func (w *Webhook) checkIdentity(c *complaints) {
	if !idPattern.MatchString(w.ID) {
		c.add("/id", "must be 1 to 63 of a-z, 0-9, - and _, with a letter or digit at both ends")
	}
	if len(w.GroupID) > maxGroupID || !groupPattern.MatchString(w.GroupID) {
		c.add("/group_id", "must be 1 to %d printable ASCII characters without spaces", maxGroupID)
	}
	if len(w.Description) > maxDescription || strings.ContainsFunc(w.Description, isControl) {
		c.add("/description", "must be at most %d bytes of text", maxDescription)
	}
}

// isControl tells what text for people may not hold; line breaks and tabs it may.
func isControl(r rune) bool {
	return unicode.IsControl(r) && r != '\n' && r != '\t' || r == utf8.RuneError
}

func (w *Webhook) checkTopics(c *complaints) {
	if len(w.Topics) == 0 || len(w.Topics) > maxTopics {
		c.add("/topics", "must be 1 to %d topic names, or one pattern", maxTopics)
		return
	}
	seen := map[string]bool{}
	for i, t := range w.Topics {
		pointer := fmt.Sprintf("/topics/%d", i)
		switch {
		case !isPattern(t):
			checkTopic(c, pointer, t)
		case len(w.Topics) > 1:
			c.add(pointer, "must be a topic name: a pattern stands alone, without names and other patterns")
		default:
			checkPattern(c, pointer, t)
		}
		if seen[t] {
			c.add(pointer, "is a duplicate")
		}
		seen[t] = true
	}
}

func checkTopic(c *complaints, pointer, name string) {
	if len(name) > maxTopicName || !topicPattern.MatchString(name) || name == "." || name == ".." {
		c.add(pointer, "must be a Kafka topic name: 1 to %d of a-z, A-Z, 0-9, ., _ and -", maxTopicName)
	}
}

// twoWays finds what regexp and regcomp(3) read differently, or one of them not at
// all: a backslash other than before a full stop, for regcomp has escapes of its
// own and none between brackets; a repeated anchor; a brace that repeats nothing;
// collating symbols.
var twoWays = regexp.MustCompile(`\\([^.]|$)|\[\^?\]?[^\]]*\\|\^[*+?{]|\{([^0-9]|$)|\{[0-9]+,?[0-9]*([^0-9,}]|$)|\[[.=]`)

// checkPattern allows what Go's regexp, by which we look, and the Kafka client's
// regcomp(3), by which it subscribes, understand in the same way.
func checkPattern(c *complaints, pointer, pattern string) {
	if len(pattern) > maxPattern {
		c.add(pointer, "must be at most %d bytes", maxPattern)
		return
	}
	_, err := regexp.Compile(pattern)
	_, posix := regexp.CompilePOSIX(pattern)
	switch {
	case err != nil || posix != nil || strings.ContainsFunc(pattern, func(r rune) bool { return r <= ' ' || r > '~' }):
		c.add(pointer, "must be a POSIX extended regular expression in ASCII without spaces")
	case twoWays.MatchString(pattern):
		c.add(pointer, "uses \\, ^, { or [ in a way that Kafka clients do not agree on; "+
			"a backslash may stand before a full stop only, and not between brackets")
	}
}

// InternalPrefix begins the names of topics that no pattern chooses and no dead
// letter goes to: Kafka's own, and ours.
const InternalPrefix = "__"

// Chooses tells whether a topic is one of the webhook's. A pattern that is too long
// or does not compile chooses none: it has been complained about.
func (w *Webhook) Chooses(topic string) bool {
	if pattern, ok := w.TopicPattern(); ok {
		if len(pattern) > maxPattern {
			return false
		}
		re, err := regexp.Compile(pattern)
		return err == nil && re.MatchString(topic) && !strings.HasPrefix(topic, InternalPrefix)
	}
	return slices.Contains(w.Topics, topic)
}

func checkLabels(c *complaints, pointer string, labels map[string]string) {
	if len(labels) > maxLabels {
		c.add(pointer, "must be at most %d labels", maxLabels)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		at := child(pointer, name)
		if !labelPattern.MatchString(name) {
			c.add(at, "must have a name of 1 to 63 of a-z, A-Z, 0-9, ., _, / and -, with a letter or digit at both ends")
		}
		if value := labels[name]; len(value) > maxLabelValue || strings.ContainsFunc(value, unicode.IsControl) {
			c.add(at, "must be at most %d bytes of text in one line", maxLabelValue)
		}
	}
}

// checkStart refuses times before 1970: in Kafka's protocol negative times are
// words of their own.
func checkStart(c *complaints, pointer, start string) {
	if start == StartLatest || start == StartEarliest {
		return
	}
	if t, err := time.Parse(time.RFC3339, start); err != nil || t.UnixMilli() < 0 {
		c.add(pointer, "must be latest, earliest or an RFC 3339 time from 1970 on")
	}
}

// reservedHeaders are set by the gateway or belong to one connection.
var reservedHeaders = []string{
	"host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect", "traceparent", "accept-encoding",
}

var reservedHeaderPrefixes = []string{"content-", "proxy-", "webhook-", "ce-", "kpush-"}

func reserved(header string) bool {
	return slices.Contains(reservedHeaders, header) ||
		slices.ContainsFunc(reservedHeaderPrefixes, func(p string) bool { return strings.HasPrefix(header, p) })
}

func checkHeaders(c *complaints, pointer string, headers map[string]string) {
	if len(headers) > maxHeaders {
		c.add(pointer, "must be at most %d headers", maxHeaders)
		return
	}
	size := 0
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		at, value, lower := child(pointer, name), headers[name], strings.ToLower(name)
		size += len(name) + len(value)
		switch {
		case !tokenPattern.MatchString(name):
			c.add(at, "is not a legal header name")
		case reserved(lower):
			c.add(at, "is a reserved header name")
		case seen[lower]:
			c.add(at, "is a header given twice: case does not matter")
		case !valuePattern.MatchString(value):
			c.add(at, "must be printable ASCII without spaces at the ends")
		}
		seen[lower] = true
	}
	if size > maxHeaderBytes {
		c.add(pointer, "must be at most %d bytes, names and values together", maxHeaderBytes)
	}
}

func (w *Webhook) checkAck(c *complaints) {
	oneOf(c, "/ack/mode", w.Ack.Mode, AckAuto, AckExplicit)
	within(c, "/ack/timeout_ms", w.Ack.TimeoutMs, minTimeoutMs, maxAckTimeoutMs)
	within(c, "/ack/max_timeout_ms", w.Ack.MaxTimeoutMs, minTimeoutMs, maxAckMaxTimeoutMs)
	if w.Ack.TimeoutMs > w.Ack.MaxTimeoutMs && w.Ack.MaxTimeoutMs >= minTimeoutMs {
		c.add("/ack/timeout_ms", "must not be above max_timeout_ms")
	}
}

func (w *Webhook) checkRetry(c *complaints) {
	within(c, "/retry/initial_backoff_ms", w.Retry.InitialBackoffMs, 1, maxBackoffMs)
	within(c, "/retry/max_backoff_ms", w.Retry.MaxBackoffMs, 1, maxBackoffMs)
	if w.Retry.InitialBackoffMs > w.Retry.MaxBackoffMs && w.Retry.MaxBackoffMs >= 1 {
		c.add("/retry/initial_backoff_ms", "must not be above max_backoff_ms")
	}
	// Written so that NaN, which JSON cannot bring but Go code can, is refused too.
	if !(w.Retry.Multiplier >= 1 && w.Retry.Multiplier <= maxMultiplier) {
		c.add("/retry/multiplier", "must be from 1 to %d", maxMultiplier)
	}
	within(c, "/retry/max_attempts", w.Retry.MaxAttempts, 0, maxAttempts)
	within(c, "/retry/max_age_ms", w.Retry.MaxAgeMs, 0, maxAgeMs)
}

func (w *Webhook) checkExhausted(c *complaints) {
	oneOf(c, "/on_exhausted", w.OnExhausted, OnExhaustedBlock, OnExhaustedDeadLetter, OnExhaustedSkip)
	oneOf(c, "/on_undecodable", w.OnUndecodable, OnUndecodableBase64, OnUndecodableBlock, OnUndecodableDeadLetter, OnUndecodableSkip)
	if w.OnUndecodable != OnUndecodableBase64 && w.Format.Value != "json" {
		c.add("/on_undecodable", "must be base64 unless format.value is json")
	}
	const pointer = "/dead_letter/topic"
	topic := w.DeadLetter.Topic
	switch {
	case topic != nil:
		checkTopic(c, pointer, *topic)
		if strings.HasPrefix(*topic, InternalPrefix) {
			c.add(pointer, "must not begin with %s: what Kafka and the gateway keep there would be damaged", InternalPrefix)
		}
		if w.Chooses(*topic) {
			c.add(pointer, "must not be one of topics, nor match their pattern: dead letters would be delivered again")
		}
	case w.OnExhausted == OnExhaustedDeadLetter:
		c.add(pointer, "is required when on_exhausted is dead_letter")
	case w.OnUndecodable == OnUndecodableDeadLetter:
		c.add(pointer, "is required when on_undecodable is dead_letter")
	}
}

func oneOf(c *complaints, pointer, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		c.add(pointer, "must be one of: %s", strings.Join(allowed, ", "))
	}
}

func within[T int | int64](c *complaints, pointer string, value, least, most T) {
	if value < least || value > most {
		c.add(pointer, "must be from %d to %d", least, most)
	}
}
