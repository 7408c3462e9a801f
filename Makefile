# Network Service Mesh operator: `make` alone tells what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# One target and one set of flags for every program, so that nothing is built twice: static, to run in
# an image that holds nothing else. Naming the target keeps build scripts and macros dynamic.
export CARGO_BUILD_TARGET := $(shell rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS := -C target-feature=+crt-static
TARGET_DIR := target/$(CARGO_BUILD_TARGET)

# `make images RELEASE=1` packs optimised programs.
ifdef RELEASE
CARGO_PROFILE := --release
PROGRAMS := $(TARGET_DIR)/release
else
CARGO_PROFILE :=
PROGRAMS := $(TARGET_DIR)/debug
endif
export PROGRAMS
export IMAGES := target/images

TIER ?=
export TIER
FOR ?= 10m
export FOR

.PHONY: help setup build images manifests cluster demo demo-down standalone-demo test check lint deny soak bench operator-bench clean

help: ## What can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | column -t -s $$'\t'

setup: ## Debian packages that building and testing need, as far as they are missing
	@e2e/setup.sh

build: ## All programs
	cargo build --workspace --bins $(CARGO_PROFILE)

images: build ## OCI archives of the mesh, the operator and a toolbox for clients
	@e2e/images.sh

manifests: ## CRDs, the chart's generated parts and install.yaml, from their Rust source
	cargo run -q -p nsm-crds --example generate_crds
	cargo run -q -p nsm-operator --example generate

e2e/cluster/bin/cluster: $(shell find e2e/cluster -name '*.go' -o -name 'go.*')
	cd e2e/cluster && CGO_ENABLED=0 go build -trimpath -o bin/cluster ./cmd/cluster

cluster: setup e2e/cluster/bin/cluster ## Programs of the local Kubernetes; minutes for the first time, then cached
	e2e/cluster/bin/cluster build

demo: setup images ## From nothing to a ping through the mesh on two nodes; or on the cluster of KUBECONFIG
	@[ -n "$${KUBECONFIG:-}" ] || $(MAKE) --no-print-directory cluster
	@e2e/demo.sh

demo-down: e2e/cluster/bin/cluster ## Removes the cluster of `make demo`
	e2e/cluster/bin/cluster down

standalone-demo: setup ## The mesh on one host without Kubernetes, killed and started again beneath a ping
	cargo build -p nsm-components --bin nsm $(CARGO_PROFILE)
	@e2e/standalone-demo.sh

test: setup ## All tiers of tests, or one: TIER=unit|netns|peers|controlplane|cluster|spire|qemu; the last two only so
	@e2e/test.sh

check: lint ## The inner loop: format, lints and docs as errors, unit tests
	@TIER=unit e2e/test.sh

lint: ## Static checks
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --document-private-items -q
	cd e2e/cluster && test -z "$$(gofmt -l .)" && go vet ./cmd/... ./internal/... ./pause/...
	cd e2e/peers && test -z "$$(gofmt -l .)" && go vet ./...
	test -z "$$(gofmt -l e2e/spire)"
	helm=$$(e2e/helm.sh) && "$$helm" lint --strict --quiet --kube-version 1.33.0 charts/nsm-operator

deny: ## Licences, sources and banned crates among the dependencies; needs cargo-deny
	cargo deny check bans licenses sources

soak: setup ## Repetitions for a time, of connections, restarts and mutated messages: FOR=10m
	@e2e/soak.sh

bench: setup ## Figures beside their limits, of optimised programs; or some: ONLY=P4,P17
	cargo build --release -p nsm-components --bin nsm
	NSM_BIN=$(CURDIR)/$(TARGET_DIR)/release/nsm cargo bench -q -p nsm-e2e --bench figures -- \
	  --results $(CURDIR)/target/bench/results.json

operator-bench: setup cluster ## Figures of the operator beside their limits, of an optimised program on a real API server
	$(MAKE) --no-print-directory images RELEASE=1
	NSM_OPERATOR_BIN=$(CURDIR)/$(TARGET_DIR)/release/nsm-operator NSM_CLUSTER_BIN=$(CURDIR)/e2e/cluster/bin/cluster \
	  cargo bench -q -p nsm-e2e --profile dev --bench operator -- --image $(CURDIR)/$(IMAGES)/nsm-operator.tar \
	  --results $(CURDIR)/target/bench/operator.json

clean: ## Removes what was built here; caches of the local Kubernetes stay
	cargo clean
	rm -rf e2e/cluster/bin
