# One command a job. Each makes the virtual environment it needs in .venv, the first time or when what is needed
# has changed, and then does its work there.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help compare compare-glue test test-slow fuzz kernels bench check format figures picture docs release clean build/layout

# A python named but not working (a version manager's shim) is passed over, so each is asked for its version.
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3 python; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done)
PIP := .venv/bin/python -m pip --disable-pip-version-check
TORCH_INDEX ?=
TASKS ?= sst2,mrpc,stsb,qnli

ifneq ($(filter compare-glue,$(MAKECMDGOALS)),)
ifeq ($(and $(DATA),$(TEACHER)),)
$(error compare-glue needs your data and teacher: make compare-glue DATA=path/to/glue TEACHER=path/or/hub-name)
endif
endif

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' Makefile
	@echo 'Add TORCH_INDEX=https://download.pytorch.org/whl/cpu to download far less where there is no GPU.'

compare: .venv/.bench ## six methods on three synthetic tasks, teacher included; ARGS="..." goes to kdzoo compare
	@.venv/bin/kdzoo compare --workers 2 $(ARGS)

compare-glue: .venv/.bench ## the same on your own: DATA= TEACHER= [TASKS= METHODS= STUDENT= ROWS= EPOCHS= SEEDS= MAX_LENGTH= BATCH= OUT= ARGS=]
	@.venv/bin/kdzoo compare --data "$(DATA)" --teacher "$(TEACHER)" --tasks "$(TASKS)" \
		$(if $(METHODS),--methods "$(METHODS)") $(if $(STUDENT),--student "$(STUDENT)") \
		$(if $(ROWS),--train-rows $(ROWS)) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(SEEDS),--seeds $(SEEDS)) \
		$(if $(MAX_LENGTH),--max-length $(MAX_LENGTH)) $(if $(BATCH),--batch-size $(BATCH)) \
		$(if $(OUT),--out "$(OUT)") $(ARGS)

# No test reaches a hub.
test test-slow fuzz: export HF_HUB_OFFLINE := 1

test: .venv/.dev ## the fast tests; PYTEST_ARGS="..." goes to pytest
	@OMP_NUM_THREADS=1 .venv/bin/pytest -n logical --maxprocesses 8 --dist loadgroup $(PYTEST_ARGS)

test-slow: .venv/.dev ## the slow tests
	@.venv/bin/pytest -m "slow and not cuda" $(PYTEST_ARGS)

fuzz: .venv/.dev ## recipes, expressions, settings and records at random, for MINUTES=10
	@KDZOO_FUZZ_MINUTES=$(or $(MINUTES),10) OMP_NUM_THREADS=1 .venv/bin/pytest tests/test_fuzz.py -q $(PYTEST_ARGS)

# Without a GPU: compiled for sm_80, sm_90 and gfx942, with no spills and nothing worse than was recorded.
kernels: .venv/.dev ## every kernel in Triton's interpreter, and compiled ahead of time for three GPUs
	@OMP_NUM_THREADS=1 .venv/bin/pytest tests/kernels/test_battery.py tests/kernels/test_ahead_of_time.py -m slow -n logical -q $(PYTEST_ARGS)

bench: .venv/.dev ## the benchmarks
	@.venv/bin/pytest tests/benchmarks $(PYTEST_ARGS)

check: .venv/.dev build/layout ## ruff, its formatting, and mypy
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check --quiet . || { echo "make format rewrites these files" >&2; exit 1; }
	@cd build/layout && ../../.venv/bin/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache \
		-p kdzoo | sed -E 's#^kdzoo/(kernels|baselines|bench)/#\1/#'

format: .venv/.dev ## the code as ruff writes it
	@.venv/bin/ruff check --fix --quiet .
	@.venv/bin/ruff format --quiet .

figures: .venv/.dev ## the tables of the pages, printed anew from the committed records
	@.venv/bin/python docs/refresh.py

picture: .venv/.dev ## docs/report.png, taken of a report by Chromium
	@.venv/bin/python docs/picture.py

docs: .venv/.dev build/layout ## the documentation, into site/; its tables have to be those of the committed records
	@.venv/bin/pytest tests/test_docs.py -m slow -k committed_records -q
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet
	@echo "The documentation is in site/index.html"

# In an environment of its own: what uploads packages has no place beside what tests them.
release: .venv/bin/python ## the wheel and the source distribution, into dist/, checked as PyPI does
	@rm -rf dist build/lib
	@test -x build/release/bin/twine || { .venv/bin/python -m venv build/release && \
		build/release/bin/python -m pip --disable-pip-version-check install -qq build==1.6.1 twine==7.0.0; }
	@build/release/bin/python -m build --outdir dist . >build/release.log 2>&1 || { cat build/release.log >&2; exit 1; }
	@build/release/bin/twine check --strict dist/*

clean: ## remove what was built; .venv and runs stay
	@rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	@find kdzoo kernels baselines bench tests -name __pycache__ -prune -exec rm -rf {} +

# mypy and mkdocstrings read sources and cannot follow the package mapping of pyproject.toml, so they get the
# installed layout, as links.
build/layout:
	@rm -rf $@ && mkdir -p $@/kdzoo
	@ln -s "$(CURDIR)"/kdzoo/* "$(CURDIR)"/{kernels,baselines,bench} $@/kdzoo/

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "kdzoo needs Python 3.10 to 3.13, and none was found; name one with PYTHON=path/to/python" >&2; exit 1; }
	@$(PYTHON) -c '$(SUPPORTED)' || { echo "kdzoo needs Python 3.10 to 3.13; $(PYTHON) is $$($(PYTHON) -V)" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# The ordinary editable install sees new files at once; it is repeated when the requirements change.
.venv/.bench .venv/.dev: .venv/.%: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing kdzoo[$*] at its pinned versions into .venv: some minutes the first time, seconds later"
	@$(PIP) install -qq -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[$*]'
	@touch .venv/.bench $@
