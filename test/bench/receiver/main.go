// Command receiver takes deliveries for the bench as cheaply as it can, so that
// what is measured is the sender: HTTP/1.1 by hand on plain connections, bodies
// read and thrown away. It checks by the headers that every record comes once
// and in order. It takes orders on its standard input and answers on its
// standard output, one JSON object a line; see package meter.
package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/kpush/kpush/test/bench/meter"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "receiver:", err)
		os.Exit(1)
	}
}

// run serves until its input ends.
func run(in io.Reader, out io.Writer) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	pair, ca, err := certificate()
	if err != nil {
		return err
	}
	secure, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		return err
	}
	defer secure.Close()
	s := &sink{out: json.NewEncoder(out)}
	go s.accept(listener)
	go s.accept(secure)
	s.say(meter.Line{Listening: &meter.Listening{Address: listener.Addr().String(), Secure: secure.Addr().String(), CA: ca}})
	for lines := json.NewDecoder(bufio.NewReader(in)); ; {
		var m meter.Message
		if err := lines.Decode(&m); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading an order: %w", err)
		}
		switch {
		case m.Order != nil:
			s.begin(*m.Order)
			s.say(meter.Line{Ready: true})
		case m.Delay != nil:
			s.delay(m.Delay.Ms)
		}
	}
}
