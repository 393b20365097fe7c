package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/kpush/kpush/internal/partitionqueue"
	"github.com/kpush/kpush/internal/records"
)

// pipe carries one partition to the receiver, one request at a time.
type pipe struct {
	settings
	partition int32
	queue     *partitionqueue.Queue
	client    *http.Client
}

// readAhead is how many records one read asks for when requests are small.
const readAhead = 64

func (p *pipe) run(ctx context.Context) error {
	var (
		batch records.Batch
		body  []byte
	)
	for {
		n, err := p.queue.Read(&batch, max(p.batch, readAhead))
		if err != nil {
			return fmt.Errorf("reading partition %d: %w", p.partition, err)
		}
		if n == 0 {
			select {
			case <-p.queue.Wake():
				continue
			case <-ctx.Done():
				return nil
			}
		}
		for from := 0; from < batch.Len(); from += p.batch {
			to := min(from+p.batch, batch.Len())
			body = p.encode(body[:0], &batch, from, to)
			if err := p.post(ctx, body, &batch, from, to); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
		}
		batch.Reset()
	}
}

// encode appends the envelope of records [from,to).
func (p *pipe) encode(b []byte, batch *records.Batch, from, to int) []byte {
	b = append(b, `{"type":"kafka.records","topic":"`...)
	b = append(b, p.topic...)
	b = append(b, `","partition":`...)
	b = strconv.AppendInt(b, int64(p.partition), 10)
	b = append(b, `,"records":[`...)
	for i := from; i < to; i++ {
		if i > from {
			b = append(b, ',')
		}
		b = append(b, `{"offset":`...)
		b = strconv.AppendInt(b, batch.Records[i].Offset, 10)
		b = append(b, `,"timestamp":`...)
		b = strconv.AppendInt(b, batch.Records[i].Timestamp, 10)
		b = append(b, `,"timestamp_type":"create","key":null,"value_base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, batch.Value(i))
		b = append(b, `","headers":[]}`...)
	}
	return append(b, "]}"...)
}

// post sends one request and waits for a 2xx.
func (p *pipe) post(ctx context.Context, body []byte, batch *records.Batch, from, to int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("Kpush-Partition", strconv.Itoa(int(p.partition)))
	req.Header.Set("Kpush-First-Offset", strconv.FormatInt(batch.Records[from].Offset, 10))
	req.Header.Set("Kpush-Last-Offset", strconv.FormatInt(batch.Records[to-1].Offset, 10))
	req.Header.Set("Kpush-Record-Count", strconv.Itoa(to-from))
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("posting partition %d: %s", p.partition, resp.Status)
	}
	return nil
}
