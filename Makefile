# Everything that a person does with this repository. `make` alone lists it.

VENV := .venv
BIN  := $(VENV)/bin
PY   := $(BIN)/python

# `verdi` must be on the path of the daemon, and one thread per process is what a small machine wants.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long lint format docs bench constraints clean distclean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: ## Install what is missing: Quantum ESPRESSO, a virtual environment, the Python packages
	@scripts/setup.sh

demo: setup ## Run a real silicon campaign in .demo/ and write its report
	@scripts/demo.sh

test: setup ## Run the tests, with the real codes: each file in one of several processes, then whole campaigns
	$(PY) -m pytest -m 'not long' --durations=15 --ignore tests/integration -n logical --maxprocesses 4 --dist loadfile
	$(PY) -m pytest -m 'not long' --durations=15 tests/integration

test-long: setup ## Run the tests that take minutes each
	$(PY) -m pytest -m long --durations=0

lint: setup ## Check style, types and the borders between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## Build the documentation into docs/_build/html; a warning is an error
	$(PY) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "documentation: docs/_build/html/index.html"

bench: setup ## Run the benchmarks; each closes with lines "RESULT name value unit"
	@set -e; for script in benchmarks/[a-z]*.py; do echo "==> $$script"; $(PY) $$script; done

constraints: setup ## Write constraints.txt anew from the virtual environment
	$(PY) scripts/constraints.py

clean: ## Remove what was built and the data of the demo, keep the virtual environment
	@if [ -d .demo/aiida ]; then AIIDA_PATH=$(CURDIR)/.demo/aiida $(BIN)/verdi daemon stop >/dev/null 2>&1 || true; fi
	rm -rf .demo docs/_build dist .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## Remove the virtual environment as well
	rm -rf $(VENV)
