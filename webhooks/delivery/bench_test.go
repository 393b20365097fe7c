package delivery

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kpush/kpush/internal/records"
	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/egress"
)

// batchOf makes n records with values of about size bytes.
func batchOf(n, size int, json bool) *records.Batch {
	b := records.Get()
	value := bytes.Repeat([]byte{0xfe, 'a', 0}, size/3+1)[:size]
	if json {
		value = jsonValue(size)
	}
	for i := range n {
		r := records.Record{Offset: int64(1_000_000 + i), Timestamp: 1_790_000_000_123, TimestampType: records.TimestampCreate}
		b.Append(r, []byte("key-"+strconv.Itoa(i)), value)
	}
	return b
}

// jsonValue is an order of about size bytes: short names, numbers, text.
func jsonValue(size int) []byte {
	const item = `{"sku":"A-17","name":"a thing of some kind","price":12.50,"count":3,"tags":["x","y"],"ok":true},`
	return []byte(`{"items":[` + strings.TrimSuffix(strings.Repeat(item, max(1, size/len(item))), ",") + `]}`)
}

var shapes = []struct {
	name    string
	records int
	size    int
}{{"1KBx100", 100, 1000}, {"200Bx100", 100, 200}, {"1KBx1", 1, 1000}}

func benchClient(tb testing.TB, url, value string, signed bool) *Client {
	tb.Helper()
	w := webhooks.Default()
	w.ID, w.URL, w.GroupID = "orders-to-billing", url, "kpush.default.orders-to-billing"
	w.Format.Value, w.Signing.Enabled = value, signed
	c, err := NewClient(Config{Webhook: w, Signer: NewSigner(webhooks.Entry{Webhook: w, Secret: make([]byte, 32)}), AckURL: "https://gw.example.com/ack", UserAgent: "kpush/1", Guard: testGuard(egress.Options{})})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

func benchAttempt() Attempt {
	return Attempt{Number: 1, Generation: 42, Token: strings.Repeat("t", 120), Now: time.UnixMilli(1_790_000_000_123)}
}

func BenchmarkEncode(b *testing.B) {
	for _, s := range shapes {
		for _, value := range []string{"base64", "json"} {
			b.Run(s.name+"/"+value, func(b *testing.B) {
				c := benchClient(b, "http://localhost", value, false)
				batch := batchOf(s.records, s.size, value == "json")
				b.SetBytes(int64(batch.Bytes()))
				b.ReportAllocs()
				for b.Loop() {
					m := c.Encode("dl_3kq9x7w2m5", "orders", 3, batch, 0, batch.Len())
					m.body(benchAttempt())
					m.Free()
				}
			})
		}
		b.Run(s.name+"/bare", func(b *testing.B) {
			batch := batchOf(s.records, s.size, false)
			b.SetBytes(int64(batch.Bytes()))
			b.ReportAllocs()
			var body []byte
			for b.Loop() {
				body = bareEnvelope(body[:0], batch)
			}
		})
	}
}

// BenchmarkCompress is what an encoding costs the sender, per delivery of 100 records.
func BenchmarkCompress(b *testing.B) {
	for _, kind := range []string{"json", "base64"} {
		c := benchClient(b, "http://localhost", kind, false)
		batch := batchOf(100, 1000, kind == "json")
		m := c.Encode("dl_3kq9x7w2m5", "orders", 3, batch, 0, batch.Len())
		body := m.body(benchAttempt())
		for name, pack := range map[string]func(dst, body []byte) []byte{"gzip": gzipped, "zstd": zstandard} {
			b.Run(kind+"/"+name, func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				var packed []byte
				for b.Loop() {
					packed = pack(packed[:0], body)
				}
				b.ReportMetric(float64(len(packed))/float64(len(body)), "ratio")
			})
		}
		m.Free()
	}
}

