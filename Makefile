# Each target sets up what is missing, also in a fresh clone:
#   make build   npm packages, dist/, libtorch in .libtorch/, the engine; then `npx lorafit` runs
#   make demo    the main commands once, on synthetic pages and a tiny model, into demo-out/; FAMILY=qwen2.5-vl: one of that family
#   make test    build, lint, all tests but those of make test-real
#   make test-real   tests in a real browser, and with real trackers and clients, which it installs
# LORAFIT_CUDA=1 installs the libtorch with CUDA, LORAFIT_CUDA=12.6 the one for older cards and drivers.
# LORAFIT_LIBTORCH=<folder of the Python package torch> uses an installed one.

BIN := node_modules/.bin
PACKAGES := node_modules/.installed
SOURCES := $(shell find src -name '*.ts' ! -name '*.test.ts')
PAGE := $(shell find web -type f ! -name '*.test.ts')

.PHONY: build demo bench-cpu bench-ranks bench-serve bench-plan bench-ui bench-gpu bench-memory bundle test test-real lint format docs screens clean distclean
.DEFAULT_GOAL := build

build: dist/.built
	@node dist/cli/main.js setup

demo: build
	@node dist/cli/main.js demo $(if $(FAMILY),--model $(FAMILY))

# Measures every configuration on this machine's card beside other programs, then products of few rows (docs/performance.md).
bench-gpu: build bench/.venv/.installed bench/.venv/.kernels
	@$(BIN)/tsc -p bench
	@node bench-out/bench/gpu/run.js
	@node bench-out/bench/gpu/product.js
	@$(BIN)/biome format --write bench/results

# Measures their memory peaks on a phantom card, which computes nothing (tests/cuda/phantom/README.md).
bench-memory: build bench/.venv/.installed bench/.venv/.kernels
	@$(BIN)/tsc -p bench
	@bash bench/gpu/phantom.sh
	@$(BIN)/biome format --write bench/results

# Times a training step beside the official recipe in plain PyTorch and PEFT; installs those (7 GB) into bench/.venv first.
# FAMILY=qwen2_5_vl or internvl: beside transformers with PEFT.
bench-cpu: build bench/.venv/.installed
	@$(BIN)/tsc -p bench
	@node bench-out/bench/cpu.js $(if $(FAMILY),--family $(FAMILY))

# Times a step of 1 and of 2 CPU ranks beside plain PyTorch's DistributedDataParallel with PEFT.
bench-ranks: build bench/.venv/.installed
	@$(BIN)/tsc -p bench
	@node bench-out/bench/ranks.js

# Times answers of the serving engine beside generation in plain PyTorch, for 1, 4 and 16 requests that come at once.
bench-serve: build bench/.venv/.installed
	@$(BIN)/tsc -p bench
	@node bench-out/bench/serve.js

# Prints what the planner finds beside published figures, and writes the tables of all models into docs/models.md (about 10 minutes).
# MODELS="qwen2.5-vl-7b internvl3-8b" prints the tables of these alone. Needs no GPU and no weights.
bench-plan: build
	@$(BIN)/tsc -p bench
	@$(if $(MODELS),,node bench-out/bench/plan.js)
	@node bench-out/bench/models.js $(MODELS)
	@$(BIN)/biome format --write docs/models.md

# Measures the page's server on 1,000 runs of 10,000 steps; needs 6 GB of room for temporary files.
bench-ui: build
	@$(BIN)/tsc -p bench
	@node bench-out/bench/uiRuns.js

bench/.venv/.installed: bench/peers/requirements.txt
	python3 -m venv bench/.venv
	bench/.venv/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# If they cannot be installed, their column of the table says so.
bench/.venv/.kernels: bench/peers/requirements-kernels.txt bench/.venv/.installed
	-bench/.venv/bin/pip install --quiet --disable-pip-version-check --no-deps -r $< && touch $@

# Packs an archive that runs on machines without Node and network (docs/cluster.md).
bundle: build
	@$(BIN)/tsc -p bench
	@bash scripts/bundle.sh

test: build lint
	@$(BIN)/vitest run
	@echo "left out: tests/real, with a browser, trackers and clients (make test-real)"

test-real: build
	@bash tests/real/setup.sh
	@$(BIN)/vitest run --config vitest.real.config.ts

lint: $(PACKAGES)
	@$(BIN)/biome check --error-on-warnings .
	@$(BIN)/tsc --noEmit
	@$(BIN)/tsc --noEmit -p web
	@node scripts/lintComments.js

format: $(PACKAGES)
	@$(BIN)/biome check --write .

# README's pictures of the page, from real runs.
screens: build
	@bash tests/real/setup.sh
	@LORAFIT_SCREENS=1 $(BIN)/vitest run --config vitest.real.config.ts tests/real/screens.test.ts

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

# npx finds a package's own command only if it is linked.
dist/.built: $(PACKAGES) $(SOURCES) $(PAGE) tsconfig.json tsconfig.build.json
	@$(BIN)/tsc -p tsconfig.build.json
	@$(BIN)/vite build web --logLevel warn
	@chmod +x dist/cli/main.js
	@ln -sf ../../dist/cli/main.js $(BIN)/lorafit
	@touch $@
