# Needs Go 1.26, gcc, a JDK 17 and Maven; everything else comes by itself.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

GO       ?= go
TOOL      = $(GO) tool -modfile=tools/go.mod
SUITES    = ./test
PACKAGES  = $$($(GO) list ./... | grep -v '/test$$')
FUZZTIME ?= 60s

.PHONY: help build test lint unit suites bench fuzz generate

help: ## What can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## The gateway, into bin/
	$(GO) build -o bin/gateway ./cmd/gateway

test: lint unit suites ## Everything: lint, unit and model tests, the embedded broker, real Kafka

lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "not gofmt-ed:" $$unformatted; exit 1; fi
	$(GO) vet ./...
	$(TOOL) staticcheck ./...

unit: ## Unit and model tests and those on the embedded broker, with the race detector
	$(GO) test -race $(PACKAGES)

suites: ## The suites on real Apache Kafka, with the gateway as a process of its own
	$(GO) test -count=1 -timeout 15m -v $(SUITES)

bench: ## Ours against the limit, pinned and interleaved; BENCH='-only 1KBx100 -quick' for a piece
	$(GO) run ./test/bench $(BENCH)

fuzz: ## Every fuzz target for FUZZTIME each
	@for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

generate: ## What is generated, from its sources
	$(GO) generate ./...
