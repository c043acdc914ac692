# Every target makes its own virtual environment in $(VENV) and installs the pinned versions of constraints.txt.
# Needed: Python 3.11 or newer, pip, make. A second call installs nothing.
#
#   make demo    fetch a brain-MRI classifier and labelled scans, explain one scan of each class, draw the maps
#   make test    the whole test suite            make quick   without the tests marked slow
#   make lint    ruff                            make types   mypy --strict and the import contracts
#   make bench   measure speed                   make docs    check that every block of the documentation runs
#   make gpu-kit collect in .gpu-kit/ what `scripts/gpu_check.py` needs on a GPU machine without a network
#   make site    build the documentation into build/site
#   make dist    build the wheel and the sdist into dist/, check them, and run the wheel in an empty environment
#   make release upload what `make dist` built to the package index, as whoever owns the name there
#   make clean   remove environments, caches and built files; data/ and demo/ stay
#
# Tests run in two processes side by side; WORKERS=0 runs them one after the other, in this one.
# PYTHON=python3.12 chooses the interpreter, VENV=.venv-other the environment, PYTEST="-k store" adds to pytest's line.

VENV ?= .venv
PYTEST ?=
WORKERS ?= 2

# The first interpreter that is new enough.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

BIN := $(VENV)/bin
# The tests of a file stay in one process, which keeps what they share. Each process has one thread: most networks of tests
# are small, and threads of several processes would wait for each other.
SIDE_BY_SIDE = $(if $(filter-out 0,$(WORKERS)),OMP_NUM_THREADS=1 )$(BIN)/python -m pytest \
	-n $(WORKERS) --dist loadfile --no-loadscope-reorder
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test quick lint types bench docs site dist release gpu-kit clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed; say where: make PYTHON=/path/to/python3" >&2; exit 1; }
	@# Some systems ship Python without ensurepip; pip can then come from the interpreter that makes the environment.
	@"$(PYTHON)" -m venv $(VENV) >/dev/null 2>&1 || { "$(PYTHON)" -m venv --clear --without-pip $(VENV) \
		&& "$(PYTHON)" -m pip --python $(BIN)/python install --quiet pip; }

# One stamp a set of packages; the sets grow: what `make test` installs, `make demo` needs not install again.
$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (once) ..."
	@$(INSTALL) -e ".[onnx,ui]"
	@touch $@

$(VENV)/test.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (once) ..."
	@$(INSTALL) -e ".[onnx,test]"
	@touch $(VENV)/demo.stamp $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (once) ..."
	@$(INSTALL) -e ".[onnx,test,dev]"
	@touch $(VENV)/demo.stamp $(VENV)/test.stamp $@

demo: $(VENV)/demo.stamp
	@$(BIN)/python scripts/fetch_assets.py
	@mkdir -p demo
	$(BIN)/obeql demo/heat.duckdb --echo -f examples/brain_mri.sql
	@echo "The pictures are in demo/. Ask on: $(BIN)/obeql demo/heat.duckdb"
	@echo "Or look at the maps in the browser: $(BIN)/obeql ui demo/heat.duckdb"

test: $(VENV)/test.stamp
	$(SIDE_BY_SIDE) $(PYTEST)

quick: $(VENV)/test.stamp
	$(SIDE_BY_SIDE) -m "not slow" $(PYTEST)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp
	$(BIN)/python scripts/link_typing.py
	$(BIN)/mypy
	cd build/typing && $(abspath $(BIN))/lint-imports --config ../../pyproject.toml

bench: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.store
	$(BIN)/python -m benchmarks.multi_query
	$(BIN)/python -m benchmarks.small_sets
	$(BIN)/python -m benchmarks.page

docs: $(VENV)/test.stamp
	$(BIN)/python -m pytest tests/project/test_readme.py tests/project/test_docs.py $(PYTEST)

site: $(VENV)/test.stamp
	@$(INSTALL) -e ".[onnx,test,docs]"
	$(BIN)/python scripts/link_typing.py
	$(BIN)/python scripts/write_docs.py
	$(BIN)/python -m mkdocs build --strict

# The wheel comes from the sdist, so that both hold everything. It runs outside the tree, which would be imported instead.
EMPTY = $(VENV)-empty
dist: | $(BIN)/python
	@$(INSTALL) "build>=1.2" "setuptools>=77" "twine>=6.1"
	rm -rf dist $(EMPTY)
	$(BIN)/python -m build --no-isolation --outdir dist . >/dev/null
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m venv --without-pip $(EMPTY)
	$(BIN)/python -m pip --python $(EMPTY)/bin/python install --quiet --disable-pip-version-check --no-compile \
		-c constraints.txt dist/*.whl
	cd $(EMPTY) && bin/obeql --version && bin/obeql doctor
	rm -rf $(EMPTY)

release: dist
	$(BIN)/python -m twine upload dist/*

# The wheel of this tree, and wheels for Python 3.12 on Linux of what images with PyTorch usually lack.
gpu-kit: | $(BIN)/python
	rm -rf .gpu-kit && mkdir .gpu-kit
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w .gpu-kit .
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
		--python-version 3.12 --implementation cp --abi cp312 --abi abi3 --abi none \
		--platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux2014_x86_64 \
		--platform any -c constraints.txt -d .gpu-kit lark duckdb prompt_toolkit wcwidth
	@printf '%s\n' '#!/bin/sh' '# From the root of the tree: install the kit beside what is there, and run the check on the GPU.' 'set -e' \
		'python -m pip install --quiet --no-index --no-deps .gpu-kit/*.whl' \
		'exec python scripts/gpu_check.py --device cuda "$$@"' > .gpu-kit/run.sh
	@du -sh .gpu-kit

clean:
	rm -rf $(wildcard .venv*) .gpu-kit build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
