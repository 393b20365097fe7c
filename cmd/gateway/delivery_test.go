package main

import "testing"

func TestBrokerAddress(t *testing.T) {
	for broker, want := range map[string]string{
		"broker-1:9093":             "broker-1:9093",
		"broker-1":                  "broker-1:9092",
		"SASL_SSL://broker-1:9094":  "broker-1:9094",
		"PLAINTEXT://broker-1":      "broker-1:9092",
		"[fd00::1]:9092":            "[fd00::1]:9092",
		"[fd00::1]":                 "[fd00::1]:9092",
		"PLAINTEXT://10.0.0.1:9092": "10.0.0.1:9092",
	} {
		if got := brokerAddress(broker); got != want {
			t.Errorf("brokerAddress(%q) = %q, want %q", broker, got, want)
		}
	}
}
