package gatewaytest

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// What a gateway logs when a partition comes and when it has gone.
const (
	saysAssigned = "partition assigned"
	saysGivenUp  = "partition given up"
)

// holdings keeps from a gateway's log when it held which partition.
type holdings struct {
	line []byte // what was written of a line that has not ended
	all  []Holding
}

// write takes the next part of the log.
func (h *holdings) write(p []byte) {
	for {
		part, rest, ended := bytes.Cut(p, []byte("\n"))
		h.line = append(h.line, part...)
		if !ended {
			return
		}
		h.read(h.line)
		h.line, p = h.line[:0], rest
	}
}

func (h *holdings) read(line []byte) {
	if !bytes.Contains(line, []byte(saysAssigned)) && !bytes.Contains(line, []byte(saysGivenUp)) {
		return
	}
	said := map[string]string{}
	for _, pair := range logPair.FindAllSubmatch(line, -1) {
		said[string(pair[1])] = strings.Trim(string(pair[2]), `"`)
	}
	when, err := time.Parse(time.RFC3339Nano, said["time"])
	id, bad := strconv.ParseInt(said["partition"], 10, 32)
	if err != nil || bad != nil {
		return // not a line of the log
	}
	at := Partition{said["topic"], int32(id)}
	switch said["msg"] {
	case saysAssigned:
		h.all = append(h.all, Holding{Partition: at, From: when})
	case saysGivenUp:
		for i := range h.all {
			if h.all[i].Partition == at && h.all[i].To.IsZero() {
				h.all[i].To = when
			}
		}
	}
}

// logPair is a name and its value as slog's text form writes them.
var logPair = regexp.MustCompile(`(\w+)=("(?:[^"\\]|\\.)*"|\S*)`)

// Holdings are the times in which the gateway held partitions, of any webhook, as
// its log tells.
func (g *Gateway) Holdings() []Holding {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	out := make([]Holding, len(g.log.holdings.all))
	for i, h := range g.log.holdings.all {
		h.Client = g.config.Client()
		out[i] = h
	}
	return out
}
