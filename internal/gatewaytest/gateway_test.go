package gatewaytest

import (
	"fmt"
	"strings"
	"testing"
)

// A soak looked for "gateway started" in the log of a gateway that had run for
// minutes, and failed: only the end of it was there.
func TestALongLogKeepsItsBeginningAndItsEnd(t *testing.T) {
	l := new(log)
	fmt.Fprintln(l, "the beginning")
	for i := range 100_000 {
		fmt.Fprintf(l, "line %d of many\n", i)
	}
	fmt.Fprintln(l, "the end")
	text := l.String()
	if !strings.HasPrefix(text, "the beginning\n") || !strings.HasSuffix(text, "line 99999 of many\nthe end\n") {
		t.Errorf("the log begins with %q and ends with %q", text[:30], text[len(text)-30:])
	}
	if !strings.Contains(text, "\n[...]\n") {
		t.Error("the log does not tell that something is missing")
	}
	if most := maxLogHead + 2*maxLogTail + 10; len(text) > most {
		t.Errorf("the log keeps %d bytes, want at most %d", len(text), most)
	}
}

func TestAShortLogIsWhole(t *testing.T) {
	l := new(log)
	var want strings.Builder
	for i := range 5_000 {
		line := fmt.Sprintf("line %d\n", i)
		want.WriteString(line)
		fmt.Fprint(l, line)
	}
	if got := l.String(); got != want.String() {
		t.Errorf("%d bytes were written, %d are there", want.Len(), len(got))
	}
}
