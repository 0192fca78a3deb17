# The two commands: `make demo` and `make test`. Each makes .venv the first time, from the package index alone.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/ready
RUNS   ?= runs
MM     := onedl-mmengine onedl-mmcv onedl-mmdetection

# Tests and demo compute on the CPU and never reach out.
export HF_HUB_OFFLINE := 1

.PHONY: help setup demo test test-all lint format clean
help:  ## this text
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 12

setup: $(READY)  ## make .venv with the tested versions (about 3 minutes, 7 GB)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 12) else \
	    f"Python 3.10, 3.11 or 3.12 is needed, $(PYTHON) is {v[0]}.{v[1]}: type  make setup PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -c constraints.txt '.[mmdet,dev]'
	$(PY) -m pip install --quiet --no-deps -c constraints.txt $(MM)
	@rm -rf build *.egg-info
	@touch $(READY)

demo: $(READY)  ## toy data, pretraining, conversion, detection, table: the whole way in minutes
	@bash tests/demo.sh "$(RUNS)" $(DEMO)

test: $(READY)  ## the quick tests (under 8 minutes on two cores)
	$(PY) -m pytest -q -m "not slow"

test-all: $(READY)  ## quick and slow tests (under 40 minutes)
	$(PY) -m pytest -q

lint: $(READY)  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(READY)  ## let ruff rewrite
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:  ## remove caches (runs/ and .venv stay)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
