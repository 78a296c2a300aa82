# Two commands do everything on a bare Python 3.11+: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --no-input
OUTPUT ?= runs/digits
EXAMPLES ?= 10000
COUNT ?= 3
SEED ?= 0
FUZZ ?= 1
CORE ?= cascadelake
GALLERY ?= 1

.PHONY: demo dist docs docs-links test fuzz test-search mutants test-arm test-x86 lint types clean help

help:
	@echo "make demo    install into $(VENV), train, export, verify and benchmark the digits example"
	@echo "make test    install and run all tests"
	@echo "make fuzz    damaged files and messages for everything that reads any, about a minute; FUZZ=60 for an hour"
	@echo "make test-search  property tests on EXAMPLES=10000 new examples each, for hours; TESTS=tests/tern_lightning for some of them"
	@echo "make mutants  which of COUNT=3 random changes (SEED=0) of every file the tests notice, for hours; FILES=... for some"
	@echo "make test-arm  only the tests on an emulated ARM board (needs qemu-user)"
	@echo "make test-x86  only the tests of AVX-512 code, on an emulated CPU (needs bochs); CORE=skylake-avx512, cascadelake or znver5"
	@echo "make docs    the documentation site, in docs/_build/html; GALLERY=0 runs no tutorial"
	@echo "make docs-links  whether links to other sites lead somewhere"
	@echo "make dist    wheel and source distribution in dist/, checked, and the wheel tried alone"
	@echo "make lint    ruff, spelling, pages and figures made of measurements"
	@echo "make types   mypy"
	@echo "make clean   remove $(VENV), runs and caches"

# Stamp files say what is installed; a change of pyproject.toml installs anew.
$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is `$(PYTHON) -V 2>&1`; Python 3.11 or newer is needed (make PYTHON=...)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.torch: $(VENV)/.venv
	@$(RUN) -c 'import torch' 2>/dev/null || { echo "installing torch"; $(PIP) install --quiet torch==2.13.0; }
	touch $@

$(VENV)/.examples: pyproject.toml $(VENV)/.torch
	$(PIP) install --quiet --editable '.[examples]'
	touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(PIP) install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.examples

$(VENV)/.docs: pyproject.toml $(VENV)/.torch
	$(PIP) install --quiet --editable '.[docs]'
	touch $@

demo: $(VENV)/.examples
	$(RUN) -m examples.digits --output $(OUTPUT)

mutants: $(VENV)/.dev
	$(RUN) -m tests.mutants --count $(COUNT) --seed $(SEED) $(FILES)

test-arm: $(VENV)/.dev
	$(RUN) tests/arm/board.py
	$(RUN) -m pytest -v -rs -m arm tests/arm --durations=0

# Networks on two cores, then the property tests of all kernels on one.
test-x86: $(VENV)/.dev
	$(RUN) -m pytest -v -rs -m x86 tests/x86 --durations=0
	TERN_X86=$(CORE) $(RUN) -m pytest -v -n 2 -p tests.x86.plugin tests/tvm_schedules/backends/cpu/kernels --durations=20

test: $(VENV)/.dev
	$(RUN) -m pytest -q -n 2 --dist worksteal

fuzz: $(VENV)/.dev
	$(RUN) -m tests.fuzz --times $(FUZZ)

test-search: $(VENV)/.dev
	HYPOTHESIS_PROFILE=search EXAMPLES=$(EXAMPLES) $(RUN) -m pytest -v -n 2 -m hypothesis --durations=20 $(TESTS)

# Any warning is an error: a link to nowhere, a docstring that is not understood, a tutorial that fails. Then links of the built pages are followed.
docs: $(VENV)/.docs
	$(RUN) -m sphinx -W --keep-going -n -q -D plot_gallery=$(GALLERY) -b html docs docs/_build/html
	$(RUN) docs/sitetools/site_check.py docs/_build/html
	@echo "open docs/_build/html/index.html"

docs-links: $(VENV)/.docs
	$(RUN) -m sphinx -q -b linkcheck docs docs/_build/linkcheck

# The wheel has to be of use where nothing is installed but numpy, as on a board.
dist: $(VENV)/.dev
	rm -rf dist build
	$(PIP) install --quiet build twine
	$(RUN) -m build --outdir dist . >/dev/null
	$(RUN) -m twine check --strict dist/*
	$(PYTHON) -m venv dist/alone
	dist/alone/bin/python -m pip --disable-pip-version-check install --quiet dist/*.whl
	cd dist && for name in export bench board inspect report estimate; do alone/bin/tern-$$name --version || exit 1; done
	rm -rf dist/alone

lint: $(VENV)/.dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m codespell_lib -D- -D.ci/spelling.txt
	$(RUN) -m benchmarks.pages --check
	$(RUN) docs/sitetools/fill.py --check

types: $(VENV)/.dev
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) runs build dist docs/_build docs/generated docs/tutorials .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
