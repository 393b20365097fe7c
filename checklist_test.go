package kpush_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What the gateway is held to is written down in two lists, whose lines are tests
// that are called by their ids: TestK10_RandomTokensOfOneAddress. Here is which of
// them there are, and in which folders. A test that is renamed or goes has to be told
// here, so that no line is lost. Ids are of a list: K7 of the one is not K7 of the
// other, and no folder has both.

// outbound is the checklist for requests to the outside, their acks and the API's
// input: A addresses, U URLs, R redirects, T hostile receivers, H headers, S TLS and
// credentials, G signatures, K acks, P the control plane.
const outbound = `
A1  webhooks/egress
A2  webhooks/egress
A3  webhooks/egress
A4  webhooks/egress
A5  webhooks/egress
A6  webhooks/egress
A7  webhooks/egress
A8  webhooks/egress
A9  webhooks/egress
A10 webhooks/egress
A11 webhooks/egress
A12 webhooks/egress
A13 webhooks/egress
A14 webhooks/egress
A15 webhooks/egress webhooks/delivery
A16 webhooks/egress
A17 webhooks/egress
A18 webhooks/delivery
A19 webhooks/delivery
A20 webhooks/egress
U1  webhooks webhooks/egress
U2  webhooks
U3  webhooks webhooks/egress
U4  webhooks/egress
U5  webhooks webhooks/egress
U6  webhooks
U7  webhooks
U8  webhooks/egress webhooks/delivery server cmd/gateway
R1  webhooks/delivery
R2  webhooks/delivery
R3  webhooks/delivery
R4  webhooks/delivery
T1  webhooks/delivery
T2  webhooks/egress
T3  webhooks/delivery
T4  webhooks/delivery
T5  webhooks/delivery
T6  webhooks/delivery
T7  webhooks/delivery
T8  webhooks/delivery
T9  webhooks/delivery
T10 webhooks/delivery
T11 webhooks/delivery
T12 webhooks/delivery
T13 webhooks/delivery
T14 groupmanager
T15 groupmanager
T16 webhooks/delivery
T17 webhooks/egress
T18 webhooks/delivery
H1  webhooks
H2  webhooks
H3  webhooks/delivery
H4  webhooks
H5  webhooks server
S1  webhooks/delivery
S2  webhooks/delivery
S3  webhooks webhooks/delivery
S4  webhooks webhooks/delivery
S5  webhooks webhooks/delivery
S6  webhooks
G1  webhooks/delivery
G2  webhooks/delivery
G3  webhooks/delivery
G4  acker
G5  groupmanager receiver webhooks webhooks/delivery
G6  server webhooks
G7  cmd/gateway
G8  webhooks
G9  server webhooks webhooks/delivery
K1  acker server cmd/gateway
K2  cmd/gateway
K3  cmd/gateway
K4  cmd/gateway
K5  cmd/gateway
K6  cmd/gateway
K7  cmd/gateway
K8  cmd/gateway
K9  cmd/gateway
K10 server
K11 server
K12 receiver
P10 webhooks/filter
`

// faultRows is the table of faults: M membership, K Kafka, P records, H receivers, A
// acks, X the machine. With real Kafka they are in test/faults.
const faultRows = `
M1  test/faults
M2  test/faults
M3  test/faults
M4  test/faults
M5  test/faults
M6  groupmanager test/faults
M7  groupmanager
M8  groupmanager
M9  test/faults
M10 test/faults
M11 test/faults
M12 groupmanager
M13 groupmanager
M14 groupmanager
M15 groupmanager test/faults
M16 test/faults
M17 groupmanager test/faults
K1  test/faults
K2  test/faults
K3  test/faults
K4  test/faults
K5  test/faults
K6  groupmanager test/faults
K7  groupmanager
K8  groupmanager
K9  groupmanager
K10 groupmanager
K11 test/faults
K12 test/faults
K13 groupmanager test/faults
K14 test/faults
K15 test/faults
K16 test/faults
P1  test/faults
P2  test/faults
P3  groupmanager
P4  groupmanager
P5  test/faults
P6  test/faults
P7  groupmanager
P8  groupmanager
H1  groupmanager
H2  groupmanager
H3  groupmanager
H4  groupmanager
H5  groupmanager
H6  groupmanager
H7  groupmanager
H8  groupmanager
H9  groupmanager
H10 groupmanager
H11 groupmanager
H12 groupmanager
H13 groupmanager
H14 groupmanager test/faults
H15 test/faults
H16 groupmanager
H17 groupmanager
H18 groupmanager
A1  server
A2  cmd/gateway
A3  acker
A4  acker groupmanager
A5  acker
A6  acker groupmanager
A7  acker groupmanager
A8  acker groupmanager
A9  acker groupmanager
A10 test/faults
A11 test/faults
X2  test/faults
X7  groupmanager
X8  groupmanager test/faults
X9  test/faults
`

var namedTest = regexp.MustCompile(`(?m)^func Test([A-Z][0-9]+)_\w+\(t \*testing\.T\)`)

func TestTheLinesOfTheLists(t *testing.T) {
	there := map[string]map[string]bool{} // by folder
	for list, lines := range map[string]string{"outbound": outbound, "faults": faultRows} {
		seen := map[string]bool{}
		for line := range strings.Lines(strings.TrimSpace(lines)) {
			fields := strings.Fields(line)
			id, folders := fields[0], fields[1:]
			if seen[id] || len(folders) == 0 {
				t.Errorf("%s: %s stands there twice, or nowhere", list, id)
			}
			seen[id] = true
			for _, folder := range folders {
				if there[folder] == nil {
					there[folder] = testsIn(t, folder)
				}
				if !there[folder][id] {
					t.Errorf("%s: no test in %s is called Test%s_…", list, folder, id)
				}
			}
		}
	}
}

// testsIn are the ids that tests in a folder are called by.
func testsIn(t *testing.T, folder string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no tests in %s (%v)", folder, err)
	}
	ids := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range namedTest.FindAllSubmatch(text, -1) {
			ids[string(found[1])] = true
		}
	}
	return ids
}
