PYTHON ?= python3
# IMAGE=kaggle or IMAGE=june: the same in an environment with the package versions of Kaggle's images.
IMAGE ?=
VENV := .venv$(if $(IMAGE),-$(IMAGE))
CONSTRAINTS := constraints$(if $(IMAGE),-$(IMAGE)).txt
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
RECIPE ?= finetune_deberta
OUT ?= build/run/$(RECIPE)

.DEFAULT_GOAL := help
.PHONY: help bench demo test test-slow test-long test-all rehearse sync check pull run weights push pull-kaggle audit lint clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): requirements.txt requirements-dev.txt $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c $(CONSTRAINTS)
	touch $@

demo: $(READY) ## main job of RECIPE on generated data and a tiny DeBERTa, offline
	$(PY) -m tools.offline $(PY) -m tools.run demo $(RECIPE)

# Most of a test is one thread that imports torch.
TWO := -n 2 --dist worksteal
test: export OMP_NUM_THREADS = 1
test-slow: export OMP_NUM_THREADS = 1
test-long: export OMP_NUM_THREADS = 1

test: $(READY) ## all tests but the slow ones
	$(PY) -m tools.offline $(PY) -m pytest $(TWO) -m "not slow and not long"

test-slow: $(READY) ## the tests that run whole notebooks
	$(PY) -m tools.offline $(PY) -m pytest $(TWO) -m slow

test-long: $(READY) ## the same over many seeds; not part of the gate
	$(PY) -m tools.offline $(PY) -m pytest $(TWO) -m long

test-all: test test-slow test-long ## all tests

rehearse: $(READY) ## RECIPE as Kaggle runs it: Save & Run All, then the scoring run with 25,000 rows [IMAGE=kaggle]
	$(PY) -m tools.offline $(PY) -m tools.rehearse $(RECIPE)

sync: $(READY) ## build the notebooks from notebooks/*.py and src_py/
	$(PY) -m tools.sync build

check: $(READY) ## fail when a notebook is stale or the linter complains
	$(PY) -m tools.sync check
	$(PY) -m tools.hygiene
	$(PY) -m ruff check .
	$(PY) -m ruff check --quiet --target-version py313 .
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

# USER is also a shell's variable: only one that is said here counts.
_USER = $(if $(filter command,$(firstword $(origin USER))),$(USER),$(error Say whose account: make $@ RECIPE=... USER=name))

push: $(READY) ## a recipe to Kaggle, with its client: make push RECIPE=... USER=name [SECONDS=limit]
	$(PY) -m tools.kaggle_client push $(RECIPE) $(_USER) $(SECONDS)

pull-kaggle: $(READY) ## a notebook that was edited on Kaggle back into the sources: make pull-kaggle RECIPE=... USER=name
	$(PY) -m tools.kaggle_client pull $(RECIPE) $(_USER)
	$(PY) -m tools.sync build

audit: $(READY) ## known vulnerabilities of the installed packages (needs the internet)
	$(PY) -m pip install --quiet --disable-pip-version-check pip-audit
	$(PY) -m pip_audit --local

lint: $(READY) ## the linter and formatter, repairing what they can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean: ## remove what runs left behind; the environment stays
	chmod -R u+w build 2>/dev/null || true
	rm -rf build .pytest_cache .ruff_cache
