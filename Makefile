# Every target does its own set-up: `make demo` and `make test` work on a machine that has only Python >= 3.11 and make.

# Settings, as in `make test PYTEST_WORKERS=8`
# the Python that .venv is made with; by default the first one on the PATH that is new enough
PYTHON ?=
# how many tests run at the same time
PYTEST_WORKERS ?= 2
# more for pytest, as in PYTEST_ARGS='-k dispatcher -x'
PYTEST_ARGS ?=

export PYTHON
BIN := .venv/bin
# What the set-up depends on: a change in one of these installs anew, nothing else does.
RECIPES := scripts/setup pyproject.toml $(wildcard plugins/*/pyproject.toml) examples/faces/requirements.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check format bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

demo: .venv/ready-for-demo ## run the example in examples/faces and check what comes out
	$(BIN)/python examples/faces/demo.py

test: check ## everything CI runs: lint, types and all tests
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) $(PYTEST_ARGS)

check: .venv/ready-for-test ## lint, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/ready-for-test ## correct what can be corrected: imports, formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/ready-for-test ## measure against the goals of bench/README.md
	$(BIN)/python -m bench

clean: ## remove what make made: .venv, caches, the state of the demo
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist examples/faces/.ion-demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/ready-for-%: $(RECIPES)
	scripts/setup $*
	touch $@
