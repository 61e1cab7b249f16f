# Everything a developer runs. Each target makes the environment that it needs; see CONTRIBUTING.md.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two workers for pytest; each starts its own S3 server. `make test WORKERS=0` runs in one process.
WORKERS ?= 2
# More arguments for pytest: `make test ARGS="tests/index -x"`.
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow chaos soak check format bench bench-check clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP) ## Make .venv with the tested versions (done by every other target when needed)

$(STAMP): pyproject.toml constraints.txt scripts/setup/venv.sh scripts/setup/ffmpeg.sh
	@scripts/setup/ffmpeg.sh
	@PYTHON="$(PYTHON)" scripts/setup/venv.sh "$(VENV)"
	@touch $@

demo: $(STAMP) ## See it work: real video, a local S3 server, shuffled clips, every frame checked
	$(BIN)/lazyvid demo

test: check ## Static checks, then the tests (under 10 minutes on 2 cores)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

test-slow: $(STAMP) ## The long matrices and the tests that kill things
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "slow or chaos" $(ARGS)

# Where every draw of `make chaos` comes from, and what its numbers of cases are multiplied by.
SEED ?= $(shell date +%s)
SCALE ?= 1

chaos: $(STAMP) ## Break everything that can break, thousands of times (15 minutes); SEED=... repeats a run
	@echo "LAZYVID_CHAOS_SEED=$(SEED)"
	LAZYVID_CHAOS_SEED=$(SEED) LAZYVID_CHAOS_SCALE=$(SCALE) \
		$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m chaos $(ARGS)

# How long each of the soaks lasts; then nothing may take longer than that and some minutes.
SOAK_S ?= 600

soak: $(STAMP) ## Epochs under attack and a recording, ten minutes each (40 minutes); SOAK_S=60 shortens them
	LAZYVID_CHAOS_SEED=$(SEED) LAZYVID_SOAK_S=$(SOAK_S) $(BIN)/python -m pytest -m chaos -rP \
		-o faulthandler_timeout=$$(($(SOAK_S) + 300)) tests/chaos/test_soak.py $(ARGS)

check: $(STAMP) ## ruff (lint and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy lazyvid $(wildcard scripts/*.py scripts/*/*.py)

format: $(STAMP) ## Let ruff mend what it can; write the file table of lazyvid/README.md
	$(BIN)/python scripts/docs/file_table.py
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Where the figures and the plots go, and what is encoded for them: `make bench VIDEO=a_real_video.mp4`.
FIGURES ?= bench-output
PLOTS ?= bench-output
VIDEO ?=
CONTENT = $(if $(VIDEO),--video $(VIDEO)) --folder bench-output/content
# Each benchmark's own options; `make bench BENCHMARKS=decode` runs one.
BENCHMARKS ?= decode workloads remote loader lerobot index catalog record
decode_OPTIONS = $(CONTENT) --more
workloads_OPTIONS = $(CONTENT)
remote_OPTIONS = $(CONTENT)
loader_OPTIONS = $(if $(VIDEO),--video $(VIDEO)) --workers 2 --workers 0
lerobot_OPTIONS = $(CONTENT)

bench: $(BENCHMARKS:%=bench-%) ## Every benchmark, every table and plot, from nothing (over an hour)
	$(BIN)/python scripts/bench/plots.py $(FIGURES) $(PLOTS)

bench-%: $(STAMP)
	$(BIN)/python scripts/bench/$*.py $($*_OPTIONS) --json $(FIGURES)/$*.json

# What is measured anew, and the older figures that it is held against.
CHECKED ?= decode
BASELINE ?= docs/bench/$(CHECKED).json

bench-check: bench-$(CHECKED) ## Decoding (CHECKED=remote, ...) measured again: what got slower than in docs/bench?
	$(BIN)/python scripts/bench/compare.py $(FIGURES)/$(CHECKED).json $(BASELINE)

clean: ## Remove the environment, the caches and what the demo wrote
	rm -rf $(VENV) build dist *.egg-info demo-output bench-output outputs lightning_logs
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
