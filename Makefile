# Two commands for a fresh machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint types layers check pytest test-long bench bench-ingest format clean

demo: $(VENV)/.installed-run
	$(BIN)/honed demo $(ARGS)

test: check pytest

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

pytest: $(VENV)/.installed-dev
	$(BIN)/pytest -m "not long and not gpu" -n 2 --dist loadfile $(ARGS)

test-long: $(VENV)/.installed-dev
	$(BIN)/pytest -m "long" --timeout 1800 --hypothesis-profile explore $(ARGS)

bench: $(VENV)/.installed-dev
	for bench in benchmarks/*.py; do echo "== $$bench"; $(BIN)/python $$bench || exit 1; done

bench-ingest: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/ingest.py --full $(ARGS)

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist demo-run .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-run: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing honed[train,serve] into $(VENV) (about a minute) ..."
	$(PIP) install --quiet --constraint constraints.txt --editable ".[train,serve]"
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing honed[dev] into $(VENV) (about a minute) ..."
	$(PIP) install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@ $(VENV)/.installed-run
