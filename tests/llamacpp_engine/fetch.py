"""Fetch a real llama.cpp without a compiler, once, into a folder.

    python tests/llamacpp_engine/fetch.py node build/engines     # pinned; Linux on x86-64, npm
    python tests/llamacpp_engine/fetch.py debian build/engines   # newest; Debian's apt on x86-64

The first is node-llama-cpp of a fixed version, with its prebuilt library. The second is the
llama-server of Debian's development branch with all libraries that it needs, C library included,
unpacked and not installed; apt checks Debian's signatures. The last line says what is there, or why
nothing is; the exit code is 0 or 1.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
from pathlib import Path

NODE_LLAMA_CPP = "3.22.1"
NODE_PACKAGES = (
    f"node-llama-cpp@{NODE_LLAMA_CPP}",
    f"@node-llama-cpp/linux-x64@{NODE_LLAMA_CPP}",
)
DEBIAN_SUITE = "sid"
DEBIAN_PACKAGES = (
    "llama.cpp-tools", "libllama0", "libggml0", "libc6", "libgcc-s1", "libstdc++6", "libgomp1",
    "libssl3t64", "libzstd1", "zlib1g",
)  # fmt: skip
DEBIAN_MIRROR = "http://deb.debian.org/debian"
DEBIAN_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class UnavailableError(Exception):
    """An engine cannot be had here; the text says why."""


def run(*command: str, folder: Path) -> str:
    """Run a program; what it prints."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=600, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{command[0]}: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise UnavailableError(f"{' '.join(command[:2])}: {lines[-1]}")
    return done.stdout


def require(*programs: str) -> None:
    """Say at once what is missing."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise UnavailableError(f"prebuilt for Linux on x86-64, this is {platform.platform()}")
    if missing := [name for name in programs if shutil.which(name) is None]:
        raise UnavailableError(f"needs {', '.join(missing)}")


def fetch_node(folder: Path) -> None:
    """The pinned library with its bindings; no script of a package is run."""
    require("node", "npm")
    (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
    options = ("--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund")
    run("npm", "install", *options, *NODE_PACKAGES, folder=folder)


def fetch_debian(folder: Path) -> None:
    """The newest server, unpacked under ``root``."""
    require("apt-get", "dpkg-deb")
    if not DEBIAN_KEYS.is_file():
        raise UnavailableError(f"needs Debian's keys, {DEBIAN_KEYS}")
    for name in ("state/lists/partial", "cache/archives/partial", "root"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    sources = folder / "sources.list"
    sources.write_text(
        f"deb [signed-by={DEBIAN_KEYS}] {DEBIAN_MIRROR} {DEBIAN_SUITE} main\n", encoding="utf-8"
    )
    options = {
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "Dir::Etc::SourceList": sources.resolve(),
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": (folder / "state").resolve(),
        "Dir::State::status": "/dev/null",
        "Dir::Cache": (folder / "cache").resolve(),
        "APT::Architecture": "amd64",
        "Acquire::Languages": "none",
    }
    given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    run("apt-get", *given, "update", folder=folder)
    run("apt-get", *given, "download", *DEBIAN_PACKAGES, folder=folder)
    for package in sorted(folder.glob("*.deb")):
        run("dpkg-deb", "-x", str(package.resolve()), "root", folder=folder)
        package.unlink()
    for name in ("state", "cache"):
        shutil.rmtree(folder / name)


FETCH = {"node": fetch_node, "debian": fetch_debian}


def fetch(engine: str, folder: Path) -> Path:
    """Fetch an engine unless it is there; the folder that holds it, whole or not at all."""
    final = folder / (f"node-{NODE_LLAMA_CPP}" if engine == "node" else engine)
    if final.is_dir():
        return final
    partial = folder / f".{engine}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        FETCH[engine](partial)
        partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def main() -> int:
    """Fetch one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=sorted(FETCH))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    try:
        print(f"{options.engine}: {fetch(options.engine, options.folder)}")
    except UnavailableError as error:
        print(f"{options.engine}: not fetched: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
