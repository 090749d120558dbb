# make demo         set up, run the whole workflow on the embedded footage, print where the report is
# make test         set up, run the tests
# make test-faults  the table of faults (docs/slurm.md), and the demo against its recorded hashes
# make audit        before a release: known vulnerabilities of what constraints.txt pins (needs the network)
PYTHON ?= python3
PYTEST ?=  # more options of pytest
WORKERS = --numprocesses 2 --dist loadscope --no-loadscope-reorder
VENV ?= .venv
BIN = $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)
PIP = $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-faults lint bench schema audit clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --requirement envs/torch-first.txt
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) --editable ".[dev]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/snakemake --cores all

test: $(VENV)/.dev
	$(BIN)/pytest -m "not faults" $(WORKERS) $(PYTEST)

test-faults: $(VENV)/.dev
	$(BIN)/pytest -m faults $(WORKERS) $(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/Snakefile workflow/rules
	$(BIN)/mypy
	tests/lint.sh

bench: $(VENV)/.dev
	$(PIP) --editable ".[dev,bench]"
	for file in $(filter-out bench/choose.py bench/ncut.py bench/number.py bench/tokens_pq.py bench/pretrain.py,$(wildcard bench/[a-z]*.py)); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

schema: $(VENV)/.installed
	$(BIN)/maskmill schema

# A package that the advisory service does not know fails as well: it was not audited.
audit:
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

clean:
	rm -rf results resources logs benchmarks .snakemake