func BenchmarkSign(b *testing.B) {
	body := make([]byte, 140_000)
	signed := []byte("dl_3kq9x7w2m5.1790000000.")
	now := time.Now()
	secret, private := make([]byte, 32), ed25519.NewKeyFromSeed(make([]byte, 32))
	for _, test := range []struct {
		name    string
		schemes []string
		former  []webhooks.FormerKey
	}{
		{"v1", []string{"v1"}, nil},
		{"v1, a former key ended", []string{"v1"}, []webhooks.FormerKey{{Secret: secret, Until: now}}},
		{"v1, in an overlap", []string{"v1"}, []webhooks.FormerKey{{Secret: secret, Until: now.Add(time.Hour)}}},
		{"v1a", []string{"v1a"}, nil},
	} {
		b.Run(test.name, func(b *testing.B) {
			w := webhooks.Default()
			w.Signing.Schemes = test.schemes
			s := NewSigner(webhooks.Entry{Webhook: w, Secret: secret, Private: private, Former: test.former}).keys.Load()
			var dst []byte
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				dst = s.append(dst[:0], now, signed, body)
			}
		})
	}
}

func BenchmarkValidate(b *testing.B) {
	var v validator
	value := jsonValue(1000)
	for name, valid := range map[string]func([]byte) bool{"ours": v.embeddable, "bare": validAndUTF8} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(value)))
			for b.Loop() {
				if !valid(value) {
					b.Fatal("not valid")
				}
			}
		})
	}
}

// BenchmarkDeliver is a delivery from the batch to the verdict; bare is the same
// without anything of ours: few headers, a fresh buffer, http.Client.
func BenchmarkDeliver(b *testing.B) {
	url := "http://" + minimalReceiver(b)
	for _, s := range shapes {
		batch := batchOf(s.records, s.size, false)
		for _, signed := range []bool{false, true} {
			b.Run(s.name+"/signed="+strconv.FormatBool(signed), func(b *testing.B) {
				c := benchClient(b, url, "base64", signed)
				b.ReportAllocs()
				defer reportCPU(b)()
				for b.Loop() {
					m := c.Encode("dl_3kq9x7w2m5", "orders", 3, batch, 0, batch.Len())
					if res := c.Send(b.Context(), m, benchAttempt()); res.Verdict != Acked {
						b.Fatalf("not acked: %+v", res)
					}
					m.Free()
				}
			})
		}
		b.Run(s.name+"/bare", func(b *testing.B) {
			client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true}}
			b.ReportAllocs()
			defer reportCPU(b)()
			var body []byte
			for b.Loop() {
				body = bareEnvelope(body[:0], batch)
				req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, url, bytes.NewReader(body))
				if err != nil {
					b.Fatal(err)
				}
				req.Header.Set("Content-Type", "application/json")
				resp, err := client.Do(req)
				if err != nil {
					b.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			client.CloseIdleConnections()
		})
	}
}

// bareEnvelope is the least a batch can be written as.
func bareEnvelope(dst []byte, b *records.Batch) []byte {
	dst = append(dst, `{"topic":"orders","partition":3,"records":[`...)
	for i := range b.Len() {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"offset":`...)
		dst = strconv.AppendInt(dst, b.Records[i].Offset, 10)
		dst = append(dst, `,"timestamp":`...)
		dst = strconv.AppendInt(dst, b.Records[i].Timestamp, 10)
		dst = append(dst, `,"key":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, b.Key(i))
		dst = append(dst, `","value":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, b.Value(i))
		dst = append(dst, `"}`...)
	}
	return append(dst, `]}`...)
}

// minimalReceiver answers 200 to each request and does as little as can be; it
// returns its address.
func minimalReceiver(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				in := bufio.NewReaderSize(conn, 256<<10)
				for {
					length := 0
					for {
						line, err := in.ReadSlice('\n')
						if err != nil {
							return
						}
						if len(line) == 2 {
							break
						}
						if n, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
							length, _ = strconv.Atoi(string(bytes.TrimSpace(n)))
						}
					}
					if _, err := in.Discard(length); err != nil {
						return
					}
					if _, err := conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// reportCPU adds what the whole process used of the CPU, the receiver's share included.
func reportCPU(b *testing.B) func() {
	used := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") }
}
