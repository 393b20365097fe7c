//go:build !race

package delivery

// raceDetector tells that everything takes some ten times longer.
const raceDetector = false
