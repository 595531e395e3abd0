# The two commands of the README are `make up` and `make test`; the rest is for those who work on the project.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest

.PHONY: up down status fast test test-long test-cluster test-roles lint format bench-spawn bench-snapshot bench-restore bench-training bench-leases kills capabilities dockerspawner-suite tour pythons image-suite clean

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

# Hosts that are containers become a cluster by the playbooks; what is a stand-in there: tests/cluster/rig.py.
test-cluster: lint
	RESPAWNER_CLUSTER=1 tests/run tests/cluster/test_cluster.py tests/cluster/test_bare_gpus.py

# Roles that are off by default, the hub's host lost and made anew from its backup, and upgrades of several hosts, in the same way.
test-roles: lint
	RESPAWNER_CLUSTER=1 tests/run tests/cluster/test_firewall.py tests/cluster/test_postgresql.py tests/cluster/test_hub_lost.py tests/cluster/test_upgrade.py

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

# What saving after every cell costs, and how fast a killed kernel is back; beside the peers, which the target installs
# into an environment of their own under var/. REPETITIONS and STATE_MB make them smaller.
bench-snapshot: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.bench.snapshot

bench-restore: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.bench.restore

# What snapshots inside a training cell cost, and what a kill loses; beside torch.save and nothing.
bench-training: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.bench.training

# Training is killed so many times (20), in each of four kinds of loops, and ends with the same bits as one that never was.
KILLS ?= 20
kills: $(VENV)/.installed-dev
	RESPAWNER_KILLS=$(KILLS) $(PYTEST) -v --durations=0 tests/snapshot/test_resume.py -k bit_for_bit

# The lease policy on a real trace, beside FIFO, EASY backfill and static partition, and how long a decision takes.
# TRACE=file GPUS=n play another trace.
bench-leases: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.bench.leases

# What comes back after kill -9, case by case, beside the peers. Writes docs/capabilities.md.
capabilities: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.bench.capabilities

# dockerspawner's own tests against our spawner class and the stock one, on a private engine. The tests come from PyPI.
dockerspawner-suite: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.dockerspawner_suite.run

# Runs docs/tour.ipynb, which kills its kernel halfway, and writes the outputs into it.
tour: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.snapshot.tour

# The kernel component's own tests on every Python that this machine has or Debian can lend, with and without libraries.
pythons: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.snapshot.pythons

# The same inside an image of sessions, by its own Python, with its torch: make image-suite IMAGE=respawner/pytorch-cuda:2.7
# TESTS="test_store.py …" runs those files only.
image-suite: $(VENV)/.installed-dev
	@IMAGE="$(IMAGE)" TESTS="$(TESTS)" $(BIN)/python -m tests.snapshot.in_image

$(VENV)/.installed: hub/pyproject.toml spawner/pyproject.toml snapshot/pyproject.toml
	@PYTHON="$(PYTHON)" sh hub/bootstrap.sh "$(VENV)"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed pyproject.toml
	@echo "▸ Tools and libraries of the tests"
	@$(BIN)/pip install --quiet --group dev
	@touch $@
