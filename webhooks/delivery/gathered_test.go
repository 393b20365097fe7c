package delivery

import (
	"bytes"
	"io"
	"net"
	"testing"
)

// gatheredPair is a gathered connection and its other end.
func gatheredPair(t *testing.T) (*gathered, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	return &gathered{TCPConn: c.(*net.TCPConn)}, other
}

func TestWhatIsGatheredComesWholeAndInOrder(t *testing.T) {
	g, other := gatheredPair(t)
	var want []byte
	go func() {
		g.Write([]byte("before "))
		g.begin()
		for i := range 20 {
			g.Write(bytes.Repeat([]byte{byte(i)}, 16<<10))
		}
		if err := g.end(nil); err != nil || !g.sent {
			t.Errorf("end: %v, sent %v", err, g.sent)
		}
		g.Write([]byte(" after"))
		g.CloseWrite()
	}()
	want = append(want, "before "...)
	for i := range 20 {
		want = append(want, bytes.Repeat([]byte{byte(i)}, 16<<10)...)
	}
	want = append(want, " after"...)
	got, err := io.ReadAll(other)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes came, %v; want %d, the same", len(got), err, len(want))
	}
}

// Only what the kernel has not taken may be written again, on another connection.
func TestWhatIsOnlyGatheredIsNotSent(t *testing.T) {
	g, _ := gatheredPair(t)
	g.Close()
	g.begin()
	if _, err := g.Write([]byte("small")); err != nil {
		t.Errorf("gathering: %v", err)
	}
	if err := g.end(nil); err == nil || g.sent {
		t.Errorf("end: %v, sent %v; want an error, and nothing sent", err, g.sent)
	}
	g.begin()
	if _, err := g.Write(make([]byte, gatheredSize)); err == nil {
		t.Error("more than is gathered was written to a connection that is closed")
	}
	if err := g.end(io.ErrClosedPipe); err != io.ErrClosedPipe || g.sent {
		t.Errorf("end: %v, sent %v; want the error that was known, and nothing sent", err, g.sent)
	}
}
