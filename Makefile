# Two commands matter: `make demo` and `make test`. Both set up what they need.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Idle OpenMP threads sleep: spinning ones slow their neighbours down.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help setup weights demo test ui-test coverage faults fuzz bench ablation lint audit hooks format ui snapshots clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 12

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
		|| { echo "Python 3.11 or 3.12 is needed; name one with: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# torch first and alone: the index that pip uses decides between its CPU and its CUDA build.
	$(BIN)/python -m pip install --quiet "torch>=2.13,<2.14"
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $@

setup: $(STAMP)  ## Make the virtual environment and install the project
	@$(BIN)/itryon doctor --brief

weights: $(STAMP)  ## Get the pretrained weights of the default backends (verified, cached per user)
	@$(BIN)/itryon weights

demo: $(STAMP)  ## Run the whole DAG on a small real clip and print where the results are
	@$(BIN)/itryon demo

# In order of their names: files with the most tests first, xdist's default, leaves minutes of kills to the end and to one core.
test: $(STAMP)  ## Run the whole test suite
	@$(BIN)/itryon weights --quiet
	@$(BIN)/itryon weights --quiet --group demo --group demo_talk
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

ui-test: $(STAMP)  ## Test the pages in headless Chromium, and a retraining by sensors and daemon (minutes)
	@$(BIN)/itryon weights --quiet
	$(BIN)/python -m pytest -m ui tests/ui

coverage: $(STAMP)  ## Run the tests and show which lines they never reach; htmlcov/index.html has them all
	@$(BIN)/itryon weights --quiet
	@$(BIN)/itryon weights --quiet --group demo --group demo_talk
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered --cov-report=html

faults: $(STAMP)  ## Kill, fill, cut, refuse and poison, and hold the pipeline to its promises; run again to go on
	@$(BIN)/itryon weights --quiet
	@$(BIN)/itryon weights --quiet --group demo --group demo_talk
	$(BIN)/python -m tests.faults

fuzz: $(STAMP)  ## Ingest 500 mutated files and hold the rows to what is promised (minutes)
	$(BIN)/python -m tests.fuzz_ingest --count 500

bench: $(STAMP)  ## Measure speed and size against baselines timed in the same run; writes benchmarks/RESULTS.md
	@$(BIN)/itryon weights --quiet
	$(BIN)/python -m benchmarks

ablation: $(STAMP)  ## Reproduce the paper's ablation in small (hours; run again to go on); writes benchmarks/ablation
	@$(BIN)/itryon weights --quiet
	$(BIN)/python -m benchmarks.ablation

lint: $(STAMP)  ## Check style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# Strict: where the database of advisories does not know a package, that is an error and not "no known vulnerabilities".
audit: $(STAMP)  ## Ask PyPI's database of advisories about every installed package
	@$(BIN)/python -m pip freeze --exclude-editable | grep -v ' @ ' > $(VENV)/installed.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip -r $(VENV)/installed.txt

hooks: $(STAMP)  ## Check style, types and import rules before every commit
	$(BIN)/pre-commit install

format: $(STAMP)  ## Apply the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: $(STAMP)  ## Open the Dagster UI on http://127.0.0.1:3000
	$(BIN)/itryon ui

snapshots: $(STAMP)  ## Accept changed asset specs, jobs, sensors and model cards
	$(BIN)/python -m pytest tests/dagster_project/test_specs.py tests/pipelines/test_publish_checkpoint.py --snapshot-update

clean:  ## Remove the virtual environment; lakes and caches stay
	rm -rf $(VENV)
