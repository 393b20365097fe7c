package webhooks

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func valid() Webhook {
	w := Default()
	w.ID, w.URL, w.Topics, w.GroupID = "billing", "https://example.com/hook", []string{"orders"}, "g"
	return w
}

func TestURLRules(t *testing.T) {
	tests := map[string]struct {
		url  string
		good bool
	}{
		"https":                    {"https://example.com/a/b?c=d&e=%23", true},
		"http":                     {"http://example.com", true},
		"scheme in capitals":       {"HTTPS://example.com/", true},
		"a port":                   {"https://example.com:65535/", true},
		"a name of one label":      {"http://receiver:9000/", true},
		"an underscore in a name":  {"http://my_receiver/", true},
		"a final dot":              {"http://example.com./", true},
		"IPv4":                     {"http://127.0.0.1:9000/", true},
		"IPv6":                     {"http://[::1]:9000/", true},
		"2048 bytes":               {"https://example.com/" + strings.Repeat("a", 2028), true},
		"2049 bytes":               {"https://example.com/" + strings.Repeat("a", 2029), false},
		"relative":                 {"/hook", false},
		"no scheme":                {"example.com/hook", false},
		"another scheme":           {"ftp://example.com/", false},
		"no slashes":               {"https:example.com", false},
		"no host":                  {"https:///hook", false},
		"a port and no host":       {"https://:443/hook", false},
		"a user":                   {"https://me@example.com/", false},
		"a user and password":      {"https://me:pw@example.com/", false},
		"an empty user":            {"https://@example.com/", false},
		"a fragment":               {"https://example.com/#a", false},
		"an empty fragment":        {"https://example.com/#", false},
		"port 0":                   {"https://example.com:0/", false},
		"port 65536":               {"https://example.com:65536/", false},
		"a colon and no port":      {"https://example.com:/", false},
		"a space":                  {"https://example.com/a b", false},
		"a line break":             {"https://example.com/\r\nx: y", false},
		"a name not in punycode":   {"https://exämple.com/", false},
		"a bad percent-encoding":   {"https://example.com/%zz", false},
		"an encoded host":          {"https://exa%6dple.com/", false},
		"an encoded space in host": {"https://exa%20mple.com/", false},
		"an IPv6 zone":             {"https://[fe80::1%25eth0]/", false},
		"IPv4 in brackets":         {"https://[127.0.0.1]/", false},
		"a quote in the host":      {`https://exa"mple.com/`, false},
		"two dots in the host":     {"https://example..com/", false},
		"a hyphen at the end":      {"https://example-.com/", false},
		"a host of 254 bytes":      {"https://" + strings.Repeat("a.", 127) + "/", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := valid()
			w.URL = tt.url
			if err := w.Validate(); (err == nil) != tt.good {
				t.Errorf("Validate: %v, want good = %v", err, tt.good)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	ints := map[string]struct {
		field       func(*Webhook) *int
		least, most int
	}{
		"/max_in_flight":              {func(w *Webhook) *int { return &w.MaxInFlight }, 1, 1000},
		"/batch/max_records":          {func(w *Webhook) *int { return &w.Batch.MaxRecords }, 1, 10_000},
		"/batch/max_bytes":            {func(w *Webhook) *int { return &w.Batch.MaxBytes }, 1, 16 << 20},
		"/batch/linger_ms":            {func(w *Webhook) *int { return &w.Batch.LingerMs }, 0, 60_000},
		"/fetch/min_bytes":            {func(w *Webhook) *int { return &w.Fetch.MinBytes }, 1, 100_000_000},
		"/fetch/max_bytes":            {func(w *Webhook) *int { return &w.Fetch.MaxBytes }, 1, 100_000_000},
		"/fetch/max_wait_ms":          {func(w *Webhook) *int { return &w.Fetch.MaxWaitMs }, 0, 30_000},
		"/fetch/prefetch_records":     {func(w *Webhook) *int { return &w.Fetch.PrefetchRecords }, 1, 100_000},
		"/fetch/prefetch_bytes":       {func(w *Webhook) *int { return &w.Fetch.PrefetchBytes }, 1 << 10, 256 << 20},
		"/request/timeout_ms":         {func(w *Webhook) *int { return &w.Request.TimeoutMs }, 100, 600_000},
		"/ack/timeout_ms":             {func(w *Webhook) *int { return &w.Ack.TimeoutMs }, 100, 3_600_000},
		"/ack/max_timeout_ms":         {func(w *Webhook) *int { return &w.Ack.MaxTimeoutMs }, 100, 86_400_000},
		"/retry/initial_backoff_ms":   {func(w *Webhook) *int { return &w.Retry.InitialBackoffMs }, 1, 3_600_000},
		"/retry/max_backoff_ms":       {func(w *Webhook) *int { return &w.Retry.MaxBackoffMs }, 1, 3_600_000},
		"/limits/records_per_second":  {func(w *Webhook) *int { return &w.Limits.RecordsPerSecond }, 0, 1_000_000_000_000},
		"/limits/requests_per_second": {func(w *Webhook) *int { return &w.Limits.RequestsPerSecond }, 0, 1_000_000_000_000},
		"/limits/bytes_per_second":    {func(w *Webhook) *int { return &w.Limits.BytesPerSecond }, 0, 1_000_000_000_000},
		"/retry/max_attempts":         {func(w *Webhook) *int { return &w.Retry.MaxAttempts }, 0, 1_000_000_000},
	}
	for pointer, tt := range ints {
		for value, good := range map[int]bool{tt.least: true, tt.least - 1: false, tt.most: true, tt.most + 1: false} {
			w := valid()
			// The neighbours that must not be smaller or larger.
			w.Ack.MaxTimeoutMs, w.Retry.MaxBackoffMs = 86_400_000, 3_600_000
			w.Ack.TimeoutMs, w.Retry.InitialBackoffMs = 100, 1
			*tt.field(&w) = value
			got := pointers(t, w.Validate())
			if (len(got) == 0) != good {
				t.Errorf("%s = %d: complaints about %q, want good = %v", pointer, value, got, good)
			}
			if !good && (len(got) == 0 || !contains(got, pointer)) {
				t.Errorf("%s = %d: complaints about %q", pointer, value, got)
			}
		}
	}
}

func contains(all []string, one string) bool {
	for _, s := range all {
		if s == one {
			return true
		}
	}
	return false
}

func TestRules(t *testing.T) {
	topic := func(name string) *string { return &name }
	many := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprintf("x-%d", i)] = "v"
		}
		return m
	}
	topics := func(n int) []string {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprint("t", i))
		}
		return names
	}
	headers := func(name, value string) func(*Webhook) {
		return func(w *Webhook) { w.Request.Headers = map[string]string{name: value} }
	}
	tests := map[string]struct {
		change func(*Webhook)
		want   []string
	}{
		"an id with a capital":             {func(w *Webhook) { w.ID = "Billing" }, []string{"/id"}},
		"an id of 64":                      {func(w *Webhook) { w.ID = strings.Repeat("a", 64) }, []string{"/id"}},
		"an id that ends in a hyphen":      {func(w *Webhook) { w.ID = "a-" }, []string{"/id"}},
		"an id with a line break":          {func(w *Webhook) { w.ID = "a\n" }, []string{"/id"}},
		"an id with a slash":               {func(w *Webhook) { w.ID = "a/b" }, []string{"/id"}},
		"a group of 255":                   {func(w *Webhook) { w.GroupID = strings.Repeat("g", 255) }, nil},
		"a group of 256":                   {func(w *Webhook) { w.GroupID = strings.Repeat("g", 256) }, []string{"/group_id"}},
		"a group no header can carry":      {func(w *Webhook) { w.GroupID = "a\r\nb" }, []string{"/group_id"}},
		"a description of 1025":            {func(w *Webhook) { w.Description = strings.Repeat("d", 1025) }, []string{"/description"}},
		"a description with a bell":        {func(w *Webhook) { w.Description = "\a" }, []string{"/description"}},
		"100 topics":                       {func(w *Webhook) { w.Topics = topics(100) }, nil},
		"101 topics":                       {func(w *Webhook) { w.Topics = topics(101) }, []string{"/topics"}},
		"no topic":                         {func(w *Webhook) { w.Topics = nil }, []string{"/topics"}},
		"a topic twice":                    {func(w *Webhook) { w.Topics = []string{"a", "b", "a"} }, []string{"/topics/2"}},
		"a pattern":                        {func(w *Webhook) { w.Topics = []string{"^orders.*"} }, nil},
		"a pattern among names":            {func(w *Webhook) { w.Topics = []string{"a", "^orders.*"} }, []string{"/topics/1"}},
		"two patterns":                     {func(w *Webhook) { w.Topics = []string{"^a", "^b"} }, []string{"/topics/0", "/topics/1"}},
		"a pattern of 500":                 {func(w *Webhook) { w.Topics = []string{"^" + strings.Repeat("t", 499)} }, nil},
		"a pattern of 501":                 {func(w *Webhook) { w.Topics = []string{"^" + strings.Repeat("t", 500)} }, []string{"/topics/0"}},
		"a topic of 249":                   {func(w *Webhook) { w.Topics = []string{strings.Repeat("t", 249)} }, nil},
		"a topic of 250":                   {func(w *Webhook) { w.Topics = []string{strings.Repeat("t", 250)} }, []string{"/topics/0"}},
		"topics . and ..":                  {func(w *Webhook) { w.Topics = []string{".", ".."} }, []string{"/topics/0", "/topics/1"}},
		"an empty topic, one with a space": {func(w *Webhook) { w.Topics = []string{"", "a b"} }, []string{"/topics/0", "/topics/1"}},
		"32 labels":                        {func(w *Webhook) { w.Labels = many(32) }, nil},
		"33 labels":                        {func(w *Webhook) { w.Labels = many(33) }, []string{"/labels"}},
		"a label with a colon":             {func(w *Webhook) { w.Labels = map[string]string{"a:b": ""} }, []string{"/labels/a:b"}},
		"a label of two lines":             {func(w *Webhook) { w.Labels = map[string]string{"a": "b\nc"} }, []string{"/labels/a"}},
		"a label's value of 257":           {func(w *Webhook) { w.Labels = map[string]string{"a": strings.Repeat("v", 257)} }, []string{"/labels/a"}},
		"start earliest":                   {func(w *Webhook) { w.Start = StartEarliest }, nil},
		"start at a time":                  {func(w *Webhook) { w.Start = "2026-09-22T10:00:00Z" }, nil},
		"start at the epoch":               {func(w *Webhook) { w.Start = "1970-01-01T00:00:00Z" }, nil},
		"start just before the epoch, where -1 is latest": {func(w *Webhook) { w.Start = "1969-12-31T23:59:59.999Z" }, []string{"/start"}},
		"start at a date":                                {func(w *Webhook) { w.Start = "2026-09-22" }, []string{"/start"}},
		"start at a number":                              {func(w *Webhook) { w.Start = "0" }, []string{"/start"}},
		"an unknown reset":                               {func(w *Webhook) { w.OffsetReset = "none" }, []string{"/offset_reset"}},
		"an unknown isolation":                           {func(w *Webhook) { w.IsolationLevel = "" }, []string{"/isolation_level"}},
		"ordering by key":                                {func(w *Webhook) { w.Ordering = OrderingKey }, nil},
		"an unknown order":                               {func(w *Webhook) { w.Ordering = "value" }, []string{"/ordering"}},
		"an unknown format":                              {func(w *Webhook) { w.Format.Type = "xml" }, []string{"/format/type"}},
		"an unknown key format":                          {func(w *Webhook) { w.Format.Key = "json" }, []string{"/format/key"}},
		"an unknown value format":                        {func(w *Webhook) { w.Format.Value = "avro" }, []string{"/format/value"}},
		"32 headers":                                     {func(w *Webhook) { w.Request.Headers = many(32) }, nil},
		"33 headers":                                     {func(w *Webhook) { w.Request.Headers = many(33) }, []string{"/request/headers"}},
		"8 KiB of headers":                               {headers("x", strings.Repeat("v", 8<<10-1)), nil},
		"8 KiB of headers and one byte":                  {headers("x", strings.Repeat("v", 8<<10)), []string{"/request/headers"}},
		"a header with a space in its name":              {headers("x y", "v"), []string{"/request/headers/x y"}},
		"a header without a name":                        {headers("", "v"), []string{"/request/headers/"}},
		"a header that brings another":                   {headers("x", "v\r\nHost: a"), []string{"/request/headers/x"}},
		"a header that is not ASCII":                     {headers("x", "ü"), []string{"/request/headers/x"}},
		"a header with a space at its end":               {headers("x", "v "), []string{"/request/headers/x"}},
		"a header with a tab inside":                     {headers("x", "v\tw"), nil},
		"a header in two cases":                          {func(w *Webhook) { w.Request.Headers = map[string]string{"X-A": "1", "x-a": "2"} }, []string{"/request/headers/x-a"}},
		"an ack mode of another time":                    {func(w *Webhook) { w.Ack.Mode = "manual" }, []string{"/ack/mode"}},
		"ack timeout above its maximum":                  {func(w *Webhook) { w.Ack.TimeoutMs, w.Ack.MaxTimeoutMs = 1001, 1000 }, []string{"/ack/timeout_ms"}},
		"ack timeout at its maximum":                     {func(w *Webhook) { w.Ack.TimeoutMs, w.Ack.MaxTimeoutMs = 1000, 1000 }, nil},
		"first backoff above the last":                   {func(w *Webhook) { w.Retry.InitialBackoffMs, w.Retry.MaxBackoffMs = 2, 1 }, []string{"/retry/initial_backoff_ms"}},
		"multiplier 10":                                  {func(w *Webhook) { w.Retry.Multiplier = 10 }, nil},
		"multiplier 0.99":                                {func(w *Webhook) { w.Retry.Multiplier = 0.99 }, []string{"/retry/multiplier"}},
		"multiplier 10.01":                               {func(w *Webhook) { w.Retry.Multiplier = 10.01 }, []string{"/retry/multiplier"}},
		"multiplier not a number":                        {func(w *Webhook) { w.Retry.Multiplier = math.NaN() }, []string{"/retry/multiplier"}},
		"a negative age":                                 {func(w *Webhook) { w.Retry.MaxAgeMs = -1 }, []string{"/retry/max_age_ms"}},
		"an age that no duration holds":                  {func(w *Webhook) { w.Retry.MaxAgeMs = math.MaxInt64 / 1000 }, []string{"/retry/max_age_ms"}},
		"an unknown end":                                 {func(w *Webhook) { w.OnExhausted = "drop" }, []string{"/on_exhausted"}},
		"skip":                                           {func(w *Webhook) { w.OnExhausted = OnExhaustedSkip }, nil},
		"what is not JSON skipped":                       {func(w *Webhook) { w.OnUndecodable, w.Format.Value = OnUndecodableSkip, "json" }, nil},
		"what is not JSON dropped":                       {func(w *Webhook) { w.OnUndecodable, w.Format.Value = "drop", "json" }, []string{"/on_undecodable"}},
		"what is not JSON, where it need not be":         {func(w *Webhook) { w.OnUndecodable = OnUndecodableSkip }, []string{"/on_undecodable"}},
		"what is not JSON dead-lettered without a topic": {func(w *Webhook) { w.OnUndecodable, w.Format.Value = OnUndecodableDeadLetter, "json" }, []string{"/dead_letter/topic"}},
		"dead letters without a topic":                   {func(w *Webhook) { w.OnExhausted = OnExhaustedDeadLetter }, []string{"/dead_letter/topic"}},
		"dead letters in a loop":                         {func(w *Webhook) { w.DeadLetter.Topic = topic("orders") }, []string{"/dead_letter/topic"}},
		"dead letters that match the pattern": {func(w *Webhook) {
			w.Topics, w.DeadLetter.Topic = []string{"^orders"}, topic("orders.dead")
		}, []string{"/dead_letter/topic"}},
		"dead letters beside the pattern": {func(w *Webhook) {
			w.Topics, w.DeadLetter.Topic = []string{"^orders"}, topic("dead.orders")
		}, nil},
		"dead letters and a pattern that is none": {func(w *Webhook) {
			w.Topics, w.DeadLetter.Topic = []string{"^(orders"}, topic("dead")
		}, []string{"/topics/0"}},
		"lifecycle calls":                   {func(w *Webhook) { w.Lifecycle = &Lifecycle{URL: "http://example.com/l?a=b"} }, nil},
		"lifecycle calls to nowhere":        {func(w *Webhook) { w.Lifecycle = &Lifecycle{} }, []string{"/lifecycle/url"}},
		"lifecycle calls to a relative url": {func(w *Webhook) { w.Lifecycle = &Lifecycle{URL: "/l"} }, []string{"/lifecycle/url"}},
		"lifecycle calls with a password":   {func(w *Webhook) { w.Lifecycle = &Lifecycle{URL: "https://a:b@c/"} }, []string{"/lifecycle/url"}},
		"dead letters to no legal topic":    {func(w *Webhook) { w.DeadLetter.Topic = topic("a b") }, []string{"/dead_letter/topic"}},
		"dead letters into the registry":    {func(w *Webhook) { w.DeadLetter.Topic = topic("__kpush_registry") }, []string{"/dead_letter/topic"}},
		"dead letters among Kafka's own":    {func(w *Webhook) { w.DeadLetter.Topic = topic("__consumer_offsets") }, []string{"/dead_letter/topic"}},
		"dead letters": {func(w *Webhook) {
			w.OnExhausted, w.DeadLetter.Topic = OnExhaustedDeadLetter, topic("orders.dead")
		}, nil},
	}
	for _, name := range []string{
		"Host", "content-type", "Content-Length", "connection", "Keep-Alive", "Transfer-Encoding", "TE", "Trailer", "Upgrade",
		"Proxy-Authorization", "webhook-id", "Webhook-Signature", "ce-id", "traceparent", "Kpush-Ack-Token", "Accept-Encoding",
	} {
		tests["reserved header "+name] = struct {
			change func(*Webhook)
			want   []string
		}{headers(name, "v"), []string{"/request/headers/" + name}}
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := valid()
			tt.change(&w)
			if diff := cmp.Diff(tt.want, pointers(t, w.Validate())); diff != "" {
				t.Errorf("complaints (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPatternsMeanOneThing holds what is accepted to what regexp and regcomp(3)
// with REG_EXTENDED agree on; the refused ones were seen to differ, or to fail in one.
func TestPatternsMeanOneThing(t *testing.T) {
	for pattern, good := range map[string]bool{
		`^orders\.(eu|us)\.[a-z0-9_-]+$`: true,
		`^orders-[0-9]{4}-[0-9]{2,}$`:    true,
		`^(o{2}){1,3}`:                   true,
		`^o{2}{1,3}`:                     false, // not in Go's own syntax
		`^[[:alpha:]]+[^._-]?$`:          true,
		`^`:                              true,
		`^(a|)*$`:                        true,
		`^[]a]`:                          true,
		`^(a`:                            false,
		`^a)`:                            false,
		`^[a`:                            false,
		`^a|*b`:                          false,
		`^a{1001}`:                       false,
		`^((a{100}){100}){100}`:          false,
		`^a{3,2}`:                        false,
		`^orders-\d+$`:                   false, // regcomp: the letter d
		`^\w+`:                           false, // regexp's POSIX syntax does not have it
		`^a\<b`:                          false, // regcomp: the beginning of a word
		`^a\x2e`:                         false,
		`^(a)\1`:                         false, // regcomp: what the group matched
		`^a\`:                            false,
		`^[a\]b]`:                        false, // regcomp: a or \, and then b]
		`^[^]\.]`:                        false,
		`^*orders`:                       false, // regexp: orders, wherever it stands
		`^+orders`:                       false,
		`^{2}`:                           false,
		`^a{,3}$`:                        false, // regcomp: none to three
		`^a{2`:                           false,
		`^a{2,x}`:                        false,
		`^a{`:                            false,
		`^[[.a.]]`:                       false,
		`^[[=a=]]`:                       false,
		`^(?:a)`:                         false,
		`^(?i)a`:                         false,
		`^a(?=b)`:                        false,
		`^a*?b`:                          true, // which names match does not depend on greed
		`^a**`:                           false,
		"^a b":                           false,
		"^a\n":                           false,
		"^ä":                             false,
		"^\xff":                          false,
	} {
		w := valid()
		w.Topics = []string{pattern}
		var want []string
		if !good {
			want = []string{"/topics/0"}
		}
		if diff := cmp.Diff(want, pointers(t, w.Validate())); diff != "" {
			t.Errorf("%q: complaints (-want +got):\n%s", pattern, diff)
		}
	}
}

// TestALongPatternIsNotCompiled: as long as a body may be, a pattern took time
// and memory of its size many times over before it was told that it is too long.
func TestALongPatternIsNotCompiled(t *testing.T) {
	dead := "orders.dead"
	w := valid()
	w.Topics, w.DeadLetter.Topic = []string{"^" + strings.Repeat("(a|b)*", 10_000)}, &dead
	allocs := testing.AllocsPerRun(1, func() {
		if got, want := pointers(t, w.Validate()), []string{"/topics/0"}; !cmp.Equal(got, want) {
			t.Errorf("complaints about %q, want %q", got, want)
		}
	})
	if allocs > 1000 {
		t.Errorf("%v allocations, want no more than a complaint takes", allocs)
	}
}

func TestTheDefaultsAreValid(t *testing.T) {
	w := valid()
	if err := w.Validate(); err != nil {
		t.Error(err)
	}
}
