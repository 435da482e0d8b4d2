# The study and its tests from an empty machine that has Python 3.11, make and git.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CORES ?= all
STUDY ?= .
# uv from the path, or one of its own.
UV := $(shell command -v uv || echo .uv/bin/uv)

export PATH := $(CURDIR)/$(BIN):$(PATH)
export OMP_NUM_THREADS := 1
export HF_HUB_OFFLINE := 1

.PHONY: study smoke report test quick bench lint format lock status settle environment clean

study: environment ## the whole study of params.yaml: results/, figures/
	snakemake --cores $(CORES)

smoke: environment ## a study of minutes, in runs/smoke
	snakemake --cores $(CORES) --directory runs/smoke --configfile presets/smoke.yaml

report: environment ## report.html, from what is there
	snakemake --report report.html

test: lint ## everything that must hold
	pytest -n 2 --dist loadfile --no-loadscope-reorder

quick: lint ## the tests that take seconds
	pytest -n 2 --dist loadfile -m "not slow"

bench: environment ## time of this code relative to alternatives, measured in one run
	python bench.py

lint: environment
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	snakemake --lint
	mypy

format: environment
	ruff check --fix .
	ruff format .
	snakefmt Snakefile rules

lock: | $(UV) ## requirements.lock anew, after a change of the dependencies in pyproject.toml; PINS=--upgrade for newer ones
	$(UV) pip compile pyproject.toml --group dev --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --no-annotate --quiet $(PINS) --output-file requirements.lock

status: environment ## the study as it runs: jobs done and to come, time left, the running jobs; STUDY=runs/smoke for another
	python -m pipeline.watch --study $(STUDY)

settle: environment ## after `dvc pull` or `dvc checkout`: take the results that are there as up to date
	snakemake --touch --forceall --cores 1

environment: $(VENV)/.requirements

$(VENV)/.requirements: requirements.lock | $(UV)
	test -x $(BIN)/python || $(UV) venv --python $(PYTHON) $(VENV)
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip sync --require-hashes requirements.lock
	cp requirements.lock $@

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet uv

clean: ## the environment and what tests leave, not the results
	rm -rf $(VENV) .uv .pytest_cache .ruff_cache .hypothesis .mypy_cache
