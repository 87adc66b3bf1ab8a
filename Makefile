# Each target sets up what it needs: a virtual environment in .venv with the pinned packages.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# What `make peers` patches; `make language` puts it there.
MODEL ?= runs/language/model
INSTALLED := $(VENV)/.installed

.PHONY: repro test bench peers lint clean

repro: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro

test: $(INSTALLED) lint
	$(BIN)/python -m pytest

bench: $(INSTALLED)
	mkdir -p .benchmarks
	$(BIN)/python -m pytest -q tests/benchmarks --benchmark-enable --benchmark-json=.benchmarks/timings.json
	$(BIN)/python tests/support/speed_tables.py .benchmarks/timings.json metrics/benchmark.json

peers: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[peers]"
	HF_HUB_OFFLINE=1 $(BIN)/python tests/benchmarks/peers.py --model $(MODEL)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	find csrc -type f | xargs $(BIN)/clang-format --dry-run --Werror

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV)
