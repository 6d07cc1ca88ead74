# make demo    train a small model on generated crystals, reconstruct, score, report: runs/demo/
# make test    the whole test suite (CLUSTER=1 also builds and tests the torch-cluster extra)
# make lint    ruff and mypy
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
CLUSTER ?= 0

.PHONY: demo test lint install clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "nesf needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	@# the processor build first, where the platform offers one
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --constraint constraints.txt --editable ".[test,lint]"
	@touch $@

# torch-cluster compiles against the installed torch: some ten minutes on two cores, once
$(VENV)/.cluster: $(VENV)/.installed
	$(PIP) install --constraint constraints.txt setuptools wheel
	$(PIP) install --constraint constraints.txt --no-build-isolation torch-cluster
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/nesf demo --output runs/demo

ifeq ($(CLUSTER),1)
test: $(VENV)/.installed $(VENV)/.cluster
else
test: $(VENV)/.installed
endif
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
