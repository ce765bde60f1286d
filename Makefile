# Every target does its own set-up: `make demo` and `make test` work on a machine that has only Python >= 3.11 and make.

# Settings, as in `make test PYTEST_WORKERS=8`
# the Python that .venv is made with; by default the first one on the PATH that is new enough
PYTHON ?=
# how many tests run at the same time: most wait for processes, so five keep two cores busy
PYTEST_WORKERS ?= 5
# whose Python test-versions takes: trixie has 3.13, forky 3.14
SUITE ?= trixie
# whose RabbitMQ test-rabbitmq takes: trixie has 4.0, forky 4.3 or what is newest by now
RABBITMQ_SUITE ?= forky
# whose Podman test-podman takes: trixie has 5.4, forky 5.8 or what is newest by now
PODMAN_SUITE ?= trixie
# which combinations `make equivalence` runs: those with a backend of each of these names, as in WITH="podman s3"
WITH ?=
# how long `make chaos` has things fail, and the seed of its plan: the same gives the same plan, none a new one
MINUTES ?= 2
SEED ?=
# more for pytest, as in PYTEST_ARGS='-k dispatcher -x'
PYTEST_ARGS ?=

export PYTHON
# The tests start thousands of processes: without what Python compiled once, each would compile Ion anew.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
# What the set-up depends on: a change in one of these installs anew, nothing else does.
RECIPES := scripts/setup pyproject.toml $(wildcard plugins/*/pyproject.toml) examples/faces/requirements.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo docs test equivalence chaos test-user test-versions test-rabbitmq test-cluster test-podman check format bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

demo: .venv/ready-for-demo ## run the example in examples/faces and check what comes out
	$(BIN)/python examples/faces/demo.py

test: check ## lint, types and all tests; CI runs test-user and test-versions after it
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal $(PYTEST_ARGS)

equivalence: .venv/ready-for-test ## two pipelines through every combination of backends, as a table; `make test` has each backend
	$(BIN)/python -m tests.everywhere $(WITH)

chaos: .venv/ready-for-test ## broker, S3, Podman and two dispatchers fail at random for MINUTES, then what came of it is counted; needs root
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

test-user: .venv/ready-for-test ## the tests for which it matters who runs them, as an ordinary user; root becomes one
	scripts/test-user -n $(PYTEST_WORKERS) --dist worksteal $(PYTEST_ARGS)

test-versions: .venv/ready-for-test ## tests under the Python of Debian 13 or of SUITE, in a tree of its own, and the next two; needs root
	PYTEST_WORKERS=$(PYTEST_WORKERS) scripts/test-versions all $(SUITE) $(RABBITMQ_SUITE) $(PODMAN_SUITE)

test-rabbitmq: .venv/ready-for-test ## tests of the plugin that hang on the server, on the newest RabbitMQ of Debian or that of RABBITMQ_SUITE, and a cluster of it; needs root
	PYTEST_WORKERS=$(PYTEST_WORKERS) scripts/test-versions rabbitmq $(RABBITMQ_SUITE)
	scripts/test-versions cluster $(RABBITMQ_SUITE)

test-cluster: .venv/ready-for-test ## a cluster of three nodes of this machine's RabbitMQ, which fail in turn; needs root
	$(BIN)/python -m pytest -q -m cluster -rP plugins/ion_rabbitmq/tests/test_cluster.py $(PYTEST_ARGS)

test-podman: ## the tests of containers on Podman 5 and runc of Debian 13 or of PODMAN_SUITE; needs root
	PYTEST_WORKERS=$(PYTEST_WORKERS) scripts/test-versions podman $(PODMAN_SUITE)

check: .venv/ready-for-test ## lint, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: .venv/ready-for-docs ## the documentation as a site, build/site/index.html
	scripts/site

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
