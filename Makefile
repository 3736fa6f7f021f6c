# Two targets do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
DEMO := build/demo
# Processes that share the tests; neighbouring tests, which share what they set up, stay together.
WORKERS ?= 2

.PHONY: demo test lint check docs clean

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,check,docs]'
	touch $@

# mypy finds the packages under their installed name through links.
build/typing: $(INSTALLED)
	mkdir -p $@/quietbeam
	ln -sfn $(CURDIR)/beamline $(CURDIR)/reconstruction $(CURDIR)/noise2inverse $(CURDIR)/compress $@/quietbeam/

demo: $(INSTALLED)
	rm -rf $(DEMO)
	$(BIN)/quietbeam simulate $(DEMO)/scan.h5
	$(BIN)/quietbeam reduce $(DEMO)/scan.h5 --output $(DEMO)/result --set training.epochs=6
	$(BIN)/quietbeam verify $(DEMO)/result
	$(BIN)/quietbeam score $(DEMO)/result $(DEMO)/scan_truth.npy
	@echo "The report lies at $(CURDIR)/$(DEMO)/result/report.html"

test: $(INSTALLED)
	$(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal

lint: $(INSTALLED) build/typing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config setup.cfg

check: lint test

docs: $(INSTALLED)
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs build/docs

clean:
	rm -rf build $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
