# `make demo` and `make test` are all that a fresh machine needs: Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test nightly lint bench evidence map folds clean
.DEFAULT_GOAL := demo

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "rbft needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)  ## the whole method on the embedded model: a table, a verdict, a report
	$(BIN)/rbft demo $(ARGS)

test: $(READY)  ## the tests, with coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder --cov --cov-report=term $(ARGS)

nightly: $(READY)  ## what no CI run has time for: many kills, broken clips and attacks; docs/reliability.md has the results
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m nightly $(ARGS)

lint: $(READY)  ## style, types, who may import whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## speed, as ratios against named alternatives in one run, into docs/performance.md
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks.speed $(ARGS)

evidence: $(READY)  ## the paper's tables on the embedded model, into docs/evidence.md; continues where it stopped
	$(BIN)/python -m benchmarks.evidence $(ARGS)

map: $(READY)  ## when rationales pay, over shift, clips and rule: docs/images/map.png and docs/evidence.md
	$(BIN)/python -m benchmarks.map $(ARGS)

folds: $(READY)  ## cross-validation on real clips (examples/fight.yaml, where they are at hand), into docs/evidence.md
	$(BIN)/python -m benchmarks.folds $(ARGS)

clean:  ## remove what make made, not what you ran
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
