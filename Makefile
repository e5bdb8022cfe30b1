# Every verb of the project. `make` alone lists them; `make demo` and `make test` are all a new machine needs.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo down check test lint types fast unit simulate contract e2e soak figures proto reference locks clean

PY := .venv/bin/python
RUN := PATH="$(CURDIR)/.venv/bin:$$PATH"

help:  ## List the verbs
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup:  ## Make .venv from the hashed requirements
	@tools/setup

demo: setup  ## A local EC2, the AMI, the controller, a fleet, and four scenes of scaling to watch
	@lab/install-host
	@$(PY) -m demo

down: setup  ## Remove the demo and every other lab, and put the host back
	@$(RUN) lab down --all

check: setup lint types fast  ## The fast lane: lint, types, unit, property and simulated tests (2 minutes)

test: setup lint ansible-lint types  ## Everything, on real machines too (half an hour)
	@tools/install-test-tools
	@$(RUN) $(PY) -m pytest -q -n 2 tests/unit tests/simulation
	@$(RUN) $(PY) -m pytest -v -n 2 --dist loadscope --timeout 900 tests/contract tests/e2e

lint: setup
	@$(RUN) ruff check -q . && $(RUN) ruff format -q --check .
	@$(RUN) lint-imports --no-cache >/dev/null || $(RUN) lint-imports --no-cache
	@$(RUN) yamllint -s .
	@tools/proto --check
	@$(PY) tools/reference --check

.PHONY: ansible-lint
ansible-lint: setup  ## ansible-lint, production profile
	@ANSIBLE_INVENTORY=inventories/lab/hosts.yml $(RUN) ansible-lint -q --offline

types: setup
	@$(RUN) mypy

# Without what starts a process for each test.
fast: setup
	@$(RUN) $(PY) -m pytest -q -n 2 -m "not process" tests/unit
	@$(RUN) controller-asg simulate --seeds 200

unit: setup
	@$(RUN) $(PY) -m pytest -q -n 2 tests/unit

SEEDS ?= 2000
simulate: setup  ## The controller in made-up worlds where everything breaks (SEEDS=n, FIRST=n)
	@$(RUN) controller-asg simulate --seeds $(SEEDS) --first $(or $(FIRST),0)

contract: setup  ## The store on SQLite and PostgreSQL, the local EC2, the EC2 adapter on it
	@tools/install-test-tools
	@$(RUN) $(PY) -m pytest -v --timeout 600 tests/contract

e2e: setup  ## The whole in a lab of its own
	@tools/install-test-tools
	@$(RUN) $(PY) -m pytest -v --timeout 900 tests/e2e

soak: setup  ## SIGKILL the controller in thirty rounds of scaling
	@tools/install-test-tools
	@ASG_KILL_ROUNDS=30 $(RUN) $(PY) -m pytest -v --timeout 900 tests/e2e/test_3_breaking.py -k killed

figures: setup  ## Measure every figure, one JSON object a line (ONLY=glob for some)
	@lab/install-host >&2
	@$(RUN) $(PY) -m bench.figures $(if $(ONLY),--only '$(ONLY)')

proto: setup  ## Generate src/asg from proto/
	@tools/proto

reference: setup  ## Write docs/reference from the code
	@$(PY) tools/reference

locks: setup  ## Resolve the requirements anew
	@tools/locks

clean:  ## Remove what was built (not the lab: make down)
	@rm -rf .venv .build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .ansible
