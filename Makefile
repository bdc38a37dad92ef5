# Each command does all the set-up that it needs; `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OTHERS := $(VENV)-jax-torch
# What tests need: the extras of the package that they use, and the group of pyproject.toml, which pip reads from 25.1 on.
DEV    := --editable '.[demo,mlflow,nifti,trackio]' --group dev
# What pip installs as PyTorch: of this version an index may have a build for CPUs alone, which is far smaller.
TORCH  ?= torch==2.13.0
# The package brings TensorFlow; KERAS_BACKEND=jax make demo brings JAX too.
EXTRA  := $(filter jax torch,$(KERAS_BACKEND))

.DEFAULT_GOAL := help
.PHONY: help demo pictures tab-picture tensorboard test test-torch test-jax zoo docs docs-links notebooks test-lowest test-matrix lint format dist dist-test bench bench-backends bench-fits bench-peers clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20
	@echo 'Options are given as ARGS: make demo ARGS="--out demo-2 --epochs 3", make test ARGS="-k store"'

demo: $(VENV)/.demo$(EXTRA:%=-%)  ## train an honest and a shortcut model on real images, and see what each looks at
# Caches are written, whatever the environment says: see below why there are none yet.
	PYTHONDONTWRITEBYTECODE= $(BIN)/keras-cam demo $(ARGS)

DEMO ?= demo
pictures: $(VENV)/.demo $(VENV)/.browser  ## remake README's two pictures of the demo from its folder, DEMO=demo
	cp $(DEMO)/honest_and_shortcut.jpg docs/
	chromium --headless --no-sandbox --hide-scrollbars --window-size=1400,1240 --virtual-time-budget=5000 \
	  --screenshot=$(abspath $(DEMO))/report.png file://$(abspath $(DEMO))/report.html
	$(BIN)/python -c 'import sys; from PIL import Image; Image.open(sys.argv[1]).convert("RGB").save(sys.argv[2], quality=80)' \
	  $(DEMO)/report.png docs/report.jpg

# The page asks for pictures when it is there: chromium's time is virtual, and stands still meanwhile.
PAGE := http://127.0.0.1:6016
tab-picture: $(VENV)/.demo $(VENV)/.browser  ## remake the picture of TensorBoard's tab from the demo's folder, DEMO=demo
	$(BIN)/tensorboard --logdir_spec honest:$(DEMO)/honest,shortcut:$(DEMO)/shortcut --host 127.0.0.1 --port 6016 & \
	trap "kill $$!" EXIT; for i in $$(seq 120); do \
	  curl -sf -o $(DEMO)/tab.html $(PAGE)/data/plugin/keras_cam_callbacks/page && break; sleep 1; done; \
	chromium --headless --no-sandbox --hide-scrollbars --window-size=1400,1080 --virtual-time-budget=40000 \
	  --screenshot=$(abspath $(DEMO))/tab.png '$(PAGE)/#keras_cam_callbacks'
	$(BIN)/python -c 'import sys; from PIL import Image; Image.open(sys.argv[1]).convert("RGB").resize((1200, 926)).save(sys.argv[2], quality=70)' \
	  $(DEMO)/tab.png docs/tensorboard_tab.jpg

tensorboard: $(VENV)/.demo  ## show every epoch of the demo at http://localhost:6006
	$(BIN)/tensorboard --logdir demo --samples_per_plugin images=1000 $(ARGS)

# TensorFlow seldom keeps all cores busy in small tests, so as many run at once; ARGS=-n0 runs them in one process.
PYTEST := -m pytest -n logical --maxprocesses 4 --dist worksteal

test: $(VENV)/.dev  ## run all tests
	$(BIN)/python $(PYTEST) $(ARGS)

test-jax: $(OTHERS)/.made  ## run all tests that aren't TensorFlow's own on JAX, without TensorFlow
	KERAS_BACKEND=jax $(OTHERS)/bin/python $(PYTEST) $(ARGS)

# One thread each: PyTorch would have all of them wait for each other.
test-torch: $(OTHERS)/.made  ## run all tests that aren't TensorFlow's own on PyTorch, without TensorFlow
	KERAS_BACKEND=torch OMP_NUM_THREADS=1 $(OTHERS)/bin/python $(PYTEST) $(ARGS)

# Warnings are errors. The gallery is made again where its code has changed; `make clean` has all of it made again.
docs: $(VENV)/.docs  ## build the site into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html $(ARGS)

docs-links: $(VENV)/.docs  ## try the links of the site, which needs the network
	$(BIN)/python -m sphinx -W --keep-going -b linkcheck docs docs/_build/links $(ARGS)

notebooks: $(VENV)/.dev $(EXTRA:%=$(VENV)/.demo-%)  ## run the notebooks and store what they put out, in a quarter of an hour
	$(BIN)/python notebooks/execute.py $(ARGS)

zoo: $(VENV)/.dev  ## try every kind of model of docs/kinds.md, which takes a quarter of an hour or more
	$(BIN)/python $(PYTEST) tests/zoo -m "zoo or not zoo" $(ARGS)

# Each run makes its environment anew. $(call test_in,Python,name of the environment,options of the installation)
# says and passes over a Python that is neither there nor to be fetched.
define test_in
	@if $(UV) python find $(1) >/dev/null 2>&1 || $(UV) python install $(1); then \
	  set -ex; $(UV) venv --quiet --clear --seed --python $(1) $(VENV)-$(2); \
	  $(UV) pip install --quiet --python $(VENV)-$(2) $(3) $(DEV); \
	  $(VENV)-$(2)/bin/python $(PYTEST) $(ARGS); \
	else echo 'Python $(1) is not to be had: passed over.'; fi
