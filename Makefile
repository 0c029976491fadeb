# make demo     see it work: a real job, timed
# make test     every test
# make test-ray    the contract on the engine `ray`, on real Ray (installed as for the benchmarks)
# make test-ray-short    the part of it that takes a few minutes
# make check    what a commit must pass: style, types, floors, quick tests (under a minute)
# make style    the style and the types alone
# make bench    measure against real Ray (installs Ray in a venv of its own, .venv-ray)
# make bench-scale    what is large, beside real Ray: does it complete, how fast, with how much memory
# make bench-cluster  many nodes, actors and placement groups, beside real Ray
# make docs     run the examples that README.md and docs/ show
# make page     write docs/compatibility.md anew: Ray's public names against Skate's
# make chaos    50,000 tasks and 200 actors while workers die; SEED=n for another run
# make clean    remove what the targets above made

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := -m pip -qq --disable-pip-version-check --retries 10 --timeout 60

CONTRACT := $(BIN)/python -m pytest --pyargs skate.testing.contract
# The part of it that takes seconds: enough to see at once that an engine is broken.
SHORT_CONTRACT := $(foreach part,tasks objects actors errors,skate.testing.contract.test_$(part))

RAY_VERSION := 2.60.0
RAY_VENV ?= .venv-ray
ifndef RAY_PYTHON
RAY_PYTHON := $(RAY_VENV)/bin/python
RAY_STAMP := $(RAY_VENV)/.ray
endif

.PHONY: help demo test test-ray test-ray-short style check bench bench-scale bench-cluster page chaos docs dev clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# make/make/p' Makefile

demo: $(VENV)/.demo
	@$(BIN)/python examples/tour.py

test: $(VENV)/.dev
	@echo "The contract on the local engine"
	@SKATE_ENGINE=local $(CONTRACT)
	@echo "The contract on the inline engine"
	@SKATE_ENGINE=inline $(CONTRACT)
	@echo "Everything else"
	@$(BIN)/python -m pytest

# Ray warns of what it will drop one day, which is not ours to judge: -W ignore.
test-ray: $(RAY_STAMP)
	@echo "The contract on the ray engine"
	@SKATE_ENGINE=ray $(RAY_PYTHON) -m pytest -W ignore --pyargs skate.testing.contract
	@$(RAY_PYTHON) -m pytest -W ignore tests/ray_engine
	@echo "The tests of serve, MCP and plugins on the ray engine"
	@SKATE_ENGINE=ray $(RAY_PYTHON) -m pytest -W ignore --timeout 150 $(RAY_SERVE_TESTS)

RAY_SERVE_TESTS := $(foreach part,http_serve http_faults http_tls_grpc multiplex_routing declared gangs_and_actors \
	request_routers serve_faults \
	serve_handles serve_logs serve_metrics serve_streams,tests/serve/test_$(part).py) \
	tests/serve/mcp/test_mcp_deployments.py tests/plugin/test_plugin_engines.py

# Ray's daemons may come up late on a busy machine, and one that died takes the tests of a file with it: what failed is
# tried once more, by a new process. A fault of ours fails twice.
SHORT_RAY_TESTS := $(foreach part,addresses engine programs serve serve_http,tests/ray_engine/test_ray_$(part).py)
SHORT_RAY_SERVICE := tests/plugin/test_plugin_engines.py
SHORT_RAY := $(RAY_PYTHON) -m pytest -W ignore -o cache_dir=.pytest_cache/ray

test-ray-short: $(RAY_STAMP)
	@rm -rf .pytest_cache/ray
	@echo "The short contract on the ray engine"
	@export SKATE_ENGINE=ray; $(SHORT_RAY) --pyargs $(SHORT_CONTRACT) || \
		{ echo "What failed, once more"; $(SHORT_RAY) --last-failed --pyargs $(SHORT_CONTRACT); }
	@rm -rf .pytest_cache/ray
	@$(SHORT_RAY) $(SHORT_RAY_TESTS) || \
		{ echo "What failed, once more"; $(SHORT_RAY) --last-failed $(SHORT_RAY_TESTS); }
	@rm -rf .pytest_cache/ray
	@export SKATE_ENGINE=ray; $(SHORT_RAY) $(SHORT_RAY_SERVICE) || \
		{ echo "What failed, once more"; $(SHORT_RAY) --last-failed $(SHORT_RAY_SERVICE); }

style: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

check: style
	@SKATE_ENGINE=local $(BIN)/python -m pytest --pyargs $(SHORT_CONTRACT)
	@SKATE_ENGINE=inline $(BIN)/python -m pytest --pyargs $(SHORT_CONTRACT)
	@$(BIN)/python -m pytest -m "not slow" --ignore tests/local

bench: $(VENV)/.dev $(RAY_STAMP)
	@$(BIN)/python benchmarks/engine.py --rival $(RAY_PYTHON)

bench-scale: $(VENV)/.dev $(RAY_STAMP)
	@$(BIN)/python benchmarks/scale.py --rival $(RAY_PYTHON)

bench-cluster: $(VENV)/.dev $(RAY_STAMP)
	@$(BIN)/python benchmarks/cluster.py --rival $(RAY_PYTHON)

page: $(VENV)/.dev $(RAY_STAMP)
	@$(BIN)/python tools/compatibility.py --wheel-python $(RAY_PYTHON)

SEED ?= 1

chaos: $(VENV)/.dev
	@$(BIN)/python -m skate.testing.chaos --seed $(SEED) --tasks 50000 --actors 200

docs: $(VENV)/.dev
	@$(BIN)/python -m pytest tests/test_readme.py tests/test_docs.py tests/examples tests/cli/test_cli_docs.py

# The environment with everything that tests and checks need, for work on Skate itself.
dev: $(VENV)/.dev

clean:
	@rm -rf $(VENV) $(RAY_VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(BIN)/python:
	@echo "Making the environment $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Skate needs Python 3.11 or newer; name one: make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)

# A stamp is older than pyproject.toml when the dependencies may have changed. Both installs are editable, so
# that `make demo` never leaves a stale copy of the package for `make test` to find.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "Installing Skate and what the demo needs"
	@$(BIN)/python $(PIP) install -e ".[demo]"
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing Skate and what its tests and checks need"
	@$(BIN)/python $(PIP) install -e ".[dev,demo]"
	@touch $@ $(VENV)/.demo

$(RAY_VENV)/.ray:
	@echo "Installing Ray $(RAY_VERSION), in $(RAY_VENV) (about 300 MB)."
	@echo "To use one that is installed already: make bench RAY_PYTHON=path/to/its/python"
	@$(PYTHON) -m venv $(RAY_VENV)
	@$(RAY_VENV)/bin/python $(PIP) install -e ".[numpy,serve,mcp,plugin]" "ray[client]==$(RAY_VERSION)" "httpx>=0.27,<1" "pytest>=8.3,<10" "pytest-timeout>=2.3,<3"
	@touch $@
