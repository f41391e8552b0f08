# From a fresh clone each of these sets up what is missing and redoes nothing that is there:
#   make build   npm packages, dist/, libtorch in .libtorch/, the engine; then `npx lorafit` runs
#   make demo    everything once, on synthetic pages and a tiny model, into demo-out/
#   make test    build, lint, all tests
# LORAFIT_CUDA=1 takes the libtorch with CUDA, LORAFIT_CUDA=12.6 that for older cards and drivers; LORAFIT_LIBTORCH=<folder of the Python
# package torch> takes that one.

BIN := node_modules/.bin
PACKAGES := node_modules/.installed
SOURCES := $(shell find src -name '*.ts' ! -name '*.test.ts')

.PHONY: build demo bench-cpu bench-plan bench-gpu bench-memory bundle test lint format docs clean distclean
.DEFAULT_GOAL := build

build: dist/.built
	@node dist/cli/main.js setup

demo: build
	@bash scripts/demo.sh

# Every configuration on this machine's card beside the peers, then products of few rows (docs/performance.md).
bench-gpu: build bench/.venv/.installed bench/.venv/.kernels
	@$(BIN)/tsc -p bench
	@node bench-out/bench/gpu/run.js
	@node bench-out/bench/gpu/product.js
	@$(BIN)/biome format --write bench/results

# Peaks of the same on a card that computes nothing, so without one (tests/cuda/phantom/README.md).
bench-memory: build bench/.venv/.installed bench/.venv/.kernels
	@$(BIN)/tsc -p bench
	@bash bench/gpu/phantom.sh
	@$(BIN)/biome format --write bench/results

# A training step beside the official way in plain PyTorch and PEFT; the first time it installs those (7 GB) into bench/.venv.
bench-cpu: build bench/.venv/.installed
	@$(BIN)/tsc -p bench
	@node bench-out/bench/cpu.js

# What the planner finds beside published figures; no GPU and no weights.
bench-plan: build
	@$(BIN)/tsc -p bench
	@node bench-out/bench/plan.js

bench/.venv/.installed: bench/peers/requirements.txt
	python3 -m venv bench/.venv
	bench/.venv/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Where they can't be had, their column of the table says so.
bench/.venv/.kernels: bench/peers/requirements-kernels.txt bench/.venv/.installed
	-bench/.venv/bin/pip install --quiet --disable-pip-version-check --no-deps -r $< && touch $@

# One archive that runs on a machine without Node and without a network (docs/cluster.md).
bundle: build
	@$(BIN)/tsc -p bench
	@bash scripts/bundle.sh

test: build lint
	@$(BIN)/vitest run

lint: $(PACKAGES)
	@$(BIN)/biome check --error-on-warnings .
	@$(BIN)/tsc --noEmit

format: $(PACKAGES)
	@$(BIN)/biome check --write .

# Generated files: schemas/, docs/cli.md and docs/step-memory.svg.
docs: build
	@$(BIN)/vitest run tests/e2e/generated.test.ts --update

clean:
	rm -rf dist native/build demo-out coverage

distclean: clean
	rm -rf node_modules .libtorch

$(PACKAGES): package.json package-lock.json
	npm install --no-save # not `npm ci`: it refuses a lock file without every platform's optional binaries
	@touch $@

# npx finds a package's own command only where it is linked.
dist/.built: $(PACKAGES) $(SOURCES) tsconfig.json tsconfig.build.json
	@$(BIN)/tsc -p tsconfig.build.json
	@chmod +x dist/cli/main.js
	@ln -sf ../../dist/cli/main.js $(BIN)/lorafit
	@touch $@
