# The commands a person types. CI calls the same ones.
#
#   make run     install into .venv and let the bundled model tell a story
#   make test    install what the tests need, then lint, types, tests
#   make web     build the chat page into src/ingle/server/static (needs node; the files are committed)
#   make wasm    build the core for browsers: build/ingle.wasm
#   make clean   remove what was built

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt $(wildcard native/src/*)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test lint types web wasm clean
.DELETE_ON_ERROR:

run: $(VENV)/ingle
	$(BIN)/ingle run "Tell me a story about a little dog." --temperature 0.5 --max-tokens 160

test: lint types
	$(BIN)/python -m pytest

lint: $(VENV)/ingle-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ingle-test
	$(BIN)/mypy

web: web/chat/node_modules
	cd web/chat && npm run --silent check && npm run --silent build

web/chat/node_modules: web/chat/package-lock.json
	cd web/chat && npm ci --no-audit --no-fund
	@touch $@

wasm: $(VENV)/ingle-test
	$(BIN)/python native/build_wasm.py build/ingle.wasm

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Ingle needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Say which to use: make run PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/ingle: $(SOURCES) | $(BIN)/python
	$(PIP) --editable .
	@touch $@

# The extra alone: asking for '.[test]' would compile the core a second time.
$(VENV)/ingle-test: $(VENV)/ingle
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["test"], sep="\n")' > $(VENV)/test.txt
	$(PIP) --requirement $(VENV)/test.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist
