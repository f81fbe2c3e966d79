"""Arrays on disk: every axis order and preset gives the tensors that were saved."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tqcli.errors import InputError, UsageError
from tqcli.sources.arrays.axes import Axes
from tqcli.sources.arrays.names import Pattern
from tqcli.sources.arrays.source import ArraysSource, Choice
from tqcli.sources.base import Source

LAYERS, BATCH, HEADS, SEQ, DIM = 3, 2, 4, 7, 8


def cache(dtype: object = np.float32, batch: int = BATCH) -> dict[str, np.ndarray]:
    """K and V of all layers, named and shaped as a dump names and shapes them."""
    rng = np.random.default_rng(733)
    shape = (batch, HEADS, SEQ, DIM)
    return {
        f"layers.{i}.{side}": rng.standard_normal(shape).astype(dtype)
        for i in range(LAYERS)
        for side in "kv"
    }


def check(paths: list[Path], choice: Choice | None, expected: dict[str, np.ndarray]) -> None:
    """The source yields exactly these tensors, and promised them."""
    with ArraysSource(paths, choice) as source:
        assert isinstance(source, Source)
        info = source.describe()
        got = dict(source.tensors())
    assert list(got) == list(expected)
    for spec, (name, values) in zip(info.tensors, got.items(), strict=True):
        assert (spec.name, spec.shape, spec.dtype) == (name, values.shape, values.dtype.name)
        assert values.flags.c_contiguous
        assert values.tobytes() == expected[name].tobytes()


def stacked(tensors: dict[str, np.ndarray], order: str) -> np.ndarray:
    """All layers and sides in one array with these axes (batch of one where it is missing)."""
    sides = [np.stack([tensors[f"layers.{i}.{s}"] for i in range(LAYERS)]) for s in "kv"]
    full = np.stack(sides)  # side, layer, batch, head, seq, dim
    names = ["side", "layer", "batch", "head", "seq", "dim"]
    wanted = order.replace("hidden", "head,dim").split(",")
    if "batch" not in wanted:
        full, names = full[:, :, 0], [name for name in names if name != "batch"]
    out = full.transpose([names.index(name) for name in wanted])
    if "hidden" in order:
        at = order.split(",").index("hidden")
        out = out.reshape(*out.shape[:at], HEADS * DIM, *out.shape[at + 2 :])
    return np.ascontiguousarray(out)


@pytest.mark.parametrize(
    "order",
    ["side,layer,batch,head,seq,dim", "layer,side,seq,head,dim", "batch,seq,layer,side,head,dim",
     "side,layer,seq,hidden", "seq,side,batch,hidden,layer", "dim,seq,head,batch,layer,side"],
)  # fmt: skip
@pytest.mark.parametrize("fortran", [False, True])
def test_axis_orders_of_one_npy(tmp_path: Path, order: str, fortran: bool) -> None:
    """Whatever order an engine wrote in, Fortran order included, the tensors come back."""
    tensors = cache(batch=BATCH if "batch" in order else 1)
    array = stacked(tensors, order)
    path = tmp_path / "kv.npy"
    np.save(path, np.asfortranarray(array) if fortran else array)
    check([path], Choice(axes=order, heads=HEADS), tensors)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, save: object) -> None:
    """Members named as in a dump need no pattern, in stored and in deflated archives."""
    tensors = cache(np.float16)
    save(tmp_path / "kv.npz", **tensors)  # type: ignore[operator]
    check([tmp_path / "kv.npz"], None, tensors)


def test_npz_with_one_array_a_side(tmp_path: Path) -> None:
    """The side in the name and the layer in the axes."""
    tensors = cache()
    both = stacked(tensors, "side,layer,batch,head,seq,dim")
    np.savez(tmp_path / "kv.npz", key=both[0], value=both[1])
    choice = Choice(pattern="{side}", axes="layer,batch,head,seq,dim")
    check([tmp_path / "kv.npz"], choice, tensors)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_safetensors_pattern(tmp_path: Path, dtype: object) -> None:
    """Names of another project by pattern; what does not match is named, not read."""
    tensors = cache(dtype)
    words = {"k": "key", "v": "value"}
    named = {f"model.{name[:-1]}{words[name[-1]]}": t for name, t in tensors.items()}
    named["model.rope"] = np.ones(4, np.float32)
    save_file(named, tmp_path / "kv.safetensors")
    choice = Choice(pattern="model.layers.{layer}.{side}", axes="batch,head,seq,dim")
    check([tmp_path / "kv.safetensors"], choice, tensors)
    with ArraysSource([tmp_path / "kv.safetensors"], choice) as source:
        assert source.describe().notes == ("model.rope: matches no layer and side; left out",)


def test_queries_and_gqa(tmp_path: Path) -> None:
    """Q has more heads than K; the ratio is recorded."""
    q = np.random.default_rng(5).standard_normal((1, 8, SEQ, DIM)).astype(np.float32)
    k = q[:, :2].copy()
    np.savez(tmp_path / "a.npz", **{"layers.0.k": k, "layers.0.q": q, "layers.0.v": k + 1})
    with ArraysSource([tmp_path / "a.npz"]) as source:
        assert [spec.name for spec in source.describe().tensors] == [
            "layers.0.k", "layers.0.v", "layers.0.q"
        ]  # fmt: skip
        assert source.describe().provenance["gqa_ratio"] == 4


def test_float64_becomes_float32(tmp_path: Path) -> None:
    """Doubles are narrowed, never silently to infinity."""
    values = np.full((1, 1, 2, 4), 0.1)
    np.save(tmp_path / "k.npy", values)
    check([tmp_path / "k.npy"], Choice(side="k"), {"layers.0.k": values.astype(np.float32)})
    np.save(tmp_path / "k.npy", values * 1e40)
    with (
        ArraysSource([tmp_path / "k.npy"], Choice(side="k")) as source,
        pytest.raises(InputError, match="float32"),
    ):
        list(source.tensors())


def test_mlx_prompt_cache(tmp_path: Path) -> None:
    """mlx-lm's layout: layer.side; recurrent layers are named and skipped."""
    tensors = cache(np.float16, batch=1)
    digits = {"k": "0", "v": "1"}
    named = {name[len("layers.") : -1] + digits[name[-1]]: t for name, t in tensors.items()}
    named["1.0"] = np.zeros((1, 3, 16), np.float16)  # a recurrent layer's state
    named["1.1"] = np.zeros((1, 3, 16), np.float16)
    classes = {"2.0": "KVCache", "2.1": "ArraysCache", "2.2": "RotatingKVCache", "1.model": "m"}
    save_file(named, tmp_path / "p.safetensors", metadata=classes)
    expected = {name: t for name, t in tensors.items() if "layers.1." not in name}
    check([tmp_path / "p.safetensors"], Choice(preset="mlx"), expected)
    with ArraysSource([tmp_path / "p.safetensors"], Choice(preset="mlx")) as source:
        notes = " ".join(source.describe().notes)
        assert "layers.1: skipped: ArraysCache" in notes
        assert "layers.2: RotatingKVCache: a ring" in notes
    save_file(named, tmp_path / "q.safetensors", metadata=classes | {"2.2": "QuantizedKVCache"})
    with pytest.raises(InputError, match="layer 2 is a QuantizedKVCache"):
        ArraysSource([tmp_path / "q.safetensors"], Choice(preset="mlx"))


