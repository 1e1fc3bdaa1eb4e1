PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := out

.PHONY: demo test test-long test-oracle mutation findings lint ci clean

# Installed once, again when pyproject.toml changes.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .[dev]
	touch $@

# A virtual environment for each Python that is here, to compare their times.
.venv-pythons: pyproject.toml
	for v in 3.11 3.12 3.13; do for python in python$$v $$HOME/.pyenv/versions/$$v.*/bin/python; do \
	    if $$python -c '' 2>/dev/null; then \
	        $$python -m venv .venv-$$v && .venv-$$v/bin/pip install --quiet --disable-pip-version-check --editable . ; \
	        break; \
	    fi; \
	done; done
	touch $@

# Predicts all measured cases and fails where a stated bound is broken; a minute or two on two cores.
demo: $(VENV)/installed
	$(BIN)/chunkflow-sim validate --html $(OUT)/demo.html --trace $(OUT)/demo.trace.json

test: $(VENV)/installed
	$(BIN)/python -m pytest -q -n 2

# Thousands of examples for every property, sweeps killed many times, a million events; hours on two cores.
test-long: $(VENV)/installed .venv-pythons
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest -q -n 2

# Against SimGrid, from Debian's packages.
test-oracle: $(VENV)/installed
	/usr/bin/python3 -c 'import simgrid' 2>/dev/null || apt-get install -y python3-simgrid
	$(BIN)/python -m pytest -q -rs tests/test_simgrid.py

# How many small faults (made by cosmic-ray) the tests notice; resumable.
mutation: $(VENV)/installed
	$(BIN)/python benchmarks/sample_mutations.py --results $(OUT)/mutations.jsonl

# Tables and plots of docs/measurements.md from the committed data; the tests look at some rows of each.
findings: $(VENV)/installed
	$(BIN)/python -m validation.findings --out docs/plots --document docs/measurements.md > /dev/null

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ci: lint test

clean:
	rm -rf $(VENV) .venv-* $(OUT) build *.egg-info
