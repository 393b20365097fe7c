# Needs Go 1.26, gcc, a JDK 17 and Maven, and for receivers in other languages Node 20
# and Python 3.9; everything else comes by itself.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

GO       ?= go
TOOL      = $(GO) tool -modfile=tools/go.mod
SUITES    = ./test
FAULTS    = ./test/faults
PACKAGES  = $$($(GO) list ./... | grep -v -e '/test$$' -e '/test/faults$$')
FUZZTIME ?= 60s
SOAK     ?= 30m
SEED     ?=

# The faults that every change has to survive: each stands for field failures of
# systems like this one. K9 is looked for where protocol errors can be injected.
FAULTS_CI = ^Test(M1|M2|M5|M6|K2|K9|P1|H14|H15)_

# The tests that measure what the race detector changes: memory, allocations, and how
# many interleavings there is time for.
UNRACED = LeaveNothingBehind$$|AllocatesNothing$$|^TestM14_

.PHONY: help build test lint unit suites faults faults-ci soak bench fuzz generate

help: ## What can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## The gateway, into bin/
	$(GO) build -o bin/gateway ./cmd/gateway

test: lint unit suites faults-ci ## Everything: lint, unit and model tests, the embedded broker, real Kafka

lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "not gofmt-ed:" $$unformatted; exit 1; fi
	$(GO) vet ./...
	$(TOOL) staticcheck ./...

unit: ## Unit and model tests and those on the embedded broker, with the race detector
	$(GO) test -race -timeout 20m $(PACKAGES)
	$(GO) test -run '$(UNRACED)' ./webhooks/delivery ./groupmanager

suites: ## The suites on real Apache Kafka, with the gateway as a process of its own
	$(GO) test -count=1 -timeout 15m -v $(SUITES)

faults: ## Every fault on real Apache Kafka, with its measure and the audit
	$(GO) test -count=1 -timeout 60m -v $(FAULTS)

faults-ci: ## The faults that every change has to survive
	$(GO) test -count=1 -timeout 15m -v -run '$(FAULTS_CI)' $(FAULTS)

soak: ## Random faults for SOAK, 30m; SEED repeats a plan
	KPUSH_SOAK=$(SOAK) KPUSH_SOAK_SEED=$(SEED) $(GO) test -count=1 -timeout 0 -v -run '^TestSoak$$' $(FAULTS)

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
