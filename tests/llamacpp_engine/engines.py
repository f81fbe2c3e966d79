"""Real engines behind one small interface: read tokens, save, restore, go on.

Both run on one thread and talk to nobody else: the server listens on loopback, node over pipes.
Each is ended by its own process id.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

CONTEXT = 1024
SECONDS = 120.0  # for anything that an engine is asked
WORKER = Path(__file__).parent / "node_worker.mjs"


@dataclass(frozen=True)
class Config:
    """How an engine keeps its cache."""

    type_k: str = "f16"
    type_v: str = "f16"
    flash: bool = True
    slots: int = 1
    unified: bool = False

    @property
    def name(self) -> str:
        """For test ids and file names."""
        types = self.type_k if self.type_k == self.type_v else f"{self.type_k}-{self.type_v}"
        slots = f"{self.slots}slots" + ("-unified" if self.unified else "")
        return f"{types}-{'fa' if self.flash else 'nofa'}-{slots}"


@dataclass(frozen=True)
class Answer:
    """What came of a request: tokens, and how many of the prompt were in the cache already."""

    tokens: list[int]
    reused: int


class RefusedError(Exception):
    """The engine did not take a file; the text is its log."""


class Engine(Protocol):
    """A running engine with the tokens of one prompt in each slot."""

    folder: Path

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...

    def go_on(self, tokens: list[int], count: int, slot: int = 0) -> Answer:
        """Read a prompt and go on greedily."""
        ...

    def save(self, name: str, slot: int = 0) -> Path:
        """Save a slot as a file of ``folder``."""
        ...

    def restore(self, name: str, slot: int = 0) -> None:
        """Restore a slot from a file of ``folder``."""
        ...

    def erase(self, slot: int = 0) -> None:
        """Forget a slot."""
        ...

    def close(self) -> None:
        """End the process."""
        ...


class _Process:
    """A child with a log, ended by its id."""

    folder: Path
    process: subprocess.Popen[str]

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Any:
        """The engine."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self.close()


def cpu_backend(folder: Path) -> Path:
    """The fastest of the server's CPU libraries that this machine runs."""
    flags = set()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            flags = set(line.partition(":")[2].split())
            break
    needs = {
        "sapphirerapids": {"amx_int8", "amx_bf16", "avx512_fp16"},
        "skylakex": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
        "haswell": {"avx2", "fma", "f16c", "bmi2"},
        "sse42": {"sse4_2"},
    }
    for name, needed in needs.items():
        path = folder / f"libggml-cpu-{name}.so"
        if needed <= flags and path.is_file():
            return path
    raise RefusedError(f"{folder}: no CPU library for this machine")


class Server(_Process):
    """llama-server, unpacked under `home` with all its libraries."""

    def __init__(self, home: Path, model: Path, folder: Path, config: Config, ctx: int = CONTEXT):
        root = (home / "root").resolve()
        lib = root / "usr/lib/x86_64-linux-gnu"
        self.folder, self._log = folder, folder / "server.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        command = [
            lib / "ld-linux-x86-64.so.2", "--library-path", f"{lib}:{lib / 'llama'}",
            root / "usr/bin/llama-server", "-m", model, "--host", "127.0.0.1", "--port", port,
            "-c", ctx, "-t", 1, "--poll", 0, "--no-warmup", "--no-ui", "-cram", 0,
            "--no-cache-idle-slots", "--slot-save-path", folder, "-np", config.slots,
            "--kv-unified" if config.unified else "--no-kv-unified",
            "-ctk", config.type_k, "-ctv", config.type_v, "-fa", "on" if config.flash else "off",
        ]  # fmt: skip
        backend = cpu_backend(lib / "ggml" / "backends0")
        with self._log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                env=os.environ | {"GGML_BACKEND_PATH": str(backend)},
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                self._ask("/health", None)
            except (OSError, RefusedError):
                time.sleep(0.02)
            else:
                return
        self.close()
        raise RefusedError(f"llama-server did not start: {self.log()[-1000:]}")

    def log(self) -> str:
        """Everything that it said."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def _ask(self, path: str, body: dict[str, Any] | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise RefusedError(error.read().decode(errors="replace")) from error

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text."""
        return list(self._ask("/tokenize", {"content": text})["tokens"])

    def complete(self, tokens: list[int], count: int, slot: int = 0, **more: Any) -> Any:
        """The server's whole answer to a prompt."""
        body = {"prompt": tokens, "n_predict": count, "temperature": 0, "id_slot": slot}
        return self._ask("/completion", body | {"return_tokens": True} | more)

    def go_on(self, tokens: list[int], count: int, slot: int = 0) -> Answer:
        """Read a prompt and go on greedily."""
        answer = self.complete(tokens, count, slot)
        return Answer(list(answer["tokens"])[:count], int(answer["timings"]["cache_n"]))

    def save(self, name: str, slot: int = 0) -> Path:
        """Save a slot as a file of ``folder``."""
        self._ask(f"/slots/{slot}?action=save", {"filename": name})
        return self.folder / name

    def restore(self, name: str, slot: int = 0) -> None:
        """Restore a slot; a refusal holds what the log says of it."""
        start = len(self.log())
        try:
            self._ask(f"/slots/{slot}?action=restore", {"filename": name})
        except RefusedError as error:
            time.sleep(0.05)  # the log is written by a thread of its own
            raise RefusedError(f"{error}\n{self.log()[start:]}") from error

    def erase(self, slot: int = 0) -> None:
        """Forget a slot."""
        self._ask(f"/slots/{slot}?action=erase", {})


class Node(_Process):
    """node-llama-cpp of `home`: one process for all configurations, one context at a time."""

    def __init__(self, home: Path, model: Path):
        self._errors = (home / "worker.log").open("w", encoding="utf-8")
        # modules are looked up beside the program
        worker = home / "worker.mjs"
        worker.write_text(WORKER.read_text(encoding="utf-8"), encoding="utf-8")
        self.process = subprocess.Popen(
            ["node", str(worker.resolve()), str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._ask("hello")

    def close(self) -> None:
        """End it."""
        super().close()
        self._errors.close()

    def open(self, folder: Path, config: Config) -> Node:
        """Make a context; the one before is gone."""
        self.folder = folder
        self._ask(
            "open",
            context=CONTEXT,
            flash=config.flash,
            sequences=config.slots,
            key=config.type_k.upper(),
            value=config.type_v.upper(),
        )
        return self

    def _ask(self, what: str, **more: Any) -> Any:
        if self.process.stdin is None or self.process.stdout is None:
            raise RefusedError("no pipes")
        self.process.stdin.write(json.dumps({"do": what, **more}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RefusedError("node ended")
        answer = json.loads(line)
        if "error" in answer:
            raise RefusedError(answer["error"])
        return answer

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text."""
        return list(self._ask("tokenize", text=text)["tokens"])

    def go_on(self, tokens: list[int], count: int, slot: int = 0) -> Answer:
        """Read a prompt and go on greedily."""
        answer = self._ask("go_on", tokens=tokens, count=count, slot=slot)
        return Answer(list(answer["tokens"]), int(answer["reused"]))

    def save(self, name: str, slot: int = 0) -> Path:
        """Save a sequence as a file of ``folder``."""
        path = self.folder / name
        self._ask("save", path=str(path), slot=slot)
        return path

    def restore(self, name: str, slot: int = 0) -> None:
        """Restore a sequence; a refusal holds what the library logged."""
        self._ask("restore", path=str(self.folder / name), slot=slot)

    def erase(self, slot: int = 0) -> None:
        """Forget a sequence."""
        self._ask("erase", slot=slot)
