package main

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kpush/kpush/test/bench/meter"
)

// deliver sends one request of records first..last of partition 0.
func deliver(t *testing.T, url string, first, last int64, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]int64{
		"Kpush-Partition": 0, "Kpush-First-Offset": first, "Kpush-Last-Offset": last, "Kpush-Record-Count": last - first + 1,
	} {
		req.Header.Set(name, strconv.FormatInt(value, 10))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

// stamped is a body of one record that was produced at a time.
func stamped(at time.Time) string {
	var value [meter.StampSize]byte
	copy(value[:], meter.Stamp[:])
	binary.BigEndian.PutUint64(value[len(meter.Stamp):], uint64(at.UnixNano()))
	return `{"records":[{"value_base64":"` + base64.StdEncoding.EncodeToString(value[:]) + `"}]}`
}

func TestSinkCountsARun(t *testing.T) {
	for _, test := range []struct {
		name      string
		offsets   [][2]int64
		anomalies int
	}{
		{name: "records in order", offsets: [][2]int64{{0, 0}, {1, 1}, {2, 2}}},
		{name: "a record that came twice", offsets: [][2]int64{{0, 0}, {0, 0}, {1, 1}}, anomalies: 1},
		{name: "a record that is missing", offsets: [][2]int64{{0, 0}, {2, 2}, {3, 3}}, anomalies: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			reader, writer := io.Pipe()
			s := &sink{out: json.NewEncoder(writer)}
			go s.accept(listener)
			s.begin(meter.Order{Pid: os.Getpid(), Partitions: 1, Expect: 3, Stamps: true})

			const way = time.Second
			results := make(chan meter.Line, 1)
			go func() {
				var l meter.Line
				json.NewDecoder(reader).Decode(&l)
				results <- l
			}()
			for _, o := range test.offsets {
				deliver(t, "http://"+listener.Addr().String(), o[0], o[1], stamped(time.Now().Add(-way)))
			}
			r := (<-results).Result
			if r.Records != 3 || r.Requests != 3 || len(r.Anomalies) != test.anomalies {
				t.Errorf("got %d records in %d requests, anomalies %q; want 3 in 3 and %d", r.Records, r.Requests, r.Anomalies, test.anomalies)
			}
			if r.CPUNs <= 0 || r.WallNs <= 0 {
				t.Errorf("got %d ns of processor in %d ns, want both measured", r.CPUNs, r.WallNs)
			}
			if got := time.Duration(r.P50Ns); got < way || got > 2*way {
				t.Errorf("the way took %v, want about %v", got, way)
			}
		})
	}
}
