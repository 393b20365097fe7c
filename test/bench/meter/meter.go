// Package meter holds what bench and its receiver tell each other, and reads
// what a process has cost so far.
package meter

// Order tells the receiver what the next run is. It forgets the run before.
type Order struct {
	Pid        int   // the process that is measured
	Partitions int   // of the topic, all beginning at offset 0
	Expect     int64 // records; with the last of them the run is over
	DelayMs    int   // from the end of a request to its answer
	Stamps     bool  // values carry the time they were produced at: measure the way
	Skip       int64 // records at the beginning whose way is not measured
}

// Delay changes the pause before answers in the middle of a run.
type Delay struct{ Ms int }

// Message is one line to the receiver: exactly one field is set.
type Message struct {
	Order *Order `json:",omitempty"`
	Delay *Delay `json:",omitempty"`
}

// Result is what the receiver saw between the first request of a run, which
// starts both clocks, and the answer to the last one.
type Result struct {
	Records    int64
	Requests   int64
	BodyBytes  int64
	WallNs     int64
	CPUNs      int64 // of the whole process that is measured
	HandlingNs int64 // mean time from the end of a request to its answer
	P50Ns      int64 // with Stamps: from produced to received
	P99Ns      int64
	Anomalies  []string // records that were missing, late or came twice
}

// Line is one line from the receiver: exactly one field is set.
type Line struct {
	Listening *Listening `json:",omitempty"` // it is ready for orders
	Ready     bool       `json:",omitempty"` // it has taken an order
	Result    *Result    `json:",omitempty"`
}

// Listening is where the receiver listens.
type Listening struct {
	Address string // for http
	Secure  string // for https
	CA      string // who vouches for it there, in PEM
}

// Stamp begins a value that carries the time it was produced at: these bytes,
// which are neither JSON nor UTF-8, then eight of nanoseconds, big endian.
var Stamp = [4]byte{0xff, 0xfe, 0xfd, 0xfc}

// StampSize is the length of a stamp with its time. It is a multiple of three, so
// that base64 encodes it apart from what follows.
const StampSize = 12
