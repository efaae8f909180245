# A value that a user gives is data. make would expand it, and a shell would interpret it: so it is taken literally here,
# reaches the commands through the environment (ARG_...), stands in double quotes there, and Python checks it.
$(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(eval _given += $(name))))
# These are often in an environment for other reasons: only what is given to make counts.
ARG_USER := $(if $(filter USER,$(_given)),$(value USER))
ARG_VERSION := $(if $(filter VERSION,$(_given)),$(value VERSION))
$(foreach name,RECIPE DATA MODEL OUT CFG NB DTYPE QUICK TOY TOP BENCH_OUT SECONDS WORKERS WAIT CONTEST SOURCE,$(eval ARG_$(name) := $$(value $(name))))
$(foreach name,$(_given),$(eval override $(name) := $$(value $(name))))
export ARG_USER ARG_RECIPE ARG_DATA ARG_MODEL ARG_OUT ARG_CFG ARG_NB ARG_DTYPE ARG_QUICK ARG_TOY ARG_TOP ARG_BENCH_OUT ARG_SECONDS ARG_WORKERS ARG_WAIT ARG_VERSION ARG_CONTEST ARG_SOURCE

PYTHON ?= python3
# IMAGE=kaggle or IMAGE=june: the same in an environment with the package versions of Kaggle's images.
IMAGE ?=
ifeq ($(origin VENV),undefined)
VENV := .venv$(if $(value IMAGE),-$(value IMAGE))
endif
# These become targets, file names and commands.
_ODD := ; & | < > ( ) { } [ ] $$ ` ' " * ? ! : % = \ ~
_is_plain = $(and $(filter 1,$(words x$(value $(1)))),$(if $(strip $(foreach c,$(_ODD),$(findstring $c,$(value $(1))))),,yes))
$(foreach name,IMAGE PYTHON VENV,$(if $(call _is_plain,$(name)),,$(error $(name) holds a character that is not allowed)))
$(if $(filter kaggle june,$(IMAGE)),,$(if $(IMAGE),$(error There is no IMAGE=$(IMAGE); use kaggle or june)))
PINS := tools/environment/$(or $(IMAGE),newest).txt
override PY := $(VENV)/bin/python
override OFFLINE := $(PY) -m tools.offline $(PY) -m
override READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help bench curves-bench doctor-bench gpu trace levers demo data gallery test test-slow test-long test-all rehearse sync check preview pull run weights push submit status pull-kaggle audit lint clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): requirements.txt tools/environment/dev.txt $(PINS)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r tools/environment/dev.txt -c $(PINS)
	touch $@

demo: $(READY) ## main job of RECIPE on generated data and a tiny DeBERTa, offline
	$(OFFLINE) tools.run demo $${ARG_RECIPE:+"--recipe=$$ARG_RECIPE"}

# Most of a test is one thread that imports torch.
TWO := -n 2 --dist worksteal
test test-slow test-long: export OMP_NUM_THREADS = 1

test: $(READY) ## all tests but the slow ones
	$(OFFLINE) pytest $(TWO) -m "not slow and not long"

test-slow: $(READY) ## the tests that run whole notebooks
	$(OFFLINE) pytest $(TWO) -m slow

test-long: $(READY) ## the same over many seeds; not part of the gate
	$(OFFLINE) pytest $(TWO) -m long

test-all: test test-slow test-long ## all tests

rehearse: $(READY) ## RECIPE as Kaggle runs it: Save & Run All, then the scoring run with 25,000 rows [IMAGE=kaggle]
	$(OFFLINE) tools.rehearse $${ARG_RECIPE:+"--recipe=$$ARG_RECIPE"}

sync: $(READY) ## build the notebooks from notebooks/*.py and src_py/
	$(PY) -m tools.sync build

check: $(READY) ## fail when a notebook or a page of the gallery is stale, or the linter, the type checker or the import rules complain
	$(PY) -m tools.sync check
	$(PY) -m tools.version
	$(PY) -m tools.gallery_check
	$(PY) -m tools.hygiene
	$(PY) -m ruff check .
	$(PY) -m ruff check --quiet --target-version py313 .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-logo
	$(PY) -m mypy

preview: $(READY) ## RECIPE as Kaggle shows it, light and dark, wide and narrow, after its demo: make preview RECIPE=... [NB=file.ipynb] [OUT=folder]
	$(OFFLINE) tools.preview $${ARG_RECIPE:+"--recipe=$$ARG_RECIPE"} $${ARG_NB:+"--notebook=$$ARG_NB"} $${ARG_OUT:+"--out=$$ARG_OUT"}

gallery: $(READY) ## pages of what each recipe shows, for GitHub: make gallery [RECIPE=...] [DATA=folder MODEL=folder CFG='...'] [OUT=folder]
	$(OFFLINE) tools.gallery $${ARG_RECIPE:+"--recipe=$$ARG_RECIPE"} $${ARG_DATA:+"--data=$$ARG_DATA"} $${ARG_MODEL:+"--model=$$ARG_MODEL"} $${ARG_CFG:+"--cfg=$$ARG_CFG"} $${ARG_OUT:+"--out=$$ARG_OUT"}

data: $(READY) ## a contest's files, with Kaggle's client or from their public data set: make data [CONTEST=slug] [SOURCE=public] [OUT=folder]
	$(PY) -m tools.data $${ARG_CONTEST:+"--contest=$$ARG_CONTEST"} $${ARG_SOURCE:+"--source=$$ARG_SOURCE"} $${ARG_OUT:+"--out=$$ARG_OUT"}

pull: $(READY) ## bring an edited notebook back: make pull NB=file.ipynb
	$(PY) -m tools.sync pull -- "$$ARG_NB"
	$(PY) -m tools.sync build

run: $(READY) ## make run RECIPE=... DATA=folder MODEL=folder OUT=folder CFG='key=value ...'
	$(OFFLINE) tools.run run $${ARG_RECIPE:+"--recipe=$$ARG_RECIPE"} "--data=$$ARG_DATA" $${ARG_MODEL:+"--model=$$ARG_MODEL"} $${ARG_OUT:+"--out=$$ARG_OUT"} "--cfg=$$ARG_CFG"

bench: $(READY) ## speed as ratios: make bench [QUICK=1] [DATA=folder] [MODEL=folder] [BENCH_OUT=folder]
	$(OFFLINE) benchmarks.bench $${ARG_QUICK:+"--quick=$$ARG_QUICK"} $${ARG_DATA:+"--data=$$ARG_DATA"} $${ARG_MODEL:+"--model=$$ARG_MODEL"} $${ARG_BENCH_OUT:+"--out=$$ARG_BENCH_OUT"}

doctor-bench: $(READY) ## the doctor on faults and healthy set-ups, with a score; resumes: make doctor-bench [QUICK=1] [WORKERS=2] [BENCH_OUT=folder]
	$(OFFLINE) benchmarks.doctor_bench $${ARG_QUICK:+"--quick=$$ARG_QUICK"} $${ARG_WORKERS:+"--workers=$$ARG_WORKERS"} $${ARG_BENCH_OUT:+"--out=$$ARG_BENCH_OUT"}

curves-bench: $(READY) ## coverage of the learning curves' intervals, measured: make curves-bench [QUICK=1] [BENCH_OUT=folder]
	$(OFFLINE) benchmarks.curves_bench $${ARG_QUICK:+"--quick=$$ARG_QUICK"} $${ARG_BENCH_OUT:+"--out=$$ARG_BENCH_OUT"}

gpu: $(READY) ## everything that only an NVIDIA card can show, in ten minutes: make gpu [TOY=1] [OUT=folder]
	$(OFFLINE) benchmarks.gpu $${ARG_TOY:+"--toy=$$ARG_TOY"} $${ARG_OUT:+"--out=$$ARG_OUT"}

trace: $(READY) ## what a GPU would have to do, counted without one: make trace [QUICK=1] [TOP=operations] [BENCH_OUT=folder]
	$(OFFLINE) benchmarks.trace $${ARG_QUICK:+"--quick=$$ARG_QUICK"} $${ARG_TOP:+"--top=$$ARG_TOP"} $${ARG_BENCH_OUT:+"--out=$$ARG_BENCH_OUT"}

levers: $(READY) ## what each lever of the recipe is worth: make levers DATA=folder MODEL=folder [CFG='...'] [WORKERS=2] [BENCH_OUT=folder]
	$(OFFLINE) benchmarks.levers "--data=$$ARG_DATA" "--model=$$ARG_MODEL" "--cfg=$$ARG_CFG" $${ARG_WORKERS:+"--workers=$$ARG_WORKERS"} $${ARG_BENCH_OUT:+"--out=$$ARG_BENCH_OUT"}

weights: $(READY) ## a folder ready to attach, without a pickle: make weights MODEL=folder OUT=folder [DTYPE=float16]
	$(OFFLINE) tools.weights $${ARG_DTYPE:+"--dtype=$$ARG_DTYPE"} -- "$$ARG_MODEL" "$$ARG_OUT"

push: $(READY) ## a recipe to Kaggle, with its client: make push RECIPE=... USER=name [SECONDS=limit]
	$(PY) -m tools.kaggle_client push $${ARG_RECIPE:+"--recipe=$$ARG_RECIPE"} "--user=$$ARG_USER" $${ARG_SECONDS:+"--seconds=$$ARG_SECONDS"}

submit: $(READY) ## push, wait, submit and show the score: make submit RECIPE=... USER=name [SECONDS=limit] [WAIT=minutes] [VERSION=n]
	$(PY) -m tools.kaggle_submit submit $${ARG_RECIPE:+"--recipe=$$ARG_RECIPE"} "--user=$$ARG_USER" $${ARG_SECONDS:+"--seconds=$$ARG_SECONDS"} $${ARG_WAIT:+"--wait=$$ARG_WAIT"} $${ARG_VERSION:+"--version=$$ARG_VERSION"}

status: $(READY) ## runs, submissions, scores and GPU hours left: make status [RECIPE=...] USER=name
	$(PY) -m tools.kaggle_submit status $${ARG_RECIPE:+"--recipe=$$ARG_RECIPE"} "--user=$$ARG_USER"

pull-kaggle: $(READY) ## a notebook that was edited on Kaggle back into the sources: make pull-kaggle RECIPE=... USER=name
	$(PY) -m tools.kaggle_client pull $${ARG_RECIPE:+"--recipe=$$ARG_RECIPE"} "--user=$$ARG_USER"
	$(PY) -m tools.sync build

audit: $(READY) ## known vulnerabilities of the installed packages (needs the internet)
	$(PY) -m pip install --quiet --disable-pip-version-check pip-audit
	$(PY) -m pip_audit --local

lint: $(READY) ## the linter and formatter, repairing what they can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean: ## remove what runs left behind; the environment stays
	chmod -R u+w build 2>/dev/null || true
	rm -rf build .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
