#!/bin/sh
# The NEON kernel against stored results of the specification, cross-compiled and emulated.
# Debian: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
build=build/neon
native=tqcli/kernels/native
mkdir -p "$build"
"$python" tests/neon/write_cases.py "$build/cases.bin" "$build/stats.bin"
# The flags of native/CMakeLists.txt.
aarch64-linux-gnu-gcc -std=c11 -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math \
    -Wall -Wextra -Werror -fno-tree-slp-vectorize -DTQ_HAVE_NEON -static -I "$native" \
    tests/neon/driver.c "$native/layout.c" "$native/cpu.c" "$native"/portable*.c \
    "$native"/neon*.c -lm -o "$build/driver"
qemu-aarch64 "$build/driver" "$build/cases.bin"
aarch64-linux-gnu-gcc -std=c11 -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math \
    -Wall -Wextra -Werror -fno-tree-slp-vectorize -static -I "$native" \
    tests/neon/stats.c "$native"/portable_stats.c "$native"/neon_stats.c -lm -o "$build/stats"
qemu-aarch64 "$build/stats" "$build/stats.bin"
# Attention on packed blocks against a plain float64 evaluation.
aarch64-linux-gnu-gcc -std=c11 -O3 -ffp-contract=off -Wall -Wextra -Werror -static -I "$native" \
    -DOPS=tq_attend_neon tests/attend/check_attend.c "$native/attend_neon.c" -lm \
    -o "$build/check_attend"
qemu-aarch64 "$build/check_attend"
