PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := out

.PHONY: demo test lint ci clean

# Installed once, again when pyproject.toml changes.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .[dev]
	touch $@

demo: $(VENV)/installed
	$(BIN)/chunkflow-sim validate --html $(OUT)/demo.html --trace $(OUT)/demo.trace.json

test: $(VENV)/installed
	$(BIN)/python -m pytest -q -n 2

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ci: lint test

clean:
	rm -rf $(VENV) $(OUT) build *.egg-info
