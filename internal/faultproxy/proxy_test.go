package faultproxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds what has to happen; silence is how long nothing must happen for
// nothing to be believed.
const (
	patience = 10 * time.Second
	silence  = 100 * time.Millisecond
)

// through is a connection through a proxy, seen from both ends.
func through(t *testing.T) (p *Proxy, client, server *net.TCPConn) {
	t.Helper()
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err = Listen(target.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var (
		wait  sync.WaitGroup
		conns = make(chan *net.TCPConn, 10)
	)
	wait.Go(func() {
		for {
			c, err := target.Accept()
			if err != nil {
				return
			}
			conns <- c.(*net.TCPConn)
		}
	})
	t.Cleanup(func() {
		target.Close()
		p.Close()
		wait.Wait()
	})
	client = dial(t, p)
	select {
	case server = <-conns:
	case <-time.After(patience):
		t.Fatal("the connection did not come through")
	}
	t.Cleanup(func() { server.Close() })
	return p, client, server
}

func dial(t *testing.T, p *Proxy) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// expect reads exactly what was written.
func expect(t *testing.T, c net.Conn, want string) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

// expectNothing checks that neither bytes nor an end come for a while.
func expectNothing(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(silence))
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes, %v; want silence", n, err)
	}
}

// expectReset checks that the connection ends with a reset.
func expectReset(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the connection ended with %v, want a reset", err)
	}
}

func write(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func TestGoodDays(t *testing.T) {
	_, client, server := through(t)
	write(t, client, "question")
	expect(t, server, "question")
	client.CloseWrite()
	if _, err := server.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the client's end the server reads %v, want EOF", err)
	}
	large := bytes.Repeat([]byte("answer"), 1<<18)
	go func() {
		server.Write(large)
		server.Close()
	}()
	got, err := io.ReadAll(client)
	if err != nil || !bytes.Equal(got, large) {
		t.Errorf("read %d bytes, %v; want the %d that were written", len(got), err, len(large))
	}
}

func TestLatencyIsOfOneDirection(t *testing.T) {
	p, client, server := through(t)
	const delay = 200 * time.Millisecond
	p.Set(Up, Fault{Latency: delay})
	start := time.Now()
	write(t, client, "slow")
	expect(t, server, "slow")
	if took := time.Since(start); took < delay {
		t.Errorf("up took %v, want at least %v", took, delay)
	}
	start = time.Now()
	write(t, server, "quick")
	expect(t, client, "quick")
	if took := time.Since(start); took >= delay {
		t.Errorf("down took %v, want less than %v", took, delay)
	}
}

func TestSlicesComeOneByOne(t *testing.T) {
	p, client, server := through(t)
	p.Set(Up, Fault{Slice: 3, Pause: 20 * time.Millisecond})
	start := time.Now()
	write(t, client, "0123456789")
	expect(t, server, "0123456789")
	if took := time.Since(start); took < 60*time.Millisecond {
		t.Errorf("four slices took %v, want three pauses of 20ms", took)
	}
}

func TestHeldBytesComeLater(t *testing.T) {
	p, client, server := through(t)
	p.Set(Up, Fault{Hold: true})
	write(t, client, "held")
	expectNothing(t, server)
	write(t, server, "down")
	expect(t, client, "down")
	p.Heal()
	expect(t, server, "held")
}

func TestSwallowedBytesNeverCome(t *testing.T) {
	p, client, server := through(t)
	p.Set(Down, Fault{Swallow: true})
	write(t, server, "lost")
	expectNothing(t, client)
	write(t, client, "up")
	expect(t, server, "up")
	p.Heal()
	expectNothing(t, client)
	write(t, server, "more")
	expectReset(t, client)
}

func TestResetAfterSomeBytes(t *testing.T) {
	p, client, server := through(t)
	p.Set(Down, Fault{ResetAfter: 4})
	write(t, server, "0123")
	expectReset(t, client)
	expectReset(t, server)
}

func TestResetLeavesTheDoorOpen(t *testing.T) {
	p, client, server := through(t)
	p.Reset()
	expectReset(t, client)
	expectReset(t, server)
	again := dial(t, p)
	expectNothing(t, again)
}

// TestResetOfAConnectionThatIsBeingMade: the target has a connection a moment before
// the proxy counts it as open, and a reset in that moment once passed it by.
func TestResetOfAConnectionThatIsBeingMade(t *testing.T) {
	for range 500 {
		p, client, server := through(t)
		p.Reset()
		expectReset(t, client)
		expectReset(t, server)
	}
}

func TestCutUntilHealed(t *testing.T) {
	p, client, _ := through(t)
	p.Cut()
	expectReset(t, client)
	// The reset may come before the connection is there, or after.
	if conn, err := net.Dial("tcp", p.Addr()); err == nil {
		expectReset(t, conn.(*net.TCPConn))
		conn.Close()
	} else if !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	p.Heal()
	expectNothing(t, dial(t, p))
}
