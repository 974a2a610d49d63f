# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Processes that share the tests; pytest-xdist counts the CPUs.
JOBS ?= logical
# torchac, a peer, is compiled when it is first imported; ninja is found beside Python.
export TORCH_EXTENSIONS_DIR := $(CURDIR)/$(VENV)/torch_extensions
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test lint types unit compressai-tests docs wheel wheels fuzz clean

demo: $(VENV)/.demo
	$(BIN)/quadrans demo --force

test: lint types docs unit compressai-tests wheel

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

# A fresh Numba cache: Numba does not notice an edit to a function that a cached one calls from another file.
# A file's tests stay together, as they share what they compile and train.
unit: $(VENV)/.test
	cache=$$(mktemp -d); trap 'rm -rf "$$cache"' EXIT; \
		NUMBA_CACHE_DIR=$$cache QUADRANS_ALL_PACKAGES=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

# CompressAI's own tests of its coder, as it is and with ours in its place; pip fetches them.
compressai-tests: $(VENV)/.test
	cache=$$(mktemp -d); trap 'rm -rf "$$cache"' EXIT; NUMBA_CACHE_DIR=$$cache $(BIN)/python tests/run_compressai_tests.py

docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/site

wheel: $(VENV)/.test
	$(BIN)/python tests/check_wheel.py

# That pip finds wheels of everything, for each Python: gigabytes are fetched, so it isn't a part of `test`.
wheels: $(VENV)/.test
	$(BIN)/python tests/check_wheels.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$*]"
	touch $@

# CompressAI declares numpy<2, but runs with 2: it comes without what it asks for.
$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps compressai
	$(BIN)/python -c "import torchac" >/dev/null
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
