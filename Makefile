# Everything a person or a machine runs by hand. `make` alone prints the list.
# The environment in .venv comes from requirements.lock, with hashes, on the first target that needs it.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo up test mutants protocol simulate chaos bench live check format samples screenshots schemas lock peers-lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

# The options are read from the environment by the shell, so that quotes, dollars and spaces arrive
# as they were typed:  PROMPT="..." STYLE=infographic ASPECT=16:9 QUALITY=high SEED=7 make demo
demo: $(READY) ## from nothing to an image; takes PROMPT, STYLE, ASPECT, QUALITY, SEED
	@$(BIN)/mmg demo \
	  $${PROMPT:+"--prompt=$$PROMPT"} $${STYLE:+"--style=$$STYLE"} $${ASPECT:+"--aspect=$$ASPECT"} \
	  $${QUALITY:+"--quality=$$QUALITY"} $${SEED:+"--seed=$$SEED"}

up: $(READY) ## bus, worker and gateway in one process; SECURE=1: with keys and TLS
	@if [ -n "$${SECURE:-}" ]; then \
	  export MMG_SITE_DIR="$${MMG_SITE_DIR:-$${MMG_DATA_DIR:-data}/site}"; \
	  $(BIN)/mmg key init --if-missing || exit 1; \
	  echo "with keys; in other shells: export MMG_SITE_DIR=$$MMG_SITE_DIR"; \
	fi; exec $(BIN)/mmg up

test: $(READY) ## all tests
	@$(BIN)/pytest -q -n $${JOBS:-3}

mutants: $(READY) ## each guard and each named rule removed once: all must be found
	@$(BIN)/python -m tests.simulation.mutants

protocol: $(READY) ## the protocol searched exhaustively, the large worlds too (minutes)
	@$(BIN)/python -m tests.simulation.protocol --all

simulate: $(READY) ## simulated days around the real core; takes SEEDS=1000, one day each
	@$(BIN)/python -m tests.simulation.days --seeds $${SEEDS:-1000}

# The table of all runs so far follows; they add up in data/chaos/results.jsonl.
chaos: $(READY) ## kill, freeze and cut off real processes, then audit; takes TRIALS, SEED, CLUSTER=3, CASE
	@$(BIN)/python -m tests.chaos --trials $${TRIALS:-10} --seed $${SEED:-1} --cluster $${CLUSTER:-1} \
	  $${CASE:+--case "$$CASE"}
	@$(BIN)/python -m tests.chaos --report

# Taskiq and FastStream are measured beside mmg, from an environment of their own: mmg needs neither.
bench: $(READY) ## measure everything beside floors and peers: a table, and data/bench (12 minutes)
	@$(MAKE) --no-print-directory .venv-bench/.ready || echo "bench: goes on without the peers"
	@$(BIN)/python -m ops.bench $${ONLY:+--only "$$ONLY"}

# The same suite runs on the double with every `make test`; this is the proof that both agree.
live: $(READY) ## the engine tests on a real ComfyUI at MMG_COMFYUI_URL (minutes on a CPU)
	@MMG_COMFYUI_LIVE="$${MMG_COMFYUI_URL:-http://127.0.0.1:8188}" \
	  $(BIN)/pytest -q --timeout 600 tests/conformance

check: $(READY) ## format, lint, types, spelling, all tests, and some with keys: what .ci/run calls
	@echo "check: format"
	@$(BIN)/ruff format --quiet --check .
	@echo "check: lint"
	@$(BIN)/ruff check --quiet .
	@echo "check: types"
	@$(BIN)/mypy --no-error-summary
	@echo "check: spelling"
	@$(BIN)/codespell
	@echo "check: acceptance tests with keys and TLS"
	@SECURE=1 $(BIN)/pytest -q -n $${JOBS:-3} tests/acceptance
	@echo "check: tests"
	@$(MAKE) --no-print-directory test

format: $(READY) ## format the code and mend what the linter can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

samples: $(READY) ## remake the sample images
	@$(BIN)/python ops/samples.py

screenshots: $(READY) ## photograph the dashboard for docs/screenshots; needs chromium
	@$(BIN)/python -m tests.browser.screenshots

schemas: $(READY) ## remake contracts/schemas from the contracts
	@$(BIN)/mmg schema --write

# UV_CUSTOM_COMPILE_COMMAND is what the header of the lock names as its origin.
lock: $(READY) ## remake requirements.lock; UPGRADE=1 also moves what pyproject.toml left alone
	@UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile pyproject.toml --quiet \
	  --universal --python-version 3.11 --all-extras --generate-hashes --no-emit-index-url \
	  $(if $(UPGRADE),--upgrade) --output-file requirements.lock

peers-lock: $(READY) # remake ops/bench/peers/peers.lock
	@UV_CUSTOM_COMPILE_COMMAND="make peers-lock" $(BIN)/uv pip compile ops/bench/peers/peers.in --quiet \
	  --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --output-file ops/bench/peers/peers.lock

clean: ## remove what make built; data and images stay
	@rm -rf .venv .venv-bench .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	@find agent contracts ops tests -name __pycache__ -prune -exec rm -rf {} +

# --- the environment ----------------------------------------------------------------------------

# One sentence when PYTHON cannot build the environment, else nothing.
python_fault = $(shell \
  if ! command -v "$(PYTHON)" >/dev/null 2>&1; then \
    echo "$(PYTHON) was not found. Install Python 3.11 or newer, or name one: make PYTHON=python3.12"; \
  elif ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
    echo "$(PYTHON) is older than 3.11. Install Python 3.11 or newer, or name one: make PYTHON=python3.12"; \
  elif ! "$(PYTHON)" -c 'import ensurepip, venv' >/dev/null 2>&1; then \
    echo "$(PYTHON) cannot build environments. Install its venv package:" \
      "apt-get install $$("$(PYTHON)" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"; \
  fi)

# What `make bench` measures beside mmg.
.venv-bench/.ready: ops/bench/peers/peers.lock
	$(if $(python_fault),$(error $(python_fault)))
	@echo "venv: .venv-bench with the peers of ops/bench/peers/peers.lock"
	@"$(PYTHON)" -m venv --clear .venv-bench
	@.venv-bench/bin/python -m pip install -qq --disable-pip-version-check --require-hashes \
	  -r ops/bench/peers/peers.lock
	@touch $@

# An environment that still runs is kept and brought up to the lock; any other is made anew.
$(READY): requirements.lock pyproject.toml
	$(if $(python_fault),$(error $(python_fault)))
	@echo "venv: .venv with $$("$(PYTHON)" -V)"
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || "$(PYTHON)" -m venv --clear .venv
	@echo "venv: packages of requirements.lock (the first time takes a minute)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	@echo "venv: mmg"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
