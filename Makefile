# make demo       set up, then the main job on the corpus that ships with raysel
# make test       set up, then linter, type checker and the tests that take minutes
# make test-all   the same and the slow tests
# make test-full-width  35B's whole width at two blocks: 20 GiB of memory and many minutes
# make browser    install the browser that the tests of the pages need, where it is missing and can be
# make docs       docs/reference.md anew, after settings or what is said of them have changed
# make lock       record the stages' sources after their versions were raised

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: demo test test-all test-full-width lint docs lock browser clean

demo: $(VENV)/installed
	$(BIN)/raysel run experiments/demo.yaml

test: lint
	$(PYTEST) -m "not slow"

test-all: lint
	$(PYTEST)

test-full-width: $(VENV)/installed-dev
	$(PYTEST) -m full_width

lint: $(VENV)/installed-dev
	@export PATH="$(CURDIR)/$(BIN):$$PATH"; \
	if git rev-parse --git-dir > /dev/null 2>&1; then pre-commit run --all-files; \
	else ruff check && ruff format --check && mypy; fi

docs: $(VENV)/installed
	$(BIN)/python -m raysel.settings_reference > docs/reference.md

lock: $(VENV)/installed-dev
	$(BIN)/python -m tests.stage_sources

browser:
	@command -v chromium > /dev/null || command -v chromium-browser > /dev/null || command -v google-chrome > /dev/null \
	|| { test "$$(id -u)" = 0 && command -v apt-get > /dev/null \
		&& apt-get update -qq > /dev/null 2>&1 \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium > /dev/null 2>&1; } \
	|| echo "no Chromium here: the tests of the pages in a browser are skipped"

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "raysel needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --progress-bar off wheel
	$(BIN)/pip install --quiet --progress-bar off -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --progress-bar off -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) out
