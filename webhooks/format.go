package webhooks

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

const (
	maxFormatHeaders = 32
	maxFormatName    = 64
	maxSource        = 512
	maxEventType     = 255
)

func (w *Webhook) checkFormat(c *complaints) {
	f, d := &w.Format, Default().Format
	oneOf(c, "/format/type", f.Type, FormatEnvelope, FormatCloudEvents, FormatNDJSON, FormatRaw)
	oneOf(c, "/format/key", f.Key, "auto", "base64")
	oneOf(c, "/format/value", f.Value, "auto", "json", "string", "base64")
	oneOf(c, "/format/content_encoding", f.ContentEncoding, EncodingIdentity, EncodingGzip, EncodingZstd)
	if f.Type == FormatRaw {
		if w.Batch.MaxRecords > 1 {
			c.add("/batch/max_records", "must be 1 when format.type is raw: the body is the value of one record")
		}
		if f.Value != d.Value {
			c.add("/format/value", "must be auto when format.type is raw: the value goes as it is")
		}
	}
	switch {
	case f.Type != FormatCloudEvents && f.Source != d.Source:
		c.add("/format/source", "is for format.type cloudevents-batch")
	case len(f.Source) > maxSource || !isSource(f.Source):
		c.add("/format/source", "must be a URI reference of at most %d bytes without a fragment", maxSource)
	}
	switch {
	case f.Type != FormatCloudEvents && f.EventType != d.EventType:
		c.add("/format/event_type", "is for format.type cloudevents-batch")
	case len(f.EventType) > maxEventType || f.EventType == "" || !valuePattern.MatchString(f.EventType):
		c.add("/format/event_type", "must be 1 to %d printable ASCII characters without spaces at the ends", maxEventType)
	}
	w.checkFormatHeaders(c)
}

// isSource leaves out what the URL would be read from otherwise, and the fragment, in
// which the topic goes.
func isSource(source string) bool {
	_, err := url.Parse(source)
	return err == nil && groupPattern.MatchString(source) && !strings.ContainsAny(source, "#\"<>\\^`{|}")
}

func (w *Webhook) checkFormatHeaders(c *complaints) {
	const pointer = "/format/headers"
	headers := w.Format.Headers
	switch {
	case len(headers) > 0 && w.Format.Type != FormatRaw && w.Format.Type != FormatCloudEvents:
		c.add(pointer, "is for format.type raw and cloudevents-batch: others carry all headers of a record")
		return
	case len(headers) > maxFormatHeaders:
		c.add(pointer, "must be at most %d names", maxFormatHeaders)
		return
	}
	var seen []string
	for i, name := range headers {
		at := fmt.Sprintf("%s/%d", pointer, i)
		sent := strings.ToLower(name)
		if w.Format.Type == FormatCloudEvents {
			sent = HeaderExtension(name)
		}
		switch {
		case len(name) > maxFormatName || !tokenPattern.MatchString(name):
			c.add(at, "must be a legal header name of at most %d bytes", maxFormatName)
		case sent == HeaderExtension(""):
			c.add(at, "must have a letter or a digit in it")
		case slices.Contains(seen, sent):
			c.add(at, "goes by the same name as another one")
		}
		seen = append(seen, sent)
	}
}

// HeaderExtension is the name under which an event carries a record header of that
// name: CloudEvents has lower-case letters and digits alone.
func HeaderExtension(name string) string {
	return "kafkaheader" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return -1
	}, name)
}
