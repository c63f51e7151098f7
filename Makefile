# make demo   an environment of its own, a sweep on real digits, and its comparison
# make test   the tests (make test-slow: the slow ones)
#             on every core, at most 8, or WORKERS=2; pytest alone runs them in one process
# make lint   format, lint and types

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
WORKERS ?= logical --maxprocesses 8
PYTEST := $(BIN)/pytest --dist worksteal -n $(WORKERS)

.PHONY: demo test test-slow lint clean

demo: $(VENV)/installed
	$(BIN)/cellzoo sweep name=demo task=digits \
	  cell=lstm,peephole_lstm,cifg_lstm,gru,elman init=torch,orthogonal hidden_size=16,64 seed=0,1
	$(BIN)/cellzoo compare runs/demo
	@echo
	@echo "by cell and init:  $(BIN)/cellzoo compare runs/demo --by cell,init,hidden_size"
	@echo "against the LSTM:  $(BIN)/cellzoo compare runs/demo --baseline lstm"

test: $(VENV)/installed
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/installed
	$(PYTEST) -m slow

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
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
