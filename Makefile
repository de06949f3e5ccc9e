# Everything that a fresh machine needs: `make demo` or `make test`, nothing else typed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# A stamp is named after what it was made from, so an edited constraint installs again and nothing else does.
MADE_OF := $(shell cat constraints.txt pyproject.toml | cksum | cut -d' ' -f1)
USER    := $(VENV)/.installed-$(MADE_OF)
DEV     := $(VENV)/.installed-dev-$(MADE_OF)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

NAME    ?= loop

.PHONY: help demo test test-fast soak lint docs house bench clean
help:            ## these lines
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/'

$(USER):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "limbeck needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up $(VENV) (once; about a minute) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) torch
	@$(INSTALL) --editable '.[cli,report,sklearn]'
	@rm -f $(VENV)/.installed-* && touch $@

$(DEV): | $(USER)
	@echo "Adding what the tests need (once; about a minute more) ..."
	@$(INSTALL) --editable '.[dev]'
	@touch $@

demo: $(USER)   ## the whole story on data that is already on the machine
	@$(BIN)/limbeck demo

# One thread a worker; and compiled modules are kept even where the shell says PYTHONDONTWRITEBYTECODE, which triples the
# start of each of the hundred processes that tests start.
QUICK := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=

test: $(DEV)   ## every test, about seven minutes on two cores
	@$(QUICK) $(BIN)/python -m pytest -n 2 --dist worksteal -m 'not soak' tests

test-fast: $(DEV)   ## no jobs, commands, processes, training, exports or transformers: a minute on two cores
	@$(QUICK) $(BIN)/python -m pytest -n 2 --dist worksteal -m 'not integration and not slow and not soak' tests

soak: $(DEV)   ## the long tests
	@$(QUICK) $(BIN)/python -m pytest -m soak tests

lint: $(DEV)   ## style, types, layers
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: $(USER)   ## the documentation as a site, in site/; a broken link or docstring is an error
	@$(INSTALL) --editable '.[docs]'
	@$(BIN)/python tools/method_pages.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

house:           ## figures of the source code beside their bars
	@$(PYTHON) tools/house.py && echo && $(PYTHON) tools/house.py --packages

bench: $(USER)  ## figures of a benchmark as JSON: make bench NAME=loop, or cache, judging, coverage, images, kernels, head, lm_step, tokenizers, on_policy
	@$(BIN)/python -m benchmarks $(NAME) $(ARGS)

clean:           ## forget the installation
	@rm -rf $(VENV)
