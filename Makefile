# Every verb sets up what it needs: on a fresh clone `make demo` or `make test` is the first command.

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?=
WORKERS ?= 2
RUN ?=
MINUTES ?= 30

PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# One thread for each worker: two processes that both want all cores wait for each other.
PYTEST := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(PY) -m pytest -q
PARALLEL := -n $(WORKERS) --dist loadfile
LOCK := requirements.lock
TORCH := $(shell grep '^torch==' $(LOCK))

# The app asks for a token, answers to this machine's names only, and ends a page's kernel (0.6 GB) five
# minutes after the page is left.
APP := --Voila.auto_token=True "--Voila.tornado_settings={'allow_remote_access': False}" \
  --MappingKernelManager.cull_idle_timeout=300 --MappingKernelManager.cull_interval=60

.DEFAULT_GOAL := help
.PHONY: help setup demo check quick test hard browser lab app lint format refresh pretrain doctor engines

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12    the Python that makes the environment (3.11 or newer)"
	@echo "  VENV=DIR             where the environment is (default .venv; one that is there is used)"
	@echo "  PIP_ARGS='...'       further arguments for pip, such as --index-url for a build of torch"
	@echo "  PYTEST_ARGS='...'    further arguments for pytest"
	@echo "  WORKERS=N            processes of make quick and make test (default 2; 0: none beside pytest)"
	@echo "  RUN=DIR              an evaluated run, for make app"
	@echo "  MINUTES=N            how long make hard takes (default 30)"

setup: $(READY) ## make the environment, with the versions of requirements.lock

# pip goes first in the test below: an environment without pip is the rest of a failed start.
# torch goes first in the install: so it is the build that PIP_ARGS asks for, whatever needs it later.
$(READY): pyproject.toml $(LOCK)
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@$(PY) -c "import sys; sys.exit(None if sys.version_info >= (3, 11) else 'deepeyes-lite needs \
	Python 3.11 or newer, and $(VENV) has ' + sys.version.split()[0] + ': remove $(VENV), then \
	make setup PYTHON=python3.11')"
	$(PY) -m pip install $(PIP_ARGS) "$(TORCH)"
	$(PY) -m pip install $(PIP_ARGS) -c $(LOCK) -e ".[dev]"
	@touch $@

demo: setup ## train tiny-eyes to zoom, evaluate before and after, write a report
	$(PY) -m deepeyes_lite demo

check: lint ## while you work: ruff, the tests of the method, what notebooks keep to (1 minute)
	$(PYTEST) $(PARALLEL) tests/core tests/course/test_notebooks.py -m "not train and not slow" \
	  $(PYTEST_ARGS)

quick: setup ## before a commit: all tests but those that train, no notebooks (3 minutes)
	$(PYTEST) $(PARALLEL) --doctest-modules deepeyes_lite tests -m "not train and not slow" \
	  --durations=9 --durations-min=2 $(PYTEST_ARGS)

# One command, so that its last line counts everything: unit tests, doctests, cells of notebooks.
test: setup ## everything: unit tests, doctests and all notebooks (12 minutes)
	$(PYTEST) $(PARALLEL) --doctest-modules deepeyes_lite tests --nbval-lax --nbval-current-env notebooks \
	  $(PYTEST_ARGS)

hard: setup ## kills, pairs of processes and hostile calls, for MINUTES (not in CI)
	PYTHONPATH=. HF_HUB_OFFLINE=1 $(PY) tests/hard.py $(MINUTES)

browser: setup ## drive the widgets in headless Chromium (some minutes)
	BROWSER=1 $(PY) -m pytest -q tests/viz/test_browser.py

engines: setup ## run beside vLLM, verl and ms-swift, each in its own environment (9 GB; ENGINE=verl: one)
	$(PY) tests/engines/run.py $(ENGINE)

lab: setup ## open JupyterLab
	$(PY) -m jupyter lab --notebook-dir=notebooks

app: setup ## serve the trajectory viewer and zoom-by-hand as a web page
	RUN="$(RUN)" $(PY) -m voila $(APP) notebooks/app/look.ipynb

lint: setup ## ruff on .py and .ipynb
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: setup ## let ruff rewrite .py and .ipynb, and count the lines for README anew
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(PY) tests/house.py --write

refresh: setup ## run all notebooks and keep their outputs
	$(PY) -m jupyter nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.timeout=-1 notebooks/*.ipynb notebooks/app/*.ipynb
	$(PY) -m nbstripout --keep-output --keep-count notebooks/*.ipynb notebooks/app/*.ipynb

pretrain: setup ## make tiny-eyes from scratch in my-eyes/ (hours on two cores)
	$(PY) -m deepeyes_lite pretrain --out my-eyes

doctor: setup ## check the machine and the environment
	$(PY) -m deepeyes_lite doctor
