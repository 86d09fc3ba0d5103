# Everything a fresh machine needs (Python 3.11+, git, make): `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
QUIET := --quiet --disable-pip-version-check

.PHONY: demo test docs soak bench bench-cost clean

demo: $(VENV)/.demo
	$(BIN)/python cli.py demo

test: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n auto --dist worksteal

docs: $(VENV)/.dev
	$(BIN)/pytest -q --reliability -p no:xdist

soak: $(VENV)/.dev
	SOAK_KILLS=1000 $(BIN)/pytest -q -n auto tests/test_crash.py -k random

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/throughput.py

bench-cost: $(VENV)/.dev
	$(BIN)/python benchmarks/cost.py

$(VENV)/.base: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(QUIET) -r requirements.txt
	touch $@

$(VENV)/.demo: $(VENV)/.base requirements-demo.txt
	$(BIN)/pip install $(QUIET) --no-deps -r requirements-demo.txt
	touch $@

$(VENV)/.dev: $(VENV)/.base requirements-dev.txt
	$(BIN)/pip install $(QUIET) -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
