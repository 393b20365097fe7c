// Package freeport finds ports for servers that tests start as processes of their own,
// and start again at the same address.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// The ports that are given out. They are below those that a system takes for outgoing
// connections and for listeners that ask for port 0 (Linux: from 32768 on), which may
// take a port in the moment between its choice and its use, or while a server restarts.
const (
	lowest  = 10_000
	highest = 32_000
)

const maxTries = 1000

var (
	mu    sync.Mutex
	given = map[int]bool{}
)

// Take returns a port of the loopback address that nobody listens on. It returns none
// twice in one process. May be called concurrently.
func Take() (int, error) {
	mu.Lock()
	defer mu.Unlock()
	var failed error
	for range maxTries {
		port := lowest + rand.IntN(highest-lowest)
		if given[port] {
			continue
		}
		l, err := net.Listen("tcp", Address(port))
		if err != nil {
			failed = err
			continue
		}
		if err := l.Close(); err != nil {
			return 0, fmt.Errorf("looking for a free port: %w", err)
		}
		given[port] = true
		return port, nil
	}
	return 0, fmt.Errorf("no free port in %d tries: %w", maxTries, failed)
}

// Address is a port of the loopback address, host:port.
func Address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
