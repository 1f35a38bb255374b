# make demo    pretrain, embed, index and search on a corpus made on the spot
# make test    the whole test suite
# make docs    the documentation, in build/site
# Each creates the environment in $(VENV) if it is not there.

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/demo.yaml
OUTPUT ?= runs/$(notdir $(basename $(CONFIG)))
BIN := $(VENV)/bin
# Tests are small: several threads of a matrix library would wait for each other; processes of several tests do not.
JOBS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS) --dist worksteal

.PHONY: demo demo-agnostic test test-fast lint format docs clean

demo: $(VENV)/.installed
	$(BIN)/vatt demo --config $(CONFIG) --output $(OUTPUT)

demo-agnostic:
	$(MAKE) demo CONFIG=configs/demo_agnostic.yaml

test: lint
	$(PYTEST)

test-fast: lint
	$(PYTEST) -m "not slow"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Warnings, such as links to pages or headings that do not exist, are errors.
docs: $(VENV)/.installed
	$(BIN)/mkdocs build --strict

$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "vatt needs Python 3.11 or newer: make PYTHON=python3.11 …"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
