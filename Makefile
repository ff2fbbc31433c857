BIN ?= .venv/bin
PYTHON ?= python3
export PATH := $(abspath $(BIN)):$(PATH)
STAMP := $(BIN)/.selfcell-setup

.PHONY: setup demo test check fix docs help
help:  ## Show the targets.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/  -/'
setup: $(STAMP)  ## Make .venv with everything a user and a developer need.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(dir $(BIN))
	@echo 'Setting up $(dir $(BIN)) (a few minutes the first time)'
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[census,dask,hub,integration,mudata,onnx,remote,scib,scvi]' --group dev
	@touch $@
	@echo 'Ready. To use it: source $(BIN)/activate'
demo: setup  ## Pre-train, compare and report on real cells; 4 to 10 minutes on two cores.
	selfcell demo --out demo --overwrite
test: setup  ## All tests that need no network.
	python -m pytest -n 2 -m "not network"
check: setup  ## All that is not a test.
	ruff format --check .
	ruff check .
	mypy
	lint-imports
fix: setup  ## Format, and mend what can be mended.
	ruff check --fix .
	ruff format .
docs: setup  ## Build the docs; a warning fails it.
	sphinx-build -W --keep-going -q docs docs/_build
	@echo "The docs are docs/_build/index.html"
