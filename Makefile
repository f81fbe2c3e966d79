# Two commands do everything on a fresh machine: `make demo` and `make test`.
# They need Python >= 3.11, a C compiler and make; the rest goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TQ := $(BIN)/tq
DUMP := fixtures/kv/qwen2.5-coder-1.5b.safetensors
OUT := build/demo

SOURCES := pyproject.toml $(shell find tqcli codebooks -name '*.py' -o -name '*.json' -o -name '*.[ch]' -o -name CMakeLists.txt)

.PHONY: demo test lint types docs check wheel clean

# Installed, not editable: what is tested is what users get.
$(VENV)/.installed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet '.[dev]'
	touch $@

demo: $(VENV)/.installed
	@mkdir -p $(OUT)
	$(TQ) --version
	$(TQ) fit-codebook $(DUMP) --bits 3 -o $(OUT)/qwen-3bit.json --force
	$(TQ) quantize $(DUMP) -o $(OUT)/packed.safetensors -ctk turbo3 -ctv turbo3 --force
	$(TQ) unpack $(OUT)/packed.safetensors -o $(OUT)/back.safetensors --force
	$(TQ) evaluate $(DUMP) $(OUT)/packed.safetensors
	$(TQ) compare $(DUMP)

test: $(VENV)/.installed
	TQ_REQUIRE_NATIVE=1 $(BIN)/python -P -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

# Rewrites what is generated; the tests compare.
docs: $(VENV)/.installed
	$(BIN)/python -P docs/generate.py
	$(BIN)/python -P docs/readme_table.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
