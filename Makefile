# The README's commands. Needs CPython 3.11 or newer and, for the compiled kernels, a C++ compiler; pip's own
# configuration (PIP_INDEX_URL, pip.conf) decides where packages come from.
#
#   PYTHON   the interpreter that .venv is made with (default: the first of python3, python3.14 ... that will do)
#   PREFIX   where `make install` puts the command (default: ~/.local)
#   TESTS    what `make test` runs (default: all of tests/)
#   WHAT, MODEL, PRECISION, WHO, ROUNDS, PATIENCE   a part of `make bench` (default: everything; benchmarks/__main__.py)
#   PEERS    where `make bench` keeps the engines it builds and the models (default: ~/.cache/kelm-peers)

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

new_enough = $(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	if $(call new_enough,$$p); then echo $$p; break; fi; done)
PREFIX ?= $(HOME)/.local
TESTS ?= tests

VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# Editable: Python files are read where they lie, so only these call for another install.
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(wildcard src/kelm/csrc/*)

.PHONY: help run test install nano bench lint clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

run: $(VENV)/.kelm  ## install, start the daemon if none runs, chat with the embedded model
	@scripts/run "$(BIN)"

test: $(VENV)/.test  ## install what the suite needs and run it
	$(BIN)/python -m pytest --durations=10 $(TESTS)

install: $(VENV)/.kelm  ## put kelm on PATH
	@mkdir -p "$(PREFIX)/bin"
	@ln -sf "$(BIN)/kelm" "$(PREFIX)/bin/kelm"
	@echo "$(PREFIX)/bin/kelm -> $(BIN)/kelm"
	@case ":$$PATH:" in *":$(PREFIX)/bin:"*) ;; *) echo 'Add it to PATH:  export PATH="$(PREFIX)/bin:$$PATH"' ;; esac

nano: $(VENV)/.kelm  ## train the embedded model again from its recipe (under 45 minutes on two cores)
	$(BIN)/kelm pretrain recipes/nano/recipe.yaml --out src/kelm/data/models/nano
	$(BIN)/python recipes/nano/write_grammar.py src/kelm/data/models/nano

bench: $(VENV)/.test  ## measure Kelm beside other engines, which are built first (about half an hour), into docs/benchmarks.md
	$(BIN)/python -m benchmarks --what $(or $(WHAT),all) --model $(or $(MODEL),all) --precision $(or $(PRECISION),all) \
		$(if $(WHO),--who $(WHO)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(PATIENCE),--patience $(PATIENCE))

lint: $(VENV)/.dev  ## format check, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:  ## remove what the other targets made here (models and settings stay in ~/.kelm)
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Kelm needs CPython 3.11 or newer; set PYTHON=/path/to/python3" >&2; exit 2; }
	@$(call new_enough,$(PYTHON)) || { echo "$(PYTHON) is older than Python 3.11" >&2; exit 2; }
	$(PYTHON) -m venv "$(VENV)"

# torch first and alone: what follows then finds it there, whichever build of this version the index has.
$(VENV)/.torch: | $(VENV)/bin/python
	$(PIP) install --quiet -c constraints.txt torch </dev/null
	@touch $@

$(VENV)/.kelm: $(SOURCES) | $(VENV)/.torch
	$(PIP) install --quiet -c constraints.txt -e '.[fallback,tune,eval]' </dev/null
	@touch $@

$(VENV)/.test: $(SOURCES) | $(VENV)/.torch
	$(PIP) install --quiet -c constraints.txt -e '.[test]' </dev/null
	@touch $@ $(VENV)/.kelm

$(VENV)/.dev: $(SOURCES) | $(VENV)/.torch
	$(PIP) install --quiet -c constraints.txt -e '.[dev]' </dev/null
	@touch $@ $(VENV)/.test $(VENV)/.kelm
