# What people and CI call. Everything else is `cargo` and `tdxlab` as usual.
#
#   make run ARGS="--design v5 scenarios/punch"

SHELL := /bin/sh
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup run test test-l1-new bench lint clean-reports

TDXLAB := target/debug/tdxlab
ARGS ?=

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing (QEMU); does nothing when nothing is
	@ci/setup

run: setup ## Run the default scenarios on the best host of this machine
	@cargo build --locked --package tdxlab
	@$(TDXLAB) run $(ARGS)

test: setup ## Run every test
	@cargo test --locked --workspace --no-fail-fast

test-l1-new: setup ## Run the tests of real kernels on the newest packaged one, booted in QEMU
	@TDXLAB_L1_KERNEL=newest cargo test --locked --package tdxlab-selftests --test l1 -- \
		--nocapture --test-threads=1

bench: setup ## Measure, against bare QEMU where there is something to compare with
	@cargo bench --locked --package tdxlab-selftests --bench lab

lint: ## Check format, clippy and rustdoc, warnings denied
	@ci/lint

clean-reports: ## Remove all reports
	@find reports -mindepth 1 ! -name README.md -delete
