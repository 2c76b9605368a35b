# Two commands are all a newcomer needs: `make quickstart` and `make test`. Each sets up what is missing.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input
SRC    := src tests benchmarks

.PHONY: quickstart test lint format docs exhibits bench clean help
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: $(STAMP) ## raw text to a trained, evaluated, ready-to-serve sparse model, in about five minutes
	$(BIN)/grainline quickstart $(ARGS)

test: $(STAMP) ## every test that this machine can run (ARGS="-k name" narrows it)
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP) ## style, types and the rooms' contract
	$(BIN)/ruff check $(SRC)
	$(BIN)/ruff format --check $(SRC)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## mend what ruff can mend
	$(BIN)/ruff check --fix $(SRC)
	$(BIN)/ruff format $(SRC)

docs: $(STAMP) $(VENV)/.docs ## the documentation site, into site/
	$(BIN)/mkdocs build --strict

exhibits: $(STAMP) ## every exhibit in full; results are kept in docs/exhibits/results
	$(BIN)/grainline exhibit --all --save docs/exhibits/results

bench: $(STAMP) ## the benchmarks, as ratios against the strongest peers
	for b in benchmarks/bench_*.py; do $(BIN)/python $$b || exit 1; done

clean: ## remove the environment and everything built
	rm -rf $(VENV) site build src/*.egg-info

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "grainline needs Python 3.11, 3.12 or 3.13, and found none on the PATH."; \
	  echo "Install one (https://www.python.org/downloads), or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  "grainline needs Python 3.11, 3.12 or 3.13, not %d.%d. Name another: make PYTHON=/path/to/python3.12" % v)'
	@free=$$(df -Pk . | awk 'NR==2 {print int($$4 / 1048576)}'); test "$$free" -ge 4 || \
	  { echo "The installation needs 4 GiB of free disk here; there are $$free GiB. Free some and run this again."; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(STAMP)
	$(PIP) install -q -c constraints.txt -e '.[docs]'
	@touch $@
