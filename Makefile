# `make demo` and `make test` each set up what they need in .venv, and reuse it when it is there.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= demo_results

.PHONY: fuzz demo test test-all test-files lint check-types schemas bench clean

demo: $(VENV)/.ready
	$(BIN)/recon run sample_configs/multi_fashion_mnist_small.yaml -o $(OUT)

test: $(VENV)/.ready-dev lint check-types
	$(BIN)/python -m pytest -n 2 -m "not slow and not network"

test-all: $(VENV)/.ready-dev lint check-types
	$(BIN)/python -m pytest -n 2 -m "not network"

# Downloads 200 MB of packages; RECON_CACHE names a folder that keeps them.
test-files: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -m network

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-types: $(VENV)/.ready-dev
	$(BIN)/mypy

schemas: $(VENV)/.ready
	$(BIN)/python docs/make_schemas.py
	$(BIN)/python docs/make_methods.py

bench: $(VENV)/.ready-bench
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.profile
	$(BIN)/python -m benchmarks.routes
	$(BIN)/python -m benchmarks.split
	$(BIN)/python -m benchmarks.branch
	$(BIN)/python -m benchmarks.methods
	$(BIN)/python -m benchmarks.train

FUZZ_SECONDS ?= 60

fuzz: $(VENV)/.ready-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	for target in safetensors index archive pickle torch_file torch_tree distributed documents; do \
		$(BIN)/python -m tests.fuzz $$target --seconds $(FUZZ_SECONDS) || exit 1; \
	done

clean:
	rm -rf $(VENV) demo_results

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The constraints name every version, so that a test that passes here passes everywhere.
$(VENV)/.ready: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.ready-dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(VENV)/.ready $@

$(VENV)/.ready-bench: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $(VENV)/.ready $@
