# Every target works from a fresh clone: it makes what it needs in .venv, once, and starts at once from then on.

PYTHON ?= python3
PEERS = trl torchtune liger openrlhf verl torchrl llamafactory ludwig areal swift

.DEFAULT_GOAL := help
.PHONY: help verify quick test lint selftest toy demo sampled bench documents page-test vectors-check peers $(PEERS:%=verify-%) ports has-node clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

verify: .venv/ready ## judge this implementation, on NumPy and on PyTorch, and decide the theory
	.venv/bin/python -m verify --impl numpy --impl torch --theory

quick: .venv/ready ## the same in less time, with fewer cases
	.venv/bin/python -m verify --impl numpy --impl torch --profile quick

test: .venv/ready ## run the tests
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2

lint: .venv/ready ## check style, formatting and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

selftest: .venv/ready ## show that the suite can fail: real bugs and mutants, each to be caught
	.venv/bin/python -m verify selftest

toy: .venv/ready ## run the exactly solvable worlds: out/toy/index.html has their figures and tables
	.venv/bin/python -m toy all

demo: .venv/ready ## a generated text world with a known reward: tokenizer, SFT, DPO, and how near they come to the truth
	.venv/bin/python -m gpt_tiny demo --out out/demo --resume

sampled: .venv/ready ## run PPO, RLOO, GRPO and others to their ends in a world that is known exactly: an hour
	.venv/bin/python -m verify --claims 'sampled.*'

bench: .venv/ready .venv-trl/ready ## work, speed and memory of a training step: plain, fast, and TRL's, side by side
	.venv/bin/python -m gpt_tiny bench

documents: .venv/ready ## write what is generated from the claims: errata, table of losses, choices, defaults
	.venv/bin/python -m verify.theory

page-test: .venv/ready ## test the interactive page in headless Chromium
	.venv/bin/python -m pytest tests/test_page.py

vectors-check: .venv/ready ## regenerate the frozen vectors and compare them byte for byte
	.venv/bin/python -m verify.vectors --check

peers: $(PEERS:%=verify-%) ## judge published libraries, in environments of their own, and write verify/peers/PEERS.md
	.venv/bin/python -m verify.peers.table $(PEERS:%=out/peers/%.json)

verify-trl: .venv-trl/ready
$(filter-out verify-trl,$(PEERS:%=verify-%)): .venv-peers/ready
$(PEERS:%=verify-%): verify-%: .venv/ready
	@mkdir -p out/peers
	.venv/bin/python -m verify --impl $* --deviations verify/peers/$*.toml --json out/peers/$*.json

ports: has-node .venv/ready .venv-jax/ready ## judge the ports of the contract: to JAX, in an environment of its own, and to JavaScript
	.venv/bin/python -m verify --impl jax --impl 'cmd:node verify/ports/js/testee.mjs' --profile quick --request-seconds 60
	.venv/bin/python -m verify --impl jax --dtype float32 --profile quick --request-seconds 60

has-node:
	@command -v node > /dev/null || { echo "make ports needs Node.js, and there is no node on the PATH" >&2; exit 1; }

clean: ## remove everything that make and the tools made
	rm -rf .venv .venv-* .hypothesis .mypy_cache .pytest_cache .ruff_cache build out *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is younger than the requirements it was installed from.
.venv/ready: requirements.txt
.venv-trl/ready: verify/peers/requirements-trl.txt
.venv-peers/ready: verify/peers/requirements-peers.txt
.venv-jax/ready: verify/ports/requirements-jax.txt
.venv/ready .venv-trl/ready .venv-peers/ready .venv-jax/ready:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "minipref needs Python 3.11 to 3.13, and $(PYTHON) is $$($(PYTHON) --version 2>&1): try make PYTHON=python3.12" >&2; \
	  exit 1; }
	@echo "installing $< into $(@D): minutes, once"
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@sed -n 's/^# alone: //p' $< | xargs -r $(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python
	@touch $@
