# make demo   everything on the made-up market, from nothing to a served, evaluated student
# make test   all tests, slow ones included
# make unit   the fast ones
# make lint   ruff and mypy --strict
# Each sets itself up: a virtual environment in .venv with the CPU or the CUDA stack.
SHELL := /bin/bash
# Bytecode makes the difference between 10 and 30 seconds for every process that imports the stack.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/ready
BIN := $(VENV)/bin

.PHONY: demo test unit lint setup clean
setup: $(STAMP)

$(STAMP): tools/bootstrap.py requirements/cpu.txt requirements/cuda.txt pyproject.toml
	$(PYTHON) tools/bootstrap.py $(VENV)

demo: $(STAMP)
	$(BIN)/limbeck run configs/market.yaml

# Three processes with a thread each: most of a slow test waits for an engine, for Ray or for a process that it killed.
test: $(STAMP)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m "not gpu and not alone" -n 3 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m "alone and not gpu"

unit: $(STAMP)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m "not gpu and not slow and not alone" -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m "alone and not gpu and not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
