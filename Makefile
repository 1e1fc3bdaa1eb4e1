PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := out
PIP := pip install --quiet --disable-pip-version-check
EXAMPLE := examples/wan2.2-14b.yaml

.PHONY: demo fuzz test test-all test-long test-oracle test-latest test-oldest validate findings findings-update lint lock mutation bench bench-update regret ci clean

# Pinned versions with hashes, for running alone. The project itself is installed as it stands, without its build tools' newest.
$(VENV)/run: pyproject.toml requirements.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP) --requirement requirements.txt
	$(BIN)/$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

# What tests and checks need besides.
$(VENV)/dev: $(VENV)/run requirements-dev.txt
	$(BIN)/$(PIP) --requirement requirements-dev.txt
	touch $@

# Which schedule and chunk size cost least on 2 GPUs whose collectives cross PCIe: 19 simulations and a page.
demo: $(VENV)/run
	$(BIN)/chunkflow-sim experiment chunk-size-wan --force --html $(OUT)/demo.html
	@echo
	@echo "Open $(OUT)/demo.html in a browser. Then type:"
	@echo
	@echo "    $(BIN)/chunkflow-sim run $(EXAMPLE)"
	@echo "    $(BIN)/chunkflow-sim explain $(EXAMPLE)"
	@echo "    $(BIN)/chunkflow-sim sweep $(EXAMPLE) --set policy.resident_fraction=0..0.5:+0.25 --html $(OUT)/sweep.html"

test: $(VENV)/dev
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

test-all: $(VENV)/dev
	$(BIN)/python -m pytest -q -n 2

# Predicts all measured and published cases; fails where a stated bound is broken.
validate: $(VENV)/run
	$(BIN)/chunkflow-sim validate --force --html $(OUT)/validation.html --trace $(OUT)/validation.trace.json
	$(BIN)/chunkflow-sim validate --published

# Whether tables and plots of docs/measurements are as the committed data makes them, and all bounds of measured cases hold; findings-update
# writes them.
FINDINGS := docs/measurements.md docs/measurements
findings: $(VENV)/run
	$(BIN)/python -m validation.measurements_doc --check $(FINDINGS)

findings-update: $(VENV)/run
	$(BIN)/python -m validation.measurements_doc --out docs/plots --document $(FINDINGS) > /dev/null

# A virtual environment for each Python that is here, to compare their times.
.venv-pythons: pyproject.toml requirements.txt
	for v in 3.11 3.12 3.13; do for python in python$$v $$HOME/.pyenv/versions/$$v.*/bin/python; do \
	    if $$python -c '' 2>/dev/null; then \
	        $$python -m venv .venv-$$v && .venv-$$v/bin/$(PIP) --editable . ; \
	        break; \
	    fi; \
	done; done
	touch $@

# Thousands of examples for every property, sweeps killed many times, a million events; hours on two cores.
test-long: $(VENV)/dev .venv-pythons
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest -q -n 2 --timeout 3600

# Against SimGrid, from Debian's packages.
test-oracle: $(VENV)/dev
	/usr/bin/python3 -c 'import simgrid' 2>/dev/null || apt-get install -y python3-simgrid
	$(BIN)/python -m pytest -q -rs tests/test_simgrid.py

# Random input of every kind, and sweeps killed and resumed, judged (docs/testing.md); at most an hour.
fuzz: $(VENV)/dev
	$(BIN)/python tests/fuzz.py --inputs 20000 --kills 40 --seed 1 --minutes 60 --out $(OUT)/fuzz.jsonl

# The ranges in pyproject.toml: the newest of every package, and the lowest that it allows.
test-latest:
	rm -rf .venv-latest
	$(PYTHON) -m venv .venv-latest
	.venv-latest/bin/$(PIP) --upgrade --upgrade-strategy eager --editable .[dev]
	.venv-latest/bin/python -m pytest -q -n 2 -m "not slow"

test-oldest: $(VENV)/uv
	rm -rf .venv-oldest
	$(PYTHON) -m venv .venv-oldest
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --python .venv-oldest/bin/python --no-header \
	    --extra dev pyproject.toml --output-file .venv-oldest/requirements.txt
	.venv-oldest/bin/$(PIP) --requirement .venv-oldest/requirements.txt
	.venv-oldest/bin/$(PIP) --no-deps --editable .
	.venv-oldest/bin/python -m pytest -q -n 2 -m "not slow"

$(VENV)/uv: $(VENV)/run
	$(BIN)/$(PIP) uv
	touch $@

# The newest versions that pyproject.toml allows, with hashes, for every Python and platform.
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --upgrade
lock: $(VENV)/uv
	$(BIN)/$(LOCK) --group build pyproject.toml --output-file requirements.txt
	$(BIN)/$(LOCK) --group build --extra dev pyproject.toml --constraint requirements.txt --output-file requirements-dev.txt

# How many small faults (made by cosmic-ray) the tests notice; resumable.
mutation: $(VENV)/dev
	$(BIN)/$(PIP) --editable .[mutation]
	$(BIN)/python benchmarks/sample_mutations.py --results $(OUT)/mutations.jsonl

# What simulations and commands cost, as ratios within one run, beside the committed ones; bench-update commits new ones.
bench: $(VENV)/run
	$(BIN)/python -m benchmarks.speed

bench-update: $(VENV)/run
	$(BIN)/python -m benchmarks.speed --update

# What the policy `adaptive` loses to fixed schedules over generated scenarios: hours; resumable.
regret: $(VENV)/run
	$(BIN)/python benchmarks/regret.py --out $(OUT)/regret.jsonl

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

ci: lint test-all validate findings

clean:
	rm -rf $(VENV) .venv-* $(OUT) build *.egg-info
