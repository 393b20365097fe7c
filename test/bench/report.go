package main

import (
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report collects the figures of all runs, and the verdicts on them.
type report struct {
	At       time.Time         `json:"at"`
	Commit   string            `json:"commit"` // with "+" when the tree had changes
	Machine  machine           `json:"machine"`
	Versions map[string]string `json:"versions"`
	Rounds   int               `json:"rounds"` // that count
	Runs     []*runs           `json:"runs"`
	Verdicts []verdict         `json:"verdicts"`
	Notes    []string          `json:"notes,omitempty"`
}

type machine struct {
	Processor string `json:"processor"`
	Cores     int    `json:"cores"`
	Kernel    string `json:"kernel"`
}

// runs are all runs of one contender in one case.
type runs struct {
	Case      string               `json:"case"`
	Contender contender            `json:"contender"`
	Median    figures              `json:"median"`
	All       map[figure][]float64 `json:"all"`
}

// verdict compares one number with its threshold.
type verdict struct {
	What   string  `json:"what"`
	Got    float64 `json:"got"`
	Sign   string  `json:"sign"` // how got has to compare with want
	Want   float64 `json:"want"`
	Unit   string  `json:"unit,omitempty"`
	Passes bool    `json:"passes"`
}

func newReport(bin string, rounds int) *report {
	return &report{
		At: time.Now().UTC(), Commit: commit(), Rounds: rounds - 1,
		Machine:  machine{Processor: processor(), Cores: coresOfMachine(), Kernel: output("uname", "-r")},
		Versions: versions(bin),
	}
}

// expect makes a line of the table for each contender, in their order.
func (r *report) expect(name string, contenders ...contender) {
	for _, c := range contenders {
		r.Runs = append(r.Runs, &runs{Case: name, Contender: c, Median: figures{}, All: map[figure][]float64{}})
	}
}

// add enters one run of a contender that was expected.
func (r *report) add(name string, c contender, f figures) {
	entry := r.find(name, c)
	for name, value := range f {
		entry.All[name] = append(entry.All[name], value)
		entry.Median[name] = median(entry.All[name])
	}
}

func (r *report) find(name string, c contender) *runs {
	for _, entry := range r.Runs {
		if entry.Case == name && entry.Contender == c {
			return entry
		}
	}
	return nil
}

func (r *report) median(name string, c contender, f figure) float64 { return r.find(name, c).Median[f] }

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func (r *report) atLeast(what string, got, want float64, unit string) {
	r.Verdicts = append(r.Verdicts, verdict{what, got, "≥", want, unit, got >= want})
}

func (r *report) atMost(what string, got, want float64, unit string) {
	r.Verdicts = append(r.Verdicts, verdict{what, got, "≤", want, unit, got <= want})
}

// note adds a sentence that helps to read the verdicts.
func (r *report) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// columns of the table, in order.
var columns = []figure{cpuUs, perSecond, rssMB, allocs, perRequest, p50Ms, p99Ms, handlingMs, goodput}

// progress prints one run as it ends.
func (b *bench) progress(name string, round int, c contender, f figures) {
	note := ""
	if round == 0 {
		note = " (thrown away)"
	}
	fmt.Fprintf(b.out, "%s round %d %s: %.2f µs/record, %.0f records/s, %.0f MB%s\n", name, round, c, f[cpuUs], f[perSecond], f[rssMB], note)
}

// finish prints the table and the verdicts and writes the JSON.
func (r *report) finish(out io.Writer, path string) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(table, "\ncase\tcontender\t")
	for _, c := range columns {
		fmt.Fprintf(table, "%s\t", c)
	}
	fmt.Fprintln(table)
	for _, entry := range r.Runs {
		fmt.Fprintf(table, "%s\t%s\t", entry.Case, entry.Contender)
		for _, c := range columns {
			if value, ok := entry.Median[c]; ok {
				fmt.Fprintf(table, "%.2f\t", value)
			} else {
				fmt.Fprint(table, "\t")
			}
		}
		fmt.Fprintln(table)
	}
	table.Flush()
	fmt.Fprintf(out, "\nmedians of %d; %s, %d cores, Linux %s; commit %s\n\n", r.Rounds, r.Machine.Processor, r.Machine.Cores, r.Machine.Kernel, r.Commit)
	short := false
	for _, v := range r.Verdicts {
		word := "pass       "
		if !v.Passes {
			word, short = "FALLS SHORT", true
		}
		fmt.Fprintf(out, "%s  %s: %.2f, want %s %.2f %s\n", word, v.What, v.Got, v.Sign, v.Want, v.Unit)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(out, "note         %s\n", n)
	}
	if err := r.write(path); err != nil {
		return err
	}
	if short {
		return errShort
	}
	return nil
}

func (r *report) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the report: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// commit is what is measured, with a + when the tree has changes of its own.
func commit() string {
	id := output("git", "rev-parse", "--short", "HEAD")
	if output("git", "status", "--porcelain", "--untracked-files=no") != "" {
		id += "+"
	}
	return id
}

// output is what a command prints; empty when it fails.
func output(name string, args ...string) string {
	text, err := exec.Command(name, args...).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// processor is the machine's, as the kernel names it.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// coresOfMachine counts all, not only those this process is pinned to.
func coresOfMachine() int {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.NumCPU()
	}
	return strings.Count(string(text), "processor\t:")
}

// versions of what takes part, by what the limit was built from.
func versions(bin string) map[string]string {
	found := map[string]string{"kafka": kafkaVersion}
	info, err := buildinfo.ReadFile(filepath.Join(bin, "limit"))
	if err != nil {
		return found
	}
	found["go"] = info.GoVersion
	for _, m := range info.Deps {
		if m.Path == "github.com/confluentinc/confluent-kafka-go/v2" {
			found[m.Path] = m.Version
		}
	}
	return found
}
