//go:build race

package groupmanager

// raceDetector tells that everything takes some ten times longer.
const raceDetector = true
