package kpush_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/kpush/kpush"

// goPackage is what the rules below look at of "go list -json".
type goPackage struct {
	ImportPath string
	Imports    []string // without those of tests
}

// name is the package's path in the module; "." is the module's own package.
func (p goPackage) name() string {
	if p.ImportPath == module {
		return "."
	}
	return strings.TrimPrefix(p.ImportPath, module+"/")
}

// within tells whether a path is one of the folders or beneath one.
func within(path string, folders ...string) bool {
	for _, folder := range folders {
		if path == folder || strings.HasPrefix(path, folder+"/") {
			return true
		}
	}
	return false
}

// layers are the rooms of the gateway and what of the module each may import,
// beside internal and its own folder. Imports point one way:
//
//	cmd -> server -> groupmanager -> acker, replica, webhooks
//
// The receiver in cmd is what a user's is like, and built from the same kit.
var layers = map[string][]string{
	"acker":        {},
	"replica":      {},
	"webhooks":     {},
	"groupmanager": {"acker", "replica", "webhooks"},
	"server":       {".", "groupmanager", "webhooks"},
	"cmd":          {".", "server", "groupmanager", "acker", "replica", "webhooks", "receiver"},
}

// foundations are the packages of internal that rooms may build on, and what of
// the module beside each other they may import. The other packages of internal,
// such as the gateway for tests, stand on the rooms.
var foundations = map[string][]string{
	"internal/devbroker":      nil,
	"internal/kafkaconf":      {"webhooks"}, // the client's settings for a webhook
	"internal/partitionqueue": nil,
	"internal/records":        nil,
	"internal/telemetry":      nil,
	"internal/version":        nil,
}

// homes tells where alone a library may be imported, tests apart.
var homes = map[string][]string{
	"github.com/confluentinc/confluent-kafka-go": {"groupmanager", "replica", "webhooks/kafkastore", "internal", "cmd", "test"},
	"github.com/go-chi/chi":                      {"server"},
	"github.com/hashicorp/go-retryablehttp":      {"webhooks/delivery"},
	"go.opentelemetry.io/otel/sdk":               {"cmd", "internal/telemetry"},
	"go.opentelemetry.io/otel/exporters":         {"cmd", "internal/telemetry"},
	"github.com/spf13/cobra":                     {"cmd"},
	"github.com/knadh/koanf":                     {"cmd"},
	"github.com/twmb/franz-go":                   {"internal", "test"},
}

// standalone are the packages that others import into programs of their own. They
// import nothing but the standard library and each other, in the same folder: who
// takes deliveries does not get a Kafka client with it.
var standalone = []string{"receiver"}

// impure is what the acker does without: it waits for nothing and touches nothing
// outside of itself.
var impure = []string{"context", "io", "log", "net", "os", "syscall"}

func TestImports(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range packages(t) {
		name := p.name()
		room, _, _ := strings.Cut(name, "/")
		seen[room] = true
		for _, imported := range p.Imports {
			switch {
			case within(name, standalone...):
				checkStandalone(t, name, room, imported)
			case within(imported, module):
				checkLayer(t, name, room, goPackage{ImportPath: imported}.name())
			case name == "acker" && within(imported, impure...):
				t.Errorf("acker imports %s, and is to stay pure", imported)
			default:
				checkHome(t, name, imported)
			}
		}
	}
	for _, room := range slices.Concat(slices.Collect(maps.Keys(layers)), standalone) {
		if !seen[room] {
			t.Errorf("there is no package under %s; does its rule have the right name?", room)
		}
	}
}

// checkStandalone checks one import of a package that stands on its own. Only the
// standard library has paths whose first element has no full stop.
func checkStandalone(t *testing.T, name, room, imported string) {
	t.Helper()
	host, _, _ := strings.Cut(imported, "/")
	if strings.Contains(host, ".") && !within(imported, module+"/"+room) {
		t.Errorf("%s imports %s, and is to stand on its own", name, imported)
	}
}

// checkLayer checks one import of a package of the module by another.
func checkLayer(t *testing.T, name, room, imported string) {
	t.Helper()
	allowed, ruled := foundations[name]
	if mayImport, isRoom := layers[room]; isRoom {
		allowed, ruled = append([]string{room}, mayImport...), true
	}
	if _, isFoundation := foundations[imported]; ruled && !isFoundation && !within(imported, allowed...) {
		t.Errorf("%s imports %s, and imports point one way: see layers and foundations", name, imported)
	}
}

// checkHome checks one import of a library.
func checkHome(t *testing.T, name, imported string) {
	t.Helper()
	for library, home := range homes {
		if within(imported, library) && !within(name, home...) {
			t.Errorf("%s imports %s, which belongs in %s alone", name, imported, strings.Join(home, ", "))
		}
	}
}

// packages lists the packages of the module.
func packages(t *testing.T) []goPackage {
	t.Helper()
	var failure bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Stderr = &failure
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &failure)
	}
	var all []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("reading what go list says: %v", err)
		}
		all = append(all, p)
	}
}
