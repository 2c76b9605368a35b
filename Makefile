# Two commands are all a newcomer needs: `make quickstart` and `make test`. Each sets up what is missing.
# PYTHON=/path/to/python3.12 names the Python that the environment is made with; otherwise the PATH is searched.
PYTHON ?=
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SRC    := src tests benchmarks scripts setup.py
NATIVE := $(shell find src -name '*.cpp' -o -name '*.h')

.PHONY: quickstart test lint format docs exhibits bench clean help
.DEFAULT_GOAL := help

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(STAMP) ## raw text to a trained, evaluated, ready-to-serve sparse model, in about five minutes
	$(BIN)/grainline quickstart $(ARGS)

test: $(STAMP) ## every test that this machine can run (ARGS="-k name" narrows it)
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP) ## style, types and the rooms' contract
	$(BIN)/ruff check $(SRC)
	$(BIN)/ruff format --check $(SRC)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache # its cache doesn't notice when a module comes or goes

format: $(STAMP) ## mend what ruff can mend
	$(BIN)/ruff check --fix $(SRC)
	$(BIN)/ruff format $(SRC)

docs: $(STAMP) ## the documentation site, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

exhibits: $(STAMP) ## every exhibit in full; results are kept in docs/exhibits/results
	$(BIN)/grainline exhibit --all --save docs/exhibits/results

bench: $(STAMP) ## the benchmarks, as ratios against the strongest peers
	for b in benchmarks/bench_*.py; do $(BIN)/python $$b || exit 1; done

clean: ## remove the environment and everything built
	rm -rf $(VENV) site build src/*.egg-info

$(STAMP): pyproject.toml setup.py constraints.txt $(NATIVE)
	@sh scripts/environment.sh $(VENV) $(PYTHON)
	@touch $@
