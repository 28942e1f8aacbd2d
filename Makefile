# Everything starts from a fresh clone: each target sets up .venv by itself.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What to install; `make test EXTRAS=all-cpu,mujoco,dev` adds Reacher and Cube.
EXTRAS ?= all-cpu,dev
comma := ,
# More options of pytest, such as `make test PYTEST="-n 4"`.
PYTEST ?=
READY := $(VENV)/.ready-$(subst $(comma),-,$(EXTRAS))

.PHONY: demo test lint bench compare beyond zoo-table clean help

help:
	@echo "make demo    data, training, planning and a report, in ten minutes (runs/demo/report.html)"
	@echo "make test    all tests"
	@echo "make lint    ruff and mypy"
	@echo "make bench   quick run of every benchmark, results in runs/bench"
	@echo "make compare the five nano models on two environments, 3 seeds (hours; resumable): docs/results/nano.md"
	@echo "make beyond  search against what may replace it (hours; resumable): docs/results/beyond.md"
	@echo "make zoo-table  the README's table of shipped weights, from what lies beside them"
	@echo "make clean   remove the environment and caches (not data/ and runs/)"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$(EXTRAS)]" -c constraints.txt
	@touch $@

demo: $(READY)
	$(BIN)/lightning demo

test: $(READY)
	$(BIN)/python -m pytest $(PYTEST)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	@mkdir -p runs/bench
	@set -e; for script in $$(grep -l __main__ benchmarks/*.py); do \
	  echo "== $$script"; $(BIN)/python $$script --quick --json runs/bench/$$(basename $$script .py).json; done

compare: $(READY)
	$(BIN)/python benchmarks/compare.py

beyond: $(READY)
	$(BIN)/python benchmarks/beyond.py

zoo-table: $(READY)
	$(BIN)/python -m jepakit.zoo.table README.md

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
