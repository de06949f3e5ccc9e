# Everything that a fresh machine needs: `make demo` or `make test`, nothing else typed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The stamp is named after what it was made from, so an edited constraint installs again and nothing else does.
STAMP  := $(VENV)/.installed-$(shell cat constraints.txt pyproject.toml | cksum | cut -d' ' -f1)

.PHONY: help demo test soak lint bench clean
help:            ## these lines
	@grep -hE '^[a-z]+: .*##|^[a-z]+: +##' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/'

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "limbeck needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up $(VENV) (once; about a minute) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@rm -f $(VENV)/.installed-* && touch $@

demo: $(STAMP)   ## the whole story on data that is already on the machine
	@$(BIN)/limbeck demo

test: $(STAMP)   ## every test, under ten minutes on two cores
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'not soak' tests

soak: $(STAMP)   ## the long tests
	@$(BIN)/python -m pytest -m soak tests

lint: $(STAMP)   ## style, types, layers
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(STAMP)  ## the engine beside a hand-written loop
	@$(BIN)/limbeck bench loop

clean:           ## forget the installation
	@rm -rf $(VENV)
