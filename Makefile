# The two commands of the README are `make up` and `make test`; the rest is for those who work on the project.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest

.PHONY: up down status fast test test-long lint format bench-spawn bench-snapshot bench-restore clean

up: $(VENV)/.installed
	@$(BIN)/respawner-hub up

down: $(VENV)/.installed
	@$(BIN)/respawner-hub down

status: $(VENV)/.installed
	@$(BIN)/respawner-hub status

# Tests without Docker and browser.
fast: $(VENV)/.installed-dev
	$(PYTEST) -m "not docker and not browser"

# Everything that CI runs: lint, then every test, with a Docker engine of its own where none runs.
test: lint
	tests/run

# What takes too long for CI: soak runs and full fault counts. A superset of `make test`.
test-long: lint
	RESPAWNER_LONG=1 tests/run

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Login, spawn and first kernel output, beside stock DockerSpawner with the same image.
bench-spawn: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.bench.spawn

# What saving costs beside pickling, torch.save, elastic-kernel, kishu and the disk (about 6 minutes, 12 GB of memory).
bench-snapshot: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.bench.snapshot

# Restoring beside torch.load.
bench-restore: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.bench.restore

$(VENV)/.installed: hub/pyproject.toml spawner/pyproject.toml snapshot/pyproject.toml
	@PYTHON="$(PYTHON)" sh hub/bootstrap.sh "$(VENV)"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed pyproject.toml
	@echo "▸ Tools and libraries of the tests"
	@$(BIN)/pip install --quiet --group dev
	@touch $@
