package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kpush/kpush/internal/telemetry"
)

const readmeFile = "../../README.md"

// block is a fenced block of the README. The comment above it says what a test does
// with it:
//
//	<!-- run -->                    it runs; all of these share one shell
//	<!-- run in the background -->  it runs while the others do
//	<!-- run until ready: URL -->   it runs until URL is answered 200, and stops in order
//	<!-- file: NAME -->             it is the content of a file
//	<!-- not run: REASON -->
type block struct {
	line           int
	mark, language string
	text           string
}

var fenced = regexp.MustCompile("(?ms)^(?:<!-- ([^\n]*) -->\n)?```(\\w+)\n(.*?)^```$")

func readmeBlocks(t *testing.T) []block {
	t.Helper()
	text, err := os.ReadFile(readmeFile)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []block
	for _, at := range fenced.FindAllSubmatchIndex(text, -1) {
		part := func(i int) string {
			if at[2*i] < 0 {
				return ""
			}
			return string(text[at[2*i]:at[2*i+1]])
		}
		blocks = append(blocks, block{1 + bytes.Count(text[:at[4]], []byte("\n")), part(1), part(2), part(3)})
	}
	return blocks
}

// TestREADME runs the README: what it tells people to type works. The only changes
// are the addresses, which a test has to share with others, the program, which is the
// one under test, and a registry for serve, which has the broker of dev and keys of its own.
func TestREADME(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"curl", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	dir := t.TempDir()
	addresses := map[string]string{}
	for _, port := range []string{"8080", "8081", "8082", "8090", "8091", "9092"} {
		addresses["127.0.0.1:"+port] = freeAddress(t)
	}
	pairs := []string{
		"go run ./cmd/gateway dev", "exec gateway dev --api-listen 127.0.0.1:8080 --management-listen 127.0.0.1:8081" +
			" --echo-listen 127.0.0.1:8082 --broker-listen 127.0.0.1:9092",
		"go run ./cmd/gateway serve", "exec gateway serve --registry-topic __serve_registry",
		"go run ./cmd/gateway", "gateway",
		"broker-1.example.com:9092", addresses["127.0.0.1:9092"],
	}
	for from, to := range addresses {
		pairs = append(pairs, from, to)
	}
	edit := func(text string) string {
		text = strings.NewReplacer(pairs[:8]...).Replace(text)
		return strings.NewReplacer(pairs[8:]...).Replace(text)
	}

	var script strings.Builder
	var serve block
	for _, b := range readmeBlocks(t) {
		switch {
		case b.mark == "run":
			fmt.Fprintf(&script, "echo '--- README.md:%d'\n%s\n", b.line, edit(b.text))
		case b.mark == "run in the background":
			dev := command(t, dir, edit(b.text))
			defer dev.stop(t)
			dev.await(t, "admin token")
		case strings.HasPrefix(b.mark, "run until ready: "):
			serve = b
		case strings.HasPrefix(b.mark, "file: "):
			if err := os.WriteFile(filepath.Join(dir, strings.TrimPrefix(b.mark, "file: ")), []byte(edit(b.text)), 0o600); err != nil {
				t.Fatal(err)
			}
		case b.language == "sh" && !strings.HasPrefix(b.mark, "not run: "):
			t.Errorf("README.md:%d: the commands have no mark (%q) that says whether they run in the test", b.line, b.mark)
		}
	}

	shared := command(t, dir, script.String())
	if err := shared.wait(t); err != nil {
		t.Fatalf("the commands failed (%v) in the last of these:\n%s", err, &shared.out)
	}
	for _, want := range []string{`"secret":"whsec_`, `"committed_offset":`, `"dry_run":true`, `"dry_run":false`, `"state":"paused"`, `"max_records":10`, "openapi: 3.1", "kpush_build_info{"} {
		if !strings.Contains(shared.out.String(), want) {
			t.Errorf("the commands did not print %s:\n%s", want, &shared.out)
		}
	}

	gateway := command(t, dir, edit(serve.text))
	url := edit(strings.TrimPrefix(serve.mark, "run until ready: "))
	gateway.await(t, "gateway started")
	awaitStatus(t, url, http.StatusOK)
	gateway.await(t, "declared webhook applied")
	gateway.stop(t)
}

// TestREADMEListsEveryMetric keeps the table in step with internal/telemetry.
func TestREADMEListsEveryMetric(t *testing.T) {
	text, err := os.ReadFile(readmeFile)
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(kpush\\.[a-z._]+)` \\|").FindAllSubmatch(text, -1) {
		listed = append(listed, string(row[1]))
	}
	want := telemetry.Names()
	slices.Sort(listed)
	slices.Sort(want)
	if !slices.Equal(listed, want) {
		t.Errorf("the README lists\n%q, want\n%q", listed, want)
	}
}
