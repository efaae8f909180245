PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
RECIPE ?= finetune_deberta
OUT ?= build/run/$(RECIPE)

.DEFAULT_GOAL := help
.PHONY: help bench demo test test-slow test-long test-all sync check pull run weights lint format clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): requirements.txt requirements-dev.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	touch $@

demo: $(READY) ## main job of RECIPE on generated data and a tiny DeBERTa, offline
	$(PY) -m tools.offline $(PY) -m tools.run demo $(RECIPE)

test: $(READY) ## all tests but the slow ones
	$(PY) -m tools.offline $(PY) -m pytest -m "not slow and not long"

test-slow: $(READY) ## the tests that run whole notebooks
	$(PY) -m tools.offline $(PY) -m pytest -m slow

test-long: $(READY) ## the same over many seeds; not part of the gate
	$(PY) -m tools.offline $(PY) -m pytest -m long

test-all: test test-slow test-long ## all tests

sync: $(READY) ## build the notebooks from notebooks/*.py and src_py/
	$(PY) -m tools.sync build

check: $(READY) ## fail when a notebook is stale or the linter complains
	$(PY) -m tools.sync check
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

pull: $(READY) ## bring an edited notebook back: make pull NB=file.ipynb
	$(PY) -m tools.sync pull "$(NB)"
	$(PY) -m tools.sync build

run: $(READY) ## make run RECIPE=... DATA=folder MODEL=folder OUT=folder CFG='key=value ...'
	$(PY) -m tools.offline $(PY) -m tools.run run $(RECIPE) --data "$(DATA)" $(if $(MODEL),--model "$(MODEL)") --out "$(OUT)" --cfg "$(CFG)"

bench: $(READY) ## speed as ratios: make bench [QUICK=1] [DATA=folder] [MODEL=folder]
	$(PY) -m tools.offline $(PY) -m benchmarks.bench $(if $(QUICK),--quick) $(if $(DATA),--data "$(DATA)") $(if $(MODEL),--model "$(MODEL)") $(if $(BENCH_OUT),--out "$(BENCH_OUT)")

weights: $(READY) ## a folder ready to attach, without a pickle: make weights MODEL=folder OUT=folder [DTYPE=float16]
	$(PY) -m tools.offline $(PY) -m tools.weights "$(MODEL)" "$(OUT)" $(if $(DTYPE),--dtype $(DTYPE))

lint: $(READY) ## the linter and formatter, repairing what they can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean: ## remove what runs left behind; the environment stays
	rm -rf build .pytest_cache .ruff_cache
