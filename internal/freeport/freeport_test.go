package freeport

import (
	"net"
	"testing"
)

// Two listeners of one process must never be told the same port, even if the first does
// not listen yet.
func TestPortsAreGivenOnceAndCanBeListenedOn(t *testing.T) {
	seen := map[int]bool{}
	for range 2000 {
		port, err := Take()
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] {
			t.Fatalf("port %d was given twice", port)
		}
		seen[port] = true
		if port < lowest || port >= highest {
			t.Fatalf("port %d is not between %d and %d", port, lowest, highest)
		}
	}
	port, err := Take()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", Address(port))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}
