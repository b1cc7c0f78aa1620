# PageFerry: every target installs what it needs (Debian packages, through apt) and builds what it runs.
SHELL := /bin/bash
SEEDS ?= 10000
ROUNDS ?= 10
PREFIX ?= /usr/local
# What JOB says is for the guest's shell: make leaves its dollars alone.
override JOB := $(value JOB)
export JOB

RELEASE := .build/release/pageferry

.DEFAULT_GOAL := help
.PHONY: help packages guest-packages build release library docs manual install deb guest rxe rxe-shell test asan tsan test-rdma simulate fuzz demo demo-memory chaos demo-record bench compare bench-link bench-rdma bench-micro traces lint clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

packages: ## install what building needs
	@scripts/ensure-packages build

guest-packages: ## install what the demo guest needs: QEMU, busybox
	@scripts/ensure-packages build guest

build: packages ## build everything (debug)
	swift build

release: packages ## build everything (release)
	scripts/build-release

library: packages ## build libpageferry.so for C and what speaks C, with its header and pkg-config file, in .build/library
	scripts/build-library

docs: packages ## write the documentation of the Swift library in .build/docs; a link that leads nowhere is an error
	scripts/build-docs

manual: packages ## write Packaging/pageferry.1 anew
	scripts/make-manual

install: release library guest ## install below DESTDIR and PREFIX (/usr/local): program, library, header, units, man page, completions
	DESTDIR=$(DESTDIR) PREFIX=$(PREFIX) scripts/install

deb: release library guest ## make a Debian package of it in .build/deb
	@scripts/ensure-packages deb
	scripts/make-deb

guest: guest-packages ## make the demo guest: kernel, initramfs, disk
	perf/guest/make-guest

test: guest-packages ## all tests; prints what was skipped and why
	@scripts/ensure-packages services library
	scripts/test

test-rdma: ## the RDMA tests in soft-RoCE guests, or on this host: PAGEFERRY_RDMA=device make test-rdma
	scripts/test-rdma

asan: guest-packages ## all tests under the address sanitizer, leaks included (TESTS='--filter CommandTests' runs a part)
	scripts/test-sanitized address $(TESTS)

tsan: guest-packages ## all tests under the thread sanitizer
	scripts/test-sanitized thread $(TESTS)

rxe: ## JOB='command' in a guest with a soft-RoCE device; without JOB it shows that the device works
	@perf/rxe/run "$${JOB:-perf/rxe/jobs/loopback}"

rxe-shell: ## a prompt in that guest
	@perf/rxe/run --shell

fuzz: packages ## fuzz every decoder, SECONDS_EACH=n (600) each; TARGETS='hello trace' for some of them
	scripts/fuzz $(TARGETS)

simulate: packages ## SEEDS=n simulated sessions under a virtual clock
	scripts/build-release --product pageferry
	$(RELEASE) simulate --seeds $(SEEDS)

demo: guest-packages ## post-copy a real QEMU guest, beside QEMU's own post-copy
	scripts/build-release
	perf/guest/make-guest
	$(RELEASE) demo $(if $(JSON),--json $(JSON))

demo-memory: packages ## the same in seconds without QEMU: two processes, 1 GiB
	scripts/build-release
	$(RELEASE) demo-memory $(if $(JSON),--json $(JSON))

chaos: release guest ## ROUNDS=n migrations while lanes are cut and daemons killed, every byte compared, every tenth a real machine
	$(RELEASE) chaos --rounds $(ROUNDS) --guest perf/guest/out $(if $(SEED),--seed $(SEED)) $(if $(JSON),--json $(JSON))

demo-record: guest-packages ## ROUNDS=n demos in a row, their tables kept in perf/results/
	scripts/build-release
	perf/guest/make-guest
	perf/record-demos $(ROUNDS)

bench: packages ## what PageFerry costs beside kernel and wire, in under 10 minutes: tables, JSON and plots in perf/
	@scripts/ensure-packages plots
	scripts/build-release
	$(RELEASE) bench $(or $(NAME),all) --json perf/results/bench.json --plots perf/plots --revision $$(git describe --always --dirty)

compare: release guest ## move the same guest by PageFerry and by QEMU's own post-copy, over loopback and shaped links (ROUNDS=5; root)
	scripts/ensure-packages link
	perf/compare $(or $(ROUNDS),5)

bench-link: packages ## demands and push over links of 0.1, 1 and 10 Gbit/s with a switch's queue (root, for namespaces)
	scripts/build-release
	scripts/ensure-packages link
	JSON=$(JSON) perf/link/bench

bench-rdma: packages ## demand faults and push over soft-RoCE, beside perftest and the bare userfaultfd
	scripts/build-release
	scripts/ensure-packages rxe
	RXE_KERNEL=$${RXE_KERNEL-linux-image-amd64} RXE_KERNEL_ARGUMENTS=$${RXE_KERNEL_ARGUMENTS-idle=poll} \
		perf/rxe/run '.build/release/pageferry bench rdma$(if $(JSON), --json $(JSON))'

bench-micro: packages ## what each step of the engine costs on the processor, checked against Benchmarks/Thresholds
	cd Benchmarks && swift package --disable-sandbox benchmark --no-progress
	cd Benchmarks && swift package --disable-sandbox benchmark thresholds check --no-progress

traces: guest-packages ## record anew which pages the loads of a guest touch after a migration, in perf/traces
	scripts/build-release
	perf/guest/make-guest
	perf/traces/record

lint: ## formatting and the rules of the source tree
	swift format lint --recursive --strict Sources Tests Package.swift

clean: ## remove what was built and cached
	rm -rf .build .build-asan .build-tsan .build-unsanitized perf/guest/cache perf/guest/out perf/rxe/cache* perf/traces/cache
