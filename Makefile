# Everything a fresh machine needs (Python 3.11+, git, make): `make demo`, `make test`.
PYTHON ?= python3
# For bench-peers: 3.12 or newer
PEERS_PYTHON ?= $(PYTHON)
VENV := .venv
BIN := $(VENV)/bin
# --no-compile: Python compiles a module when it is first imported, and most modules of the packages never are.
PIP_OPTIONS := --quiet --disable-pip-version-check --no-compile

TEST := $(BIN)/pytest -n auto --dist worksteal

.PHONY: demo test test-all docs soak check-trl check-llamafactory check-container check-ray dist check-dist bench bench-parts bench-million bench-export bench-cost bench-makespan bench-serve bench-roundtrips bench-peaks bench-peers clean

demo: $(VENV)/.demo
	$(BIN)/python cli.py demo

test: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(TEST) -m "not slow"

# And the tests that are marked slow, among them all but one case of each fault.
test-all: test
	$(TEST) -m slow

docs: $(VENV)/.dev
	$(BIN)/pytest -q --reliability -p no:xdist

soak: $(VENV)/.dev
	SOAK_KILLS=1000 $(BIN)/pytest -q -n auto tests/faults/test_kills.py tests/unit/engine/test_sender.py -k random
	SOAK_EXAMPLES=1000 $(BIN)/pytest -q -n auto $$(grep -l "^@given" -r tests --include=*.py)
	SOAK_ROWS=50000 $(BIN)/pytest -q -p no:xdist tests/emulator/test_upstream.py -k memory

check-trl: $(VENV)/.demo $(VENV)-trl/.trl
	$(BIN)/python cli.py -q demo --backend scripted --conversations 36 --output $(VENV)-trl/run
	$(VENV)-trl/bin/python tests/trainers/check_trl.py $(VENV)-trl/run

check-llamafactory: $(VENV)/.demo $(VENV)-llamafactory/.llamafactory
	rm -rf $(VENV)-llamafactory/exports
	$(BIN)/python cli.py -q demo --backend scripted --conversations 36 --output $(VENV)-llamafactory/run
	for form in messages sharegpt llamafactory aligner; do \
		$(BIN)/python cli.py --root $(VENV)-llamafactory/run export --format $$form --test-share 0.2 \
			--output $(VENV)-llamafactory/exports/$$form || exit 1; \
	done
	$(VENV)-llamafactory/bin/python tests/trainers/check_llamafactory.py $(VENV)-llamafactory/exports

check-container: $(VENV)/.dev
	$(BIN)/hadolint deploy/Containerfile
	mkdir -p $(VENV)-container
	$(BIN)/python tests/containers/check_containerfile.py $(VENV)-container

check-ray: $(VENV)/.demo $(VENV)-ray/.ray
	$(BIN)/python deploy/ray/check.py $(VENV)-ray/bin

dist: $(VENV)-dist/.dist
	rm -rf dist batchgen.egg-info
	$(VENV)-dist/bin/python -m build --outdir dist
	$(VENV)-dist/bin/twine check --strict dist/*

check-dist: dist $(VENV)/.dev
	$(BIN)/python tests/packages/check_dist.py dist

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/throughput.py

bench-parts: $(VENV)/.dev
	$(BIN)/python benchmarks/parts.py

bench-million: $(VENV)/.dev
	$(BIN)/python benchmarks/million.py

bench-export: $(VENV)/.dev
	$(BIN)/python benchmarks/exports.py

bench-cost: $(VENV)/.dev
	$(BIN)/python benchmarks/cost.py

bench-makespan: $(VENV)/.dev
	$(BIN)/python benchmarks/makespan.py --write

bench-serve: $(VENV)/.dev
	$(BIN)/python benchmarks/serving.py

bench-roundtrips: $(VENV)/.dev
	$(BIN)/python benchmarks/roundtrips.py

bench-peaks: $(VENV)/.dev
	$(BIN)/python benchmarks/peaks.py

bench-peers: $(VENV)-peers/.peers
	$(VENV)-peers/bin/python benchmarks/peers.py

$(VENV)/.base: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_OPTIONS) -r requirements.txt
	touch $@

$(VENV)/.demo: $(VENV)/.base requirements-demo.txt
	$(BIN)/pip install $(PIP_OPTIONS) --no-deps -r requirements-demo.txt
	touch $@

$(VENV)/.dev: $(VENV)/.base requirements-dev.txt requirements-serve.txt
	$(BIN)/pip install $(PIP_OPTIONS) -r requirements-dev.txt
	touch $@

$(VENV)-trl/.trl: requirements-trl.txt requirements.txt
	$(PYTHON) -m venv $(VENV)-trl
	$(VENV)-trl/bin/pip install $(PIP_OPTIONS) -r requirements-trl.txt
	touch $@

$(VENV)-llamafactory/.llamafactory: requirements-llamafactory.txt
	$(PYTHON) -m venv $(VENV)-llamafactory
	$(VENV)-llamafactory/bin/pip install $(PIP_OPTIONS) -r requirements-llamafactory.txt
	$(VENV)-llamafactory/bin/pip install $(PIP_OPTIONS) --no-deps llamafactory==0.9.5
	touch $@

$(VENV)-ray/.ray: requirements-ray.txt requirements-demo.txt
	$(PYTHON) -m venv $(VENV)-ray
	$(VENV)-ray/bin/pip install $(PIP_OPTIONS) -r requirements-ray.txt
	$(VENV)-ray/bin/pip install $(PIP_OPTIONS) --no-deps -r requirements-demo.txt
	touch $@

$(VENV)-dist/.dist: requirements-dist.txt
	$(PYTHON) -m venv $(VENV)-dist
	$(VENV)-dist/bin/pip install $(PIP_OPTIONS) -r requirements-dist.txt
	touch $@

$(VENV)-peers/.peers: requirements-peers.txt requirements.txt
	@$(PEERS_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || \
		{ echo "batchor needs Python 3.12 or newer: make bench-peers PEERS_PYTHON=python3.12" >&2; exit 1; }
	$(PEERS_PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/pip install $(PIP_OPTIONS) -r requirements-peers.txt
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-trl $(VENV)-llamafactory $(VENV)-container $(VENV)-ray $(VENV)-peers $(VENV)-dist dist batchgen.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