@pytest.mark.parametrize("order", ["side,seq,hidden", "seq,side,head,dim"])
def test_vllm_folder(tmp_path: Path, order: str) -> None:
    """One file a layer, in both layouts that vLLM's connector writes."""
    tensors = cache(ml_dtypes.bfloat16, batch=1)
    everything = stacked(tensors, f"layer,{order}")
    for layer in range(LAYERS):
        name = f"model.layers.{layer}.self_attn.attn.safetensors"
        save_file({"kv_cache": everything[layer]}, tmp_path / name)
    check([tmp_path], Choice(preset="vllm", heads=HEADS), tensors)


def test_lmcache_chunk(tmp_path: Path) -> None:
    """LMCache's [2, L, T, hidden]."""
    tensors = cache(batch=1)
    np.save(tmp_path / "chunk.npy", stacked(tensors, "side,layer,seq,hidden"))
    check([tmp_path / "chunk.npy"], Choice(preset="lmcache", heads=HEADS), tensors)
    with pytest.raises(UsageError, match="--heads"):
        ArraysSource([tmp_path / "chunk.npy"], Choice(preset="lmcache"))


def test_missing_side_is_noted(tmp_path: Path) -> None:
    """Half a layer is no error here, but nobody should find out later."""
    np.savez(tmp_path / "a.npz", **{"layers.4.k": np.ones((1, 1, 2, 4), np.float32)})
    with ArraysSource([tmp_path / "a.npz"], Choice(pattern="layers.{layer}.{side}")) as source:
        assert source.describe().notes == ("layers.4.v: missing",)


@pytest.mark.parametrize(
    ("axes", "heads"),
    [("seq", None), ("seq,dim,dim", None), ("seq,hidden", None), ("seq,hidden", 0),
     ("seq,head,hidden", 2), ("seq,dim,hidden", 2), ("time,dim", None), ("", None)],
)  # fmt: skip
def test_axes_that_cannot_be_undone(axes: str, heads: int | None) -> None:
    """A usage error names what is legal."""
    with pytest.raises(UsageError, match="--axes"):
        Axes.parse(axes, heads)


@pytest.mark.parametrize(
    ("choice", "match"),
    [(Choice(), "K, V or Q"), (Choice(axes="head,seq,dim", side="k"), "has 4 axes"),
     (Choice(axes="side,head,seq,dim"), "legal is 2"),
     (Choice(axes="batch,layer,seq,hidden", heads=3, side="k"), "do not divide"),
     (Choice(pattern="other.{layer}", side="k"), "no array matches")],
)  # fmt: skip
def test_choices_that_do_not_fit(tmp_path: Path, choice: Choice, match: str) -> None:
    """The array is looked at before anything is read."""
    np.save(tmp_path / "k.npy", np.ones((1, 2, 3, 4), np.float32))
    with pytest.raises((InputError, UsageError), match=match):
        ArraysSource([tmp_path / "k.npy"], choice)


@pytest.mark.parametrize(
    "make",
    [lambda: Choice(preset="sglang"), lambda: Choice(preset="mlx", axes="seq,dim"),
     lambda: Choice(side="x"), lambda: ArraysSource([])],
)  # fmt: skip
def test_choices_that_contradict_themselves(make: object) -> None:
    """Said before a file is opened."""
    with pytest.raises(UsageError):
        make()  # type: ignore[operator]


def test_pattern_braces() -> None:
    """A misspelt field would otherwise match nothing, silently."""
    for text in ("{layers}.{side}", "{layer}.{layer}"):
        with pytest.raises(UsageError, match="--pattern"):
            Pattern(text)


def test_two_arrays_for_one_place(tmp_path: Path) -> None:
    """A reader must not choose."""
    one = np.ones((1, 1, 2, 4), np.float32)
    np.savez(tmp_path / "a.npz", **{"a.0.k": one, "b.0.k": one})
    with pytest.raises(InputError, match="already"):
        ArraysSource([tmp_path / "a.npz"], Choice(pattern="*.{layer}.{side}"))
