# make demo       install into .venv, sweep five cells on real digits, compare them
# make test       run the tests and the examples of the docstrings
# make test-slow  run the slow tests
# make coverage   run the tests and print the lines that none of them reach
# make lint       check format, lint and types
#
# Tests run on every core, at most 8, or on WORKERS=2; plain pytest runs them in one process.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
WORKERS ?= logical --maxprocesses 8
PYTEST := $(BIN)/pytest --dist worksteal -n $(WORKERS)

.PHONY: demo test test-slow coverage lint clean

demo: $(VENV)/installed
	$(BIN)/cellzoo sweep name=demo task=digits \
	  cell=lstm,peephole_lstm,cifg_lstm,gru,elman init=torch,orthogonal hidden_size=16,64 seed=0,1
	$(BIN)/cellzoo compare runs/demo
	@echo
	@echo "by cell and init:  $(BIN)/cellzoo compare runs/demo --by cell,init,hidden_size"
	@echo "against the LSTM:  $(BIN)/cellzoo compare runs/demo --baseline lstm"

test: $(VENV)/installed
	$(PYTEST) -m "not slow"
	CELLZOO_COMPILE=0 $(BIN)/pytest --doctest-modules cellzoo

test-slow: $(VENV)/installed
	$(PYTEST) -m slow

coverage: $(VENV)/installed
	$(PYTEST) -m "not slow" --cov --cov-report=term-missing

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'cellzoo needs Python 3.11 or newer: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis
