# What there is to do here. `make help` lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The objects in internal/probe are reproducible with one compiler alone; another newer one works too,
# but gives other bytes.
CLANG ?= clang-14
GO ?= go
TOOL := $(GO) tool -modfile=internal/tools/go.mod
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# Debian packages by what needs them.
BUILD_PACKAGES := clang-14 clang-format-14 llvm-14 libbpf-dev
TEST_PACKAGES := iproute2 nftables prometheus tmux util-linux
PEER_PACKAGES := libbpf-tools bpftrace
KERNEL_PACKAGES := qemu-system-x86 seabios debian-archive-keyring iproute2 util-linux xz-utils
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E env "PATH=$$PATH")
export CGO_ENABLED ?= 1

.PHONY: help
help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: build
build: ## bin/connspan, statically linked
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/connspan .

.PHONY: run
run: build ## trace this host's connections to the terminal, until Ctrl-C (needs root)
	@if [ "$$(id -u)" = 0 ]; then exec bin/connspan; else exec sudo bin/connspan; fi

.PHONY: test
test: test-packages ## all tests; those of the kernel need root
	@collector=$$(otelcol-config/build.sh) && receiver=$$(otelcol-config/receiver/build.sh) && \
	CONNSPAN_TEST_COLLECTOR=$$collector CONNSPAN_TEST_RECEIVER=$$receiver $(AS_ROOT) $(GO) test -p 1 -race -count=1 ./...

.PHONY: scenarios
scenarios: test-packages ## each case of docs/semantics.md; says how many were run, skipped and failed, and why (needs root)
	@out=$$($(AS_ROOT) $(GO) test -race -count=1 -v -run '^TestScenario$$' ./exporter) || { echo "$$out"; exit 1; }; \
	grep -o 'measured: .*' <<<"$$out"

.PHONY: order
order: test-packages ## a table: CPUs sleep inside the tracer, events are sorted or merged (needs root)
	@out=$$($(AS_ROOT) $(GO) test -count=1 -v -run '^TestOrder$$' ./exporter) || { echo "$$out"; exit 1; }; \
	sed -n '/out of order/,/^$$/p' <<<"$$out"

# Lines of Debian kernels, newest, or all; of another architecture: newest:arm64.
KERNELS ?= 5.10 6.1 $(if $(SHORT),newest,6.12 newest newest:arm64)
.PHONY: test-kernels
test-kernels: kernel-packages ## the tests of the kernel in virtual machines with KERNELS="6.1 newest", or all; SHORT=1: fewer; RESUME=1
	$(GO) run ./internal/vm $(if $(SHORT),-short,-page docs/kernels.md) $(if $(RESUME),-resume) $(KERNELS)

.PHONY: model
model: ## the protocol of the order and its mutants, checked with Spin (some minutes, 3 GB)
	internal/merge/model/check.sh

SOAK ?= 10m
.PHONY: soak
soak: test-packages ## SOAK=10m of load while CPUs sleep inside the tracer (needs root)
	CONNSPAN_TEST_SOAK=$(SOAK) $(AS_ROOT) $(GO) test -race -count=1 -timeout 0 -v -run '^TestSoak$$' ./exporter

OUTAGE ?= 5m
.PHONY: outage
outage: ## the server is down for OUTAGE=5m, at 1000 connections a second, and takes all of it later (needs root)
	CONNSPAN_TEST_OUTAGE=$(OUTAGE) $(AS_ROOT) $(GO) test -count=1 -timeout 0 -v -run '^TestOutage' .

.PHONY: lint
lint: build-packages ## golangci-lint, clang-format, go mod
	$(TOOL) golangci-lint run ./...
	cd bench/plot && $(GO) tool -modfile=../../internal/tools/go.mod golangci-lint run ./...
	clang-format-14 --dry-run -Werror bpf/*.c bpf/*.h
	$(GO) mod tidy -diff
	$(GO) mod verify

.PHONY: vulncheck
vulncheck: ## known vulnerabilities in what is linked (asks vuln.go.dev)
	$(TOOL) govulncheck ./...

.PHONY: bench
bench: ## all benchmarks
	$(GO) test -run '^$$' -bench . -benchmem ./...

# Other flags: make bench-peers BENCH="-rounds 1 -window 1s"; go run ./bench -help lists them.
BENCH ?= -page docs/performance.md
.PHONY: bench-peers
bench-peers: build peer-packages ## the cost beside tcplife, tcpstates, bpftrace and no tracer; writes docs/performance.md (needs root)
	$(AS_ROOT) $(GO) run ./bench $(BENCH) peers

.PHONY: bench-scale
bench-scale: build peer-packages ## the cost at rest, with a million connections, 256 CPUs, 1000 processes; likewise
	$(AS_ROOT) $(GO) run ./bench $(BENCH) scale idle latency

.PHONY: generate
generate: build-packages ## the BPF objects and their Go, from bpf/
	BPF2GO_CC=$(CLANG) BPF2GO_STRIP=llvm-strip-14 $(GO) generate ./internal/probe

.PHONY: fuzz
fuzz: ## a minute of fuzzing the decoder
	$(GO) test -run '^$$' -fuzz 'FuzzDecode$$' -fuzztime 60s ./internal/event
	$(GO) test -run '^$$' -fuzz FuzzDecodeProcess -fuzztime 60s ./internal/event

# The packages that a target needs, installed where they are missing and apt is there to do it.
.PHONY: build-packages test-packages peer-packages kernel-packages
build-packages: ; @$(call install,$(BUILD_PACKAGES))
test-packages: ; @$(call install,$(TEST_PACKAGES))
peer-packages: ; @$(call install,$(PEER_PACKAGES))
kernel-packages: ; @$(call install,$(KERNEL_PACKAGES))

define install
if command -v apt-get >/dev/null && ! dpkg -s $(1) >/dev/null 2>&1; then \
	if [ "$$(id -u)" = 0 ]; then root=; else root=sudo; fi; \
	$$root apt-get update -qq && $$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null; \
fi
endef
