package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/kpush/kpush/test/bench/meter"
)

// sink counts what arrives in the current run.
type sink struct {
	mu    sync.Mutex
	out   *json.Encoder
	order meter.Order

	result   meter.Result
	answered int64 // requests
	settled  int64 // records of them
	done     bool
	next     []int64 // by partition: the offset that has to come
	started  time.Time
	cpu      time.Duration
	handling time.Duration
	ways     []time.Duration // from produced to received
}

// say writes one line.
func (s *sink) say(l meter.Line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.Encode(l)
}

// begin forgets the run before and starts counting anew.
func (s *sink) begin(o meter.Order) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.order, s.result, s.done = o, meter.Result{}, false
	s.answered, s.settled = 0, 0
	s.next = make([]int64, o.Partitions)
	s.started, s.handling = time.Time{}, 0
	s.ways = s.ways[:0]
}

func (s *sink) delay(ms int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.order.DelayMs = ms
}

func (s *sink) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go s.serve(conn)
	}
}

// bufferSize takes most of a batch in one call to the kernel.
const bufferSize = 256 << 10

var answer = []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

// serve answers the requests of one connection until it ends.
func (s *sink) serve(conn net.Conn) {
	defer conn.Close()
	reader := bufio.NewReaderSize(conn, bufferSize)
	var buf []byte
	for {
		if _, err := reader.Peek(1); err != nil {
			return
		}
		stamps := s.arriving()
		h, err := readHead(reader)
		if err == nil {
			buf, err = body(reader, buf, h.length, stamps)
		}
		if err != nil {
			s.found("a request cut short: %v", err)
			return
		}
		received := time.Now()
		pause := s.count(h, buf, received)
		if pause > 0 {
			time.Sleep(pause)
		}
		s.answering(h, time.Since(received))
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}

// arriving starts the clocks at the first request of a run.
func (s *sink) arriving() (stamps bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started.IsZero() && s.order.Pid != 0 {
		s.started = time.Now()
		cpu, err := meter.CPU(s.order.Pid)
		if err != nil {
			s.note("%v", err)
		}
		s.cpu = cpu
	}
	return s.order.Stamps
}

// count enters a request and says how long to wait with the answer.
func (s *sink) count(h head, body []byte, now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	pause := time.Duration(s.order.DelayMs) * time.Millisecond
	if s.done || h.partition >= len(s.next) {
		return pause
	}
	if h.first != s.next[h.partition] || h.last-h.first+1 != h.count {
		s.note("partition %d: %d records %d..%d came where %d was due", h.partition, h.count, h.first, h.last, s.next[h.partition])
	}
	s.next[h.partition] = h.last + 1
	s.result.Requests++
	s.result.Records += h.count
	s.result.BodyBytes += int64(h.length)
	if s.order.Stamps && s.result.Records > s.order.Skip {
		s.stamps(body, now)
	}
	return pause
}

// answering enters the time a request was held; the last one ends the run.
func (s *sink) answering(h head, held time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return
	}
	s.handling += held
	s.answered++
	s.settled += h.count
	if s.settled < s.order.Expect {
		return
	}
	s.done = true
	s.result.WallNs = time.Since(s.started).Nanoseconds()
	cpu, err := meter.CPU(s.order.Pid)
	if err != nil {
		s.note("%v", err)
	}
	s.result.CPUNs = (cpu - s.cpu).Nanoseconds()
	s.result.HandlingNs = s.handling.Nanoseconds() / s.answered
	if n := len(s.ways); n > 0 {
		slices.Sort(s.ways)
		s.result.P50Ns = s.ways[n/2].Nanoseconds()
		s.result.P99Ns = s.ways[n*99/100].Nanoseconds()
	}
	s.out.Encode(meter.Line{Result: &s.result})
}

var valueField = []byte(`"value_base64":"`)

// stamps notes how long each record of a body was on its way.
func (s *sink) stamps(body []byte, now time.Time) {
	const encoded = meter.StampSize / 3 * 4
	for {
		at := bytes.Index(body, valueField)
		if at < 0 || len(body) < at+len(valueField)+encoded {
			return
		}
		body = body[at+len(valueField):]
		var stamp [meter.StampSize]byte
		if _, err := base64.StdEncoding.Decode(stamp[:], body[:encoded]); err != nil || [4]byte(stamp[:4]) != meter.Stamp {
			s.note("a value without a stamp")
			return
		}
		produced := time.Unix(0, int64(binary.BigEndian.Uint64(stamp[4:])))
		s.ways = append(s.ways, now.Sub(produced))
	}
}

// maxAnomalies bounds the list; the first ones tell the story.
const maxAnomalies = 20

func (s *sink) found(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note(format, args...)
}

// note is called with the lock held.
func (s *sink) note(format string, args ...any) {
	if len(s.result.Anomalies) < maxAnomalies {
		s.result.Anomalies = append(s.result.Anomalies, fmt.Sprintf(format, args...))
	}
}
