# Every target stands on a bare machine with make and python3 (3.11 or newer, with its venv module).
# Another interpreter: make PYTHON=python3.12 (before the first `make venv`, or after `make clean-venv`).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SITE := build/docs
SITE_STAMP := $(SITE)/venv/.installed

.DEFAULT_GOAL := help
.PHONY: help venv demo smollm2 test test-slow mutants lint format docs docs-venv dist clean clean-venv

help:  ## list the targets
	@echo "usage: make TARGET [PYTHON=python3]"
	@sed -n 's/^\([a-z][a-z-]*\):[^#]*## \(.*\)/  \1  \2/p' $(firstword $(MAKEFILE_LIST)) | awk '{t = $$1; $$1 = ""; printf "  %-11s%s\n", t, $$0}'

# The stamp goes first and comes back last: an install cut short is done again.
$(STAMP): pyproject.toml constraints.txt
	@rm -f $@
	@$(PYTHON) -c 'import sys; sys.exit("$(PYTHON) is " + sys.version.split()[0] + ", lmntk needs 3.11 or newer: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

venv: $(STAMP)  ## create .venv with the pinned versions

demo: $(STAMP)  ## run lmntk on its bundled model and examples
	$(BIN)/lmntk demo

smollm2: $(STAMP)  ## download a real causal model of 135 M parameters into build/smollm2
	$(BIN)/python tools/smollm2.py

# Two processes of one thread each, a file to a process: tiny networks gain nothing from threads.
test: $(STAMP)  ## run the quick tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP)  ## run the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

# Not part of CI: hours of one processor from nothing. What is tried already stands in docs/results/mutants.jsonl, and is not tried again.
mutants: $(STAMP)  ## change the code in one small place at a time, and count what the tests notice
	$(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt -e ".[mutants]"
	OMP_NUM_THREADS=1 $(BIN)/python tools/mutants.py

lint: $(STAMP)  ## check style, formatting, types and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy

format: $(STAMP)  ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site has an environment of its own: what builds it is no business of the tests'.
$(SITE_STAMP): tools/site/requirements.txt
	@rm -f $@
	$(PYTHON) -m venv $(SITE)/venv
	$(SITE)/venv/bin/python -m pip --disable-pip-version-check install --quiet -r $<
	@touch $@

docs-venv: $(SITE_STAMP)

docs: $(SITE_STAMP)  ## build the site into build/docs/site: warnings are errors, links are checked
	PYTHONPATH=tools/site $(SITE)/venv/bin/zensical build --strict --clean
	$(SITE)/venv/bin/python tools/site/links.py $(SITE)/site

# The wheel is tried as a user has it: in a fresh environment, away from this folder. pip fetches torch there, which takes minutes.
dist: $(STAMP)  ## build wheel and sdist into dist/, install the wheel into a fresh environment and run its demo
	rm -rf dist build/dist
	$(BIN)/python tools/distribution.py dist
	$(PYTHON) -m venv build/dist/venv
	build/dist/venv/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt "$$(echo dist/*.whl)[report,finetune]"
	cd build/dist && venv/bin/lmntk demo --out demo

clean:  ## remove caches and packaging leftovers, keep .venv and build/
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-venv:  ## remove .venv as well
	rm -rf $(VENV)
