# DTS: what a person or a runner calls. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help deps build test instructions test-vm demo matrix rtt-table failover bench bench-micro sim ownership fuzz coverage lint clean

CARGO ?= cargo
SHELL_SCRIPTS := deploy/lab/lab deploy/lab/demo deploy/lab/selftest deploy/deps.sh .ci/run deploy/lab/vm/run tests/fuzz/run tests/coverage/run tests/coverage/rustc benches/lard/run

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install missing Debian packages (root)
	@deploy/deps.sh

# The simulator turns on the mutation switches of dts-core, which no program of ours may have: it is
# always built apart.
build: deps ## everything in release mode
	$(CARGO) build --workspace --exclude dts-sim --release

# The lab tests share one machine's cores, so they run one after the other, last, and end with the runner's own lines.
test: build ## unit, property and golden tests, then the lab tests (root)
	$(CARGO) test --workspace --release --exclude dts-tests --exclude dts-sim
	$(INSTRUCTIONS)
	$(CARGO) test --release -p dts-sim
	$(CARGO) test --profile fuzz -p dts-fuzz --no-default-features
	$(CARGO) test --release -p dts-tests -- --test-threads=1

INSTRUCTIONS := $${CARGO_TARGET_DIR:-target}/release/dts-instructions

instructions: build ## instructions of the data plane's steps, beside the baseline; UPDATE=1 renews it
	$(INSTRUCTIONS) $(if $(UPDATE),--update)

test-vm: build ## vhost-net exception path and a multi-queue NIC, in a virtual machine (slow, outside CI)
	deploy/lab/vm/run

demo: build ## a three-node cluster, real requests, and a verdict from the client's capture (root)
	@deploy/lab/demo

MATRIX := $${CARGO_TARGET_DIR:-target}/release/stackmatrix
MATRIX_OUT ?= target/matrix

matrix: build ## client stacks x impairments x a handover, beside direct connections (root, about half an hour)
	rm -rf $(MATRIX_OUT)
	$(MATRIX) out=$(MATRIX_OUT)

rtt-table: build ## what a server's stack measures after a replay, beside direct connections (root, about 6 minutes)
	$(MATRIX) what=rtt out=$(MATRIX_OUT)

failover: build ## what clients see of a node that fails, fault by fault (root, a quiet machine; DTS_ROUNDS=20)
	DTS_FAILOVER=$${DTS_ROUNDS:-6} $(CARGO) test --release -p dts-tests --test lab_failover -- --test-threads=1 --nocapture

SIM_SEEDS ?= 0..20000

SIM_SPLIT_SEEDS ?= 0..5000

sim: ## the cluster simulator: 20,000 seeds, clusters that fall apart and heal, then each rule broken on purpose
	$(CARGO) build --release -p dts-sim
	$(CARGO) run --release -q -p dts-sim -- --seeds $(SIM_SEEDS)
	$(CARGO) run --release -q -p dts-sim -- --scenario split --twice --seeds $(SIM_SPLIT_SEEDS)
	$(CARGO) run --release -q -p dts-sim -- --mutations

ownership: ## docs/ownership.md's table and plot: how evenly buckets are spread, and what a change moves
	$(CARGO) run --release -q -p dts-core --example ownership_report -- docs/img/ownership.svg

fuzz: ## libFuzzer over all targets for FUZZ_SECONDS (an hour), guided by coverage
	@tests/fuzz/run

coverage: ## coverage of dts-core; fails where the splice state machine has gaps that nobody explained
	@tests/coverage/run

# What one ships to a machine whose packets count, for this CPU; BENCH_CPU=x86-64 for any.
BENCH_CPU ?= native
BENCH_OUT ?= target/bench
ONLY ?=

# The rows in the lab are of DTS as `make build` leaves it.
bench: build ## benchmarks beside their peers; ONLY=name for one (root, 15 minutes at most)
	RUSTFLAGS="-C target-cpu=$(BENCH_CPU)" $(CARGO) build --profile dist -p dts-benches
	DTS_BIN=$$(realpath $${CARGO_TARGET_DIR:-target}/release) $${CARGO_TARGET_DIR:-target}/dist/dts-bench --target-cpu "$(BENCH_CPU)" --only "$(ONLY)" --out $(BENCH_OUT)

# hashbrown's memory is malloc's: in huge pages, as the other tables' is.
bench-micro: deps ## the flow table beside hashbrown and rte_hash; ONLY=hit_1m for one
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 BENCH_CPU="$(BENCH_CPU)" RUSTFLAGS="-C target-cpu=$(BENCH_CPU)" \
		$(CARGO) bench --profile dist -p dts-benches --bench flow_table -- $(ONLY)

lint: ## rustfmt, clippy, shellcheck
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	shellcheck -x -a -P $(CURDIR) $(SHELL_SCRIPTS)

clean: ## remove what was built
	$(CARGO) clean