endef

test-lowest: $(VENV)/.uv $(VENV)/.browser  ## run all tests with the lowest versions that setup.cfg allows
	$(call test_in,$(OLDEST),lowest,--resolution lowest-direct)

test-3.%: $(VENV)/.uv $(VENV)/.browser
	$(call test_in,3.$*,3.$*)

test-matrix: test-lowest test-3.10 test-3.11 test-3.12 test-3.13  ## the same, and with the newest on each Python from 3.10 to 3.13

lint: $(VENV)/.dev  ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## put the code into its style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dist: $(VENV)/.release  ## build the wheel and the source distribution into dist/, and check them
	rm -rf build dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/pyroma --min=10 .

# $(call try_wheel,Python): in an environment that holds nothing else, and in a folder where the checkout is out of sight.
define try_wheel
	@if $(UV) python find $(1) >/dev/null 2>&1 || $(UV) python install $(1); then \
	  set -ex; $(UV) venv --quiet --clear --python $(1) $(VENV)-wheel; \
	  $(UV) pip install --quiet --python $(VENV)-wheel dist/*.whl; \
	  $(VENV)-wheel/bin/python -I tests/installed.py; \
	else echo 'Python $(1) is not to be had: passed over.'; fi

endef

dist-test: dist $(VENV)/.uv  ## install the wheel into an empty environment of Python 3.11, 3.12 and 3.13, and explain a model there
	$(foreach version,3.11 3.12 3.13,$(call try_wheel,$(version)))

bench: $(VENV)/.dev  ## measure what an epoch end costs, as ratios to a bare forward pass
	$(BIN)/python benchmarks/epoch_end.py $(ARGS)

bench-backends: $(VENV)/.dev  ## measure an epoch end on JAX and PyTorch; ARGS="--python torch=FILE" names an interpreter
	$(BIN)/python benchmarks/backends.py $(ARGS)

bench-fits: $(VENV)/.dev  ## measure what whole fits cost: time, memory, imports and each tracker
	$(BIN)/python benchmarks/fits.py $(ARGS)

# 11 GB of environments stay in there, to be used again.
bench-peers: $(VENV)/.dev  ## compare with other libraries, each in an environment made for it
	$(BIN)/python benchmarks/peers.py --envs .peers $(ARGS)

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) $(VENV)-* .peers build dist docs/_build docs/made *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# A bare Debian or Ubuntu lacks what its Python needs for virtual environments, and libraries that OpenCV loads.
ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
APT  := $(ROOT) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(ROOT) apt-get install -y -qq

$(VENV)/.system:
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(APT) python3-venv; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet 'pip>=25.1'
	$(BIN)/python -c 'import ctypes as c; c.CDLL("libGL.so.1"); c.CDLL("libgthread-2.0.so.0")' 2>/dev/null \
	  || ! command -v apt-get >/dev/null || { $(APT) libgl1 libglib2.0-0; }
	@touch $@

# uv finds interpreters, and can install the lowest versions; pyenv shows it all of its own that are named here.
UV      = PYENV_VERSION=$(shell pyenv versions --bare 2>/dev/null | grep ^3 | paste -sd: -) $(BIN)/uv
# The first that is there; TensorFlow 2.18 does not run on later ones.
OLDEST  = $(or $(firstword $(foreach v,3.10 3.11 3.12,$(shell $(UV) python find $(v) >/dev/null 2>&1 && echo $(v)))),3.12)

$(VENV)/.uv: $(VENV)/.system
	$(BIN)/pip install --quiet 'uv>=0.8'
	@touch $@

$(VENV)/.release: $(VENV)/.system pyproject.toml
	$(BIN)/pip install --quiet --group release
	@touch $@

# Two thirds of the files are not imported: Python compiles the others when they are, which halves the time.
$(VENV)/.demo $(EXTRA:%=$(VENV)/.demo-%): $(VENV)/.system setup.cfg pyproject.toml
	@echo 'Installing Keras, TensorFlow$(EXTRA:%=, %) and what else the demo needs into $(VENV) ...'
	$(BIN)/pip install --quiet --no-compile $(if $(filter torch,$(EXTRA)),$(TORCH)) --editable '.[demo$(EXTRA:%=,%)]'
	@touch $@

# Tests open the report in a real browser.
$(VENV)/.browser: $(VENV)/.system
	command -v chromium >/dev/null || ! command -v apt-get >/dev/null || { $(APT) chromium; }
	@touch $@

$(VENV)/.dev: $(VENV)/.system $(VENV)/.browser setup.cfg pyproject.toml
	$(BIN)/pip install --quiet $(DEV)
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: $(VENV)/.system setup.cfg pyproject.toml
	$(BIN)/pip install --quiet --editable '.[demo]' --group docs
	@touch $@

# While all three frameworks are there, it is seen that none is imported that Keras doesn't run on, and that pipelines of
# tf.data work on all. Then TensorFlow is taken out, which nothing may need.
$(OTHERS)/.made: $(VENV)/.system $(VENV)/.browser setup.cfg pyproject.toml
	$(PYTHON) -m venv $(OTHERS)
	$(OTHERS)/bin/pip install --quiet 'pip>=25.1'
	$(OTHERS)/bin/pip install --quiet $(TORCH) $(DEV) --editable '.[jax,torch]'
	for backend in jax torch; do \
	  KERAS_BACKEND=$$backend $(OTHERS)/bin/python $(PYTEST) tests/test_frameworks.py tests/data/test_sources.py tests/data/test_batches.py || exit 1; \
	done
	$(OTHERS)/bin/pip uninstall --quiet --yes tensorflow tensorflow-text
	@touch $@
