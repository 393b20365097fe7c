// Package filter decides which records a webhook is sent, by an expression in the
// Common Expression Language that its owner writes. README.md has the variables and
// examples.
//
// Expressions come from people who are not trusted with the gateway's time. A text
// is bounded before it is parsed, its cost is estimated before it is accepted, and
// each evaluation has a budget, in the units of CEL's cost model: about what one
// step costs, some 50 to 100 ns. So the same record meets the same end on every
// replica, however busy that is. What the model does not see is bounded beside it:
// patterns of matches have to be literals of bounded size and are charged before
// they run, and lists and maps that an expression builds, which share what they are
// made of and can be far larger than what was paid for them, are measured as they
// grow.
//
// The package is pure: it reads no clock, but for time zones no files, and has no
// state that outlives a call.
package filter
