# make quickstart [SEED=n]   environment, install, train the embedded model on the embedded tasks, evaluate
# make test                  environment, install with development tools, all tests
# make lint                  formatting, style and types
# make docs                  the documentation in build/docs; a warning is an error
# make nano                  rebuild the embedded model's weights
PYTHON ?= $(shell command -v python3.11 || command -v python3)
SEED ?= 0
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TORCH := $(shell grep '^torch==' constraints.txt)

# An environment that forbids byte code (container images do) would compile torch and transformers anew in every
# process that a test starts: 11 seconds of CPU for what takes 5 once it is kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test lint format docs nano clean

quickstart: $(VENV)/.train
	$(BIN)/python -m triune.quickstart --seed $(SEED)

# One thread per worker: two processes that each spread over all cores only wait for each other. Neighbouring tests stay
# with one worker, which starts their servers and models once; who is done first takes over half of what is left.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -E -W --keep-going -n -q -d build/doctrees docs build/docs

nano: $(VENV)/.train
	$(BIN)/python -m triune.policy.nano.build

clean:
	rm -rf $(VENV)

# Stamps: an environment is made once, and brought up to date when the declared versions change. Without --no-compile
# pip spends a minute on byte code of modules that are never imported.
$(VENV)/.torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --no-compile $(TORCH)
	touch $@

$(VENV)/.train: $(VENV)/.torch pyproject.toml
	$(PIP) install --no-compile -c constraints.txt -e '.[train]'
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) install --no-compile -c constraints.txt -e '.[train,dev]'
	touch $@ $(VENV)/.train
