# One line each over `teachonce`. Real runs set the variables:
#   make extract-teacher DATA=/data/bench2drive CHECKPOINT=Orion.pth TEACHER=orion-7b OUT=orion.zarr
#   make train-student   OUT=orion.zarr RUN=runs/first PRESET=orion-lite

DATA       ?= demo/data
ifneq ($(DATA),demo/data)
  # Real data never goes into the demo's dataset.
  OUT      ?= $(error name the dataset: make $(MAKECMDGOALS) DATA=... OUT=NAME.zarr)
endif
OUT        ?= demo/latents.zarr
TEACHER    ?= orion-tiny
CHECKPOINT ?=
SPLIT      ?= all
SLOTS      ?= 4
WORKERS    ?=
RUN        ?= demo/run
PRESET     ?= demo
SCENES     ?= 1
SEED       ?= 0
PYTHON     ?= python3

BIN        := .venv/bin
TEACHONCE  := $(BIN)/teachonce

export HF_HUB_OFFLINE := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo extract-teacher verify train-student evaluate rehearse report test coverage soak check bench docs demo-teacher
.NOTPARALLEL:

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: .venv/.done  ## make .venv with the console script teachonce

.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -e '.[dev]' -c constraints.txt
	touch $@

demo: extract-teacher verify train-student evaluate rehearse report  ## the main job on synthetic clips, in minutes

# Only the embedded default makes its own data; a real DATA has to be there.
demo/data: | .venv/.done
	$(TEACHONCE) demo-data $@

extract-teacher: .venv/.done | $(filter demo/data,$(DATA))  ## run the teacher once over DATA, into OUT
	$(TEACHONCE) extract "$(OUT)" --data "$(DATA)" --teacher "$(TEACHER)" --split $(SPLIT) --slots $(SLOTS) \
	  $(if $(WORKERS),--workers $(WORKERS)) $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)")

verify: .venv/.done  ## check every byte of OUT
	$(TEACHONCE) verify "$(OUT)"

# Likewise, only the embedded default extracts first.
train-student: .venv/.done $(if $(filter demo/latents.zarr,$(OUT)),extract-teacher)  ## train a student from OUT, into RUN
	$(TEACHONCE) train "$(OUT)" --run "$(RUN)" --preset "$(PRESET)"

evaluate: .venv/.done  ## open-loop errors of RUN on OUT
	$(TEACHONCE) evaluate "$(RUN)" "$(OUT)"

TOY := --scenes $(SCENES) --seed $(SEED) --every 2 $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)")

rehearse: .venv/.done  ## let the student of RUN, and its teacher, drive in a toy world, without CARLA
	$(TEACHONCE) rehearse "$(RUN)" "$(OUT)" --out "$(RUN)/rehearsal" $(TOY)
	$(TEACHONCE) rehearse teacher "$(OUT)" --out "$(RUN)/rehearsal-of-teacher" $(TOY)

report: .venv/.done  ## curves and pictures of RUN
	$(TEACHONCE) report "$(RUN)"

test: .venv/.done  ## run the tests, in two processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal $(TESTED)

coverage: TESTED = --cov
coverage: test  ## likewise, and show what the tests cover; slower by a tenth

docs: .venv/.done  ## build the documentation into site/
	$(BIN)/mkdocs build --strict --quiet

soak: .venv/.done  ## run the tests that take minutes: hundreds of kills at random moments, and a whole benchmark
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m soak --timeout 3600

demo-teacher: .venv/.done  ## train orion-tiny again, from random weights
	$(BIN)/python -m pipeline.teachers.orion.training demo/teacher

bench: .venv/.done  ## measure; each benchmark prints ratios and writes benchmarks/results/
	for benchmark in benchmarks/*.py; do $(BIN)/python -m "benchmarks.$$(basename $$benchmark .py)" || exit; done

check: .venv/.done  ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check cache_schema pipeline student cli.py
	$(BIN)/lint-imports
