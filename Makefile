# What people and CI call. Everything else is `cargo` and `tdxlab` as usual.
#
#   make run ARGS="--design v5 scenarios/punch"

SHELL := /bin/sh
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup run test tested test-l1-new kernels test-rehearsal rehearsal-parts rehearsal-tests bench mutants lint dist dist-check clean-reports

TDXLAB := target/debug/tdxlab
# The same program as `cargo test` builds it. Crates have other features beside the tests, so that
# to build both is to build nearly everything twice.
TESTED := target/debug/tdxlab-under-test
ARGS ?=
# Half of the time a test waits: for a guest, a hang that it provokes, another process.
export RUST_TEST_THREADS ?= $(shell expr 2 \* $$(nproc))

help: ## Show this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing (QEMU); does nothing when nothing is
	@ci/setup

run: setup ## Run the default scenarios on the best host of this machine
	@cargo build --locked --package tdxlab
	@$(TDXLAB) run $(ARGS)

test: setup ## Run every test; the rehearsal of the tdx host, if its parts are in the cache
	@cargo test --locked --workspace --no-fail-fast
	@if $(TESTED) rehearse --prepare --offline 2>/dev/null; then \
		$(MAKE) --no-print-directory rehearsal-tests; \
	else \
		echo "NOT TESTED: the rehearsal of the tdx host, whose parts are not in the cache:" >&2; \
		echo "  make test-rehearsal   fetches 404 MB, once, and tests it" >&2; \
		[ "$${TDXLAB_REQUIRE_REHEARSAL:-0}" = 0 ] || exit 1; \
	fi

tested: setup ## Build every test, and the program that they call
	@cargo test --locked --workspace --no-run

rehearsal-parts: tested ## Fetch the parts of a rehearsal (404 MB, once), or bring them up to date
	@$(TESTED) rehearse --prepare

test-rehearsal: rehearsal-parts ## Fetch the parts of a rehearsal, and test all that it can show
	@$(MAKE) --no-print-directory rehearsal-tests
	@cargo build --locked --package tdxlab-softtdx --example vectors
	@$(TESTED) rehearse --command target/debug/examples/vectors -- lab/tdxmodule/vectors/tdx-module.csv
	@$(TESTED) qualify --host rehearsal
	@$(TESTED) compare --host rehearsal scale/hole-growth scale/twelve-terabyte-hole
	@$(TESTED) rehearse --design headtail scenarios/linux

rehearsal-tests:
	@cargo test --locked --workspace --test kernels -- --ignored rehearsal::

test-l1-new: setup ## Run the tests of real kernels on the newest packaged one, booted in QEMU
	@TDXLAB_L1_KERNEL=newest cargo test --locked --package tdxlab-selftests --test kernels -- l1:: \
		--nocapture --test-threads=1

# The reports are those that the tests have kept; a kernel that was not tested is left out.
kernels: ## Write the results in docs/kernels.md anew, from the last `make test` and `make test-l1-new`
	@cargo build --locked --package tdxlab
	@{ echo; $(TDXLAB) report kernels $(wildcard target/kernels/distribution target/kernels/newest) && echo; } \
		> target/kernels/results.md
	@sed -i -e '/^<!-- results -->$$/,/^<!-- end of results -->$$/{//!d}' \
		-e '/^<!-- results -->$$/r target/kernels/results.md' docs/kernels.md

bench: setup ## Measure, against bare QEMU where there is something to compare with
	@cargo bench --locked --package tdxlab-selftests --bench lab

mutants: ## Change software host and predictor in small ways; see who notices: default set, tests, hunts
	@cargo run --locked --package tdxlab-selftests --example mutants -- $(ARGS)

lint: ## Check format, clippy and rustdoc, warnings denied
	@ci/lint

dist: ## Make what people install: a static program as .tar.xz and .deb, in dist/
	@ci/dist

dist-check: ## Build that twice and compare; try the .deb in a bare Debian root
	@ci/dist-check

clean-reports: ## Remove all reports
	@find reports -mindepth 1 ! -name README.md -delete
