//go:build !unsound

package groupmanager

// These are the promises that a build with the tag "unsound" breaks, one at a time,
// so that the audit of the fault suites can be seen to notice. In every other build
// they do nothing.
const breaksDrain = false // partitions are given up with their requests under way

// haunt has tenures that were given up commit once more.
func (*committer) haunt([]*tenure) {}

// unsound is the offset to commit where offset is the right one.
func unsound(offset int64) int64 { return offset }

// stall stops the poll loop when the build is told to.
func stall() {}
