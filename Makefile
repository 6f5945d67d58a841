# make demo   a real training experiment, end to end        make test   every test
# make lint   style, types, layers                          make bench  the figures in docs/reference/benchmarks.md
# make audit  dependencies, licences, secrets in the history
# make faults 500 experiments in a storm of failures        make docs   the generated reference
# make fuzz   hostile input, ten minutes a target
# make test-cgroup2  control groups of version 2, in a virtual machine
# Each target does all of its own set-up; a fresh machine needs Python 3.11 or newer and make.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
VENV := .venv
BIN := $(VENV)/bin
RUNNER := $(BIN)/studio-runner

.PHONY: setup setup-dev test-servers demo test test-fast test-cgroup2 lint audit format bench faults fuzz docs constraints clean

setup: $(VENV)/.installed            ## the runner in .venv
setup-dev: $(VENV)/.installed-dev    ## and what its tests and checks need

$(VENV)/.installed: pyproject.toml requirements/run.txt scripts/bootstrap
	scripts/bootstrap $(VENV) requirements/run.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements/dev.txt
	scripts/bootstrap $(VENV) requirements/dev.txt
	touch $@

test-servers:                        ## RabbitMQ, and what benchmarks compare with
	scripts/install-test-servers

demo: setup
	examples/demo

test: setup-dev test-servers
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: setup-dev test-servers
	$(BIN)/python -m pytest tests/unit tests/contract

CGROUP_TESTS ?= tests/integration/test_control_groups.py tests/integration/test_control_groups_v2.py
test-cgroup2: setup-dev              ## as root, and as an ordinary user with a delegated subtree
	scripts/run-in-vm $(BIN)/python -m pytest -p no:cacheprovider $(CGROUP_TESTS)
	scripts/run-in-vm --as-user 1234 $(BIN)/python -m pytest -p no:cacheprovider $(CGROUP_TESTS)

# What turns other people's bytes into code, commands or more of themselves; no `noqa` helps in the program itself.
NEVER := S102,S301,S302,S306,S307,S506,S602,S604,S605,TID251
EXCUSED := src/studio_runner/cli/checkup/python.py:TID251  # asks an index without TLS, as pip was told to

lint: setup-dev
	$(BIN)/ruff check
	$(BIN)/ruff check --ignore-noqa --select $(NEVER) --per-file-ignores $(EXCUSED) src audit
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: setup-dev                     ## ADVISORIES=DIR asks a checkout of the packaging advisory database
	$(BIN)/python -m audit

format: setup-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup-dev test-servers
	$(BIN)/python -m bench --write

faults: setup-dev test-servers       ## FAULTS="--experiments 100 --seed 7" for others than the usual
	$(BIN)/python -m faults $(FAULTS)

FUZZ_SECONDS ?= 600
fuzz: $(VENV)/.installed-fuzz        ## FUZZ="units keys" for some of the targets, FUZZ_SECONDS=60 for each
	$(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS) $(FUZZ)

NO_ATHERIS := no wheel of atheris for this Python and machine (Linux on x86-64 has them): nothing is fuzzed. \
  make test runs all targets without it
$(VENV)/.installed-fuzz: $(VENV)/.installed-dev requirements/fuzz.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --only-binary :all: \
	  -r requirements/fuzz.txt || { echo "$(NO_ATHERIS)" >&2; exit 1; }
	touch $@

docs: setup-dev                      ## the generated parts of docs/reference
	$(BIN)/python scripts/generate_reference.py

constraints: setup-dev               ## newest versions into requirements/
	scripts/constraints $(BIN)/uv

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis fuzz/campaigns
