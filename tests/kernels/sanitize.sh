#!/bin/sh
# The kernel tests with an extension that watches every access: AddressSanitizer, and undefined
# behaviour as an error. Needs cmake >= 3.26 and a C compiler that has both (PYTHON: one with the
# test dependencies).
set -eu
cd "$(dirname "$0")/../.."
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
build=$PWD/build/sanitize
cmake -S tqcli/kernels/native -B "$build/native" -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DTQ_NATIVE=ON -DTQ_SANITIZE=address,undefined -DPython_EXECUTABLE="$python"
cmake --build "$build/native" --parallel 2
rm -rf "$build/site"
mkdir -p "$build/site"
cp -r tqcli "$build/site/"
rm -rf "$build/site/tqcli/codebooks"
cp -r codebooks "$build/site/tqcli/codebooks"
rm -f "$build"/site/tqcli/kernels/_native*.so
cp "$build"/native/_native*.so "$build/site/tqcli/kernels/"
# Leaks are off: the interpreter itself keeps memory to the end.
LD_PRELOAD="$("${CC:-cc}" -print-file-name=libasan.so)" \
    ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 \
    UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
    TQ_REQUIRE_NATIVE=1 PYTHONPATH="$build/site" \
    "$python" -P -m pytest -p no:cacheprovider tests/kernels tests/attend "$@"
