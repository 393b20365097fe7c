package main

import (
	"bufio"
	"strings"
	"testing"
)

func TestReadHead(t *testing.T) {
	const request = "POST /hook HTTP/1.1\r\nHost: x\r\ncontent-length: 12\r\nKpush-Partition: 3\r\n" +
		"kpush-first-offset: 7\r\nKPUSH-LAST-OFFSET: 9\r\nKpush-Record-Count: 2\r\n\r\n"
	for _, test := range []struct {
		name, text string
		want       head
		fails      bool
	}{
		{name: "names in any case", text: request, want: head{length: 12, partition: 3, first: 7, last: 9, count: 2}},
		{name: "no length", text: strings.Replace(request, "content-length", "x-length", 1), fails: true},
		{name: "a number that is none", text: strings.Replace(request, ": 9", ": nine", 1), fails: true},
		{name: "cut short", text: request[:40], fails: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := readHead(bufio.NewReader(strings.NewReader(test.text)))
			if (err != nil) != test.fails {
				t.Fatalf("got error %v, want one: %v", err, test.fails)
			}
			if !test.fails && got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
