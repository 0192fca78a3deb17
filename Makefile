# The two commands: `make demo` and `make test`. Each makes .venv the first time, from the package index alone.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/ready
RUNS   ?= runs
# run_*.sh has a variable of that name: the demo must use .venv, whichever Python made it.
unexport PYTHON
MM     := onedl-mmengine onedl-mmcv onedl-mmdetection

# Tests and demo compute on the CPU and never reach out.
export HF_HUB_OFFLINE := 1
# Two threads that wait by spinning cost each other a factor of three on a machine with other work.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help setup demo test test-slow test-all gpu gpu-wheels engines lint format clean
help:  ## this text
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 12

setup: $(READY)  ## make .venv with the tested versions (about 3 minutes, 7 GB)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	    f"Python 3.11 to 3.13 is needed, $(PYTHON) is {v[0]}.{v[1]}: type  make setup PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -c constraints.txt '.[mmdet,hf,dev]'
	$(PY) -m pip install --quiet --no-deps -c constraints.txt $(MM)
	@rm -rf build *.egg-info
	@touch $(READY)

# Everything lands in $(RUNS); a second call finds the finished runs, and goes on where the first was stopped.
# `make demo OVERWRITE=1` does all of it again.
DEMO  := $(RUNS)/demo
AGAIN := $(if $(OVERWRITE),--overwrite)
# Pictures of 64 pixels, and a minute.
BRIEF := --preset demo --crop 48 --steps 12

demo: $(READY)  ## toy data, pretraining, conversion, four tasks, table and report: the whole way in minutes
	$(if $(OVERWRITE),rm -rf $(DEMO)/records $(DEMO)/work $(DEMO)/suites $(DEMO)/features)
	$(PY) -m transfer toy $(DEMO)/toy --easy $(AGAIN)
	$(PY) -m pretrain $(DEMO)/toy/images/train $(BRIEF) --arch resnet18 --device cpu --threads 2 --out $(DEMO)/msbreg $(AGAIN)
	$(PY) -m transfer inspect $(DEMO)/msbreg/checkpoint.pth
	$(PY) -m transfer convert $(DEMO)/msbreg/checkpoint.pth --to mmdet -o $(DEMO)/msbreg_mmdet.pth
	TOY=$(DEMO)/toy bash transfer/run_suite.sh demo $(DEMO)/msbreg/checkpoint.pth random:resnet18 --labels msbreg random \
	    --device cpu --jobs 2 --runs $(DEMO)
	$(PY) -m results plot --metric AP50 --records $(DEMO)/records --out $(DEMO)/plot.png
	@echo; echo "report, plot, contact sheets:"; ls $(DEMO)/suites/demo-*/report.html $(DEMO)/plot.png $(DEMO)/work/detection.voc/*/contact_sheet.png
	@echo; echo "Does the gap mean anything?"; $(PY) -m results compare msbreg random --records $(DEMO)/records

# One process a core, one thread each: tests of small tensors gain nothing from threads that wait for each other.
# Who has nothing left takes tests from the others: some take minutes.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -q -n auto --maxprocesses 8 --dist worksteal

test: $(READY)  ## the quick tests
	$(PYTEST) -m "not slow"

test-slow: $(READY)  ## the others: whole runs, kills, a thousand damaged files
	$(PYTEST) -m slow

test-all: test test-slow  ## both

# On a machine with a GPU, which has PyTorch already and perhaps no network: what else is needed lies in .wheels.
# `make gpu DEVICE=cpu` does the same at small sizes, in .venv and without evidence.
DEVICE ?= cuda
GPU_PY ?= $(if $(filter cpu,$(DEVICE)),$(PY),$(PYTHON))
gpu: $(if $(filter cpu,$(DEVICE)),$(READY))  ## every test that a GPU can run; writes tests/gpu/evidence.md
	@$(GPU_PY) tests/gpu/wheels.py check
	@failed=0; PYTHONPATH=$(if $(filter cpu,$(DEVICE)),,$(CURDIR)/.wheels/site:)$$PYTHONPATH \
	    $(GPU_PY) -m pytest -q -m gpu --device $(DEVICE) tests/gpu || failed=$$?; \
	    $(GPU_PY) tests/gpu/report.py && exit $$failed

gpu-wheels: $(READY)  ## collect in .wheels what `make gpu` needs beside PyTorch and the scientific packages
	$(PY) tests/gpu/wheels.py collect

engines: $(READY)  ## the engines' tests; their outcome and the versions they met go to tests/engines.md
	OMP_NUM_THREADS=1 $(PY) tests/engine_summary.py

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
