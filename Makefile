# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types unit wheel fuzz clean

demo: $(VENV)/.demo
	$(BIN)/quadrans demo --force

test: lint types unit wheel

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

# A fresh Numba cache: Numba does not notice an edit to a function that a cached one calls from another file.
unit: $(VENV)/.test
	cache=$$(mktemp -d); trap 'rm -rf "$$cache"' EXIT; NUMBA_CACHE_DIR=$$cache $(BIN)/python -m pytest

wheel: $(VENV)/.test
	$(BIN)/python tests/check_wheel.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$*]"
	touch $@

# Three parts, each for so long; the streams depend on the seed alone, those of the last part on the time too.
FUZZ_SECONDS ?= 1200
FUZZ_SEED ?= 0

fuzz: $(VENV)/.fuzz
	$(BIN)/python tests/fuzz/mutate.py --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED)
	cache=$$(mktemp -d); trap 'rm -rf "$$cache"' EXIT; NUMBA_CACHE_DIR=$$cache NUMBA_BOUNDSCHECK=1 QUADRANS_SIMD=scalar \
		$(BIN)/python tests/fuzz/mutate.py --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED)
	$(BIN)/python tests/fuzz/fuzz_decoders.py -max_total_time=$(FUZZ_SECONDS)

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
