# make setup | demo | test | test-quick | lint | ci | clean | docs | publish        PYTHON=python3.12 make test   chooses another interpreter
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# pip by -qq shows errors alone; what it is doing is said here. No bar: most of these run in logs.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --progress-bar off -c constraints.txt
RESULT ?= result/clean.wav

.PHONY: setup demo test test-quick lint ci clean docs publish
.DEFAULT_GOAL := setup

setup: $(VENV)/.dev-installed
demo: $(VENV)/.installed
	@mkdir -p $(dir $(RESULT))
	$(BIN)/sbm enhance examples/noisy.wav -o $(RESULT) --overwrite
	@$(BIN)/python examples/compare.py examples/noisy.wav $(RESULT)

# One process for each core; who has done with its tests takes over some of the other's.
PARALLEL := -n auto --dist worksteal
test: $(VENV)/.dev-installed
	@$(BIN)/python -m pytest -q $(PARALLEL)

# What runs in this process, by and large: no commands, no documents, no trainings of every recipe.
SLOW := cli test_benchmarks.py test_docs.py test_examples.py test_memory.py test_readme.py test_recipes.py test_wheel.py
test-quick: $(VENV)/.dev-installed
	@$(BIN)/python -m pytest -q $(PARALLEL) $(SLOW:%=--ignore=tests/%)

lint: $(VENV)/.dev-installed
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

ci: lint test

docs: $(VENV)/.dev-installed
	@$(BIN)/python tools/docs.py

# The owner's token is asked of HF_TOKEN or of `hf auth login`.
publish: $(VENV)/.installed
	@test -n "$(REPO)" -a -n "$(MODEL)" || { echo "usage: make publish REPO=owner/name MODEL=name"; exit 2; }
	@$(BIN)/python tools/publish.py "$(REPO)" "$(MODEL)"

clean:
	rm -rf $(VENV) result

# torch goes first and pinned: pip then takes the CPU build where it is shown one (constraints.txt), and whatever
# needs torch later finds it installed.
$(VENV)/.torch-installed: constraints.txt
	@echo "setup: creating $(VENV) and installing torch; this takes a minute or two"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) torch
	@touch $@

$(VENV)/.installed: $(VENV)/.torch-installed pyproject.toml constraints.txt
	@echo "setup: installing sbm"
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev-installed: $(VENV)/.installed
	@echo "setup: installing what training, metrics and tests need"
	@$(PIP) -e ".[dev,train,metrics,plot]"
	@$(PIP) --no-deps resemblyzer
	@touch $@
