# Each command does all the set-up that it needs; `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo tensorboard test lint format bench bench-fits bench-peers clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20
	@echo 'Options are given as ARGS: make demo ARGS="--out demo-2 --epochs 3", make test ARGS="-k store"'

demo: $(VENV)/.demo  ## train an honest and a shortcut model on real images, and see what each looks at
	$(BIN)/keras-cam demo $(ARGS)

tensorboard: $(VENV)/.demo  ## show every epoch of the demo at http://localhost:6006
	$(BIN)/tensorboard --logdir demo --samples_per_plugin images=1000 $(ARGS)

# TensorFlow seldom keeps all cores busy in small tests, so as many run at once; ARGS=-n0 runs them in one process.
test: $(VENV)/.dev  ## run all tests
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal $(ARGS)

lint: $(VENV)/.dev  ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## put the code into its style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## measure what an epoch end costs, as ratios to a bare forward pass
	$(BIN)/python benchmarks/epoch_end.py $(ARGS)

bench-fits: $(VENV)/.dev  ## measure what whole fits cost: time, memory, imports and each tracker
	$(BIN)/python benchmarks/fits.py $(ARGS)

# 11 GB of environments stay in there, to be used again.
bench-peers: $(VENV)/.dev  ## compare with other libraries, each in an environment made for it
	$(BIN)/python benchmarks/peers.py --envs .peers $(ARGS)

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# A bare Debian or Ubuntu lacks what its Python needs for virtual environments, and libraries that OpenCV loads.
ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
APT  := $(ROOT) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(ROOT) apt-get install -y -qq

$(VENV)/.system:
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(APT) python3-venv; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import ctypes as c; c.CDLL("libGL.so.1"); c.CDLL("libgthread-2.0.so.0")' 2>/dev/null \
	  || ! command -v apt-get >/dev/null || { $(APT) libgl1 libglib2.0-0; }
	@touch $@

$(VENV)/.demo: $(VENV)/.system setup.cfg pyproject.toml
	$(BIN)/pip install --quiet --editable '.[demo]'
	@touch $@

# Tests open the report in a real browser.
$(VENV)/.browser: $(VENV)/.system
	command -v chromium >/dev/null || ! command -v apt-get >/dev/null || { $(APT) chromium; }
	@touch $@

$(VENV)/.dev: $(VENV)/.system $(VENV)/.browser setup.cfg pyproject.toml
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.demo
