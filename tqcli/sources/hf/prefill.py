"""Run token sequences through a model and leave K, V and Q of every layer in spool files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqcli.errors import InputError
from tqcli.rope import Rope
from tqcli.sources.hf import rope as hf_rope
from tqcli.sources.hf.attention import recording
from tqcli.sources.hf.forward import forward, returned_cache
from tqcli.sources.hf.journal import State, read_journal, write_journal
from tqcli.sources.hf.layers import is_recurrent, plain_cache, plan_layers
from tqcli.sources.hf.spool import RowLayout, Spool, SpooledLayer, spooled

Progress = Callable[[int], None]  # tokens done since the last call


class Prefill:
    """One run of ``sequences`` through ``model``; spools and a journal lie in ``folder``.

    The sequences run one after the other, each in chunks of ``chunk_size`` tokens (models with
    recurrent layers: in one pass). A folder that holds the journal of an interrupted run of the
    same fingerprint is continued after its last whole chunk. The chunks are a fixed grid, so that
    a continued run computes the very same tensors; another ``chunk_size`` agrees only to rounding,
    because matrix products of other shapes add up in another order.

    Parameters
    ----------
    model : a transformers causal language model in evaluation mode
    sequences : sequence of token id lists
    folder : Path
    queries : bool
        Record post-RoPE queries too.
    chunk_size : int
        Tokens of one forward pass.
    fingerprint : str
        Identifies model, tokens and options.
    progress : callable, optional
        Called with the tokens done since the last call.
    """

    def __init__(
        self,
        model: Any,
        sequences: Sequence[Sequence[int]],
        folder: Path,
        *,
        queries: bool,
        chunk_size: int,
        fingerprint: str = "",
        progress: Progress | None = None,
    ) -> None:
        self.model = model
        self.sequences = sequences
        self.folder = folder
        self.queries = queries
        self.chunk_size = chunk_size
        self.progress = progress or (lambda _: None)
        self.plan = plan_layers(model.config)
        self.recurrent = is_recurrent(model.config)
        self.spools: dict[str, Spool] = {}
        self.state = self._open(fingerprint)
        self._rules: list[Rope] = []  # in effect during the run
        self._probed: list[Rope] = []  # the same rules, in the short pass before it

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sequence."""
        return tuple(len(sequence) for sequence in self.sequences)

    def rope(self, index: int) -> Rope:
        """Rotary embedding of layer ``index``."""
        return Rope.from_json(self.state.ropes[str(index)])

    def run(self) -> None:
        """Compute whatever is not there yet.

        Raises
        ------
        InputError
            The model fills another cache than the one it was given, or none.
        """
        import torch

        state = self.state
        with torch.inference_mode(), ExitStack() as stack:
            if not state.ropes:
                self._identify_ropes()
            if self.queries:
                spools = {i: self.spools[f"layers.{i}.q"] for i in self.plan.kinds}
                recorder = stack.enter_context(recording(self.model, spools))
                recorder.facts = {int(i): dict(f) for i, f in state.facts.items()}
            while state.sequence < len(self.sequences):
                cache = self._cache()
                self._run_sequence(cache)
                if self.queries:
                    state.facts = {str(i): f for i, f in recorder.facts.items()}
                state.sequence, state.tokens = state.sequence + 1, 0
                self._write_journal()
        self._drop_empty_layers()

    def _run_sequence(self, cache: Any) -> None:
        import torch

        state, sequence = self.state, self.sequences[self.state.sequence]
        decoder = self.model.get_decoder()
        while state.tokens < len(sequence):
            # Not every recurrent layer takes up its state again in the middle of a text (Jamba's
            # drops it): such models read each sequence in one pass.
            step = len(sequence) if self.recurrent else self.chunk_size
            chunk = sequence[state.tokens : state.tokens + step]
            ids = torch.tensor([chunk], device=self.model.device)
            output = forward(decoder, ids, cache)
            self._check(output, cache, state.tokens + len(chunk))
            state.tokens += len(chunk)
            self._write_journal()
            self.progress(len(chunk))

    def _check(self, output: Any, cache: Any, tokens: int) -> None:
        """Refuse a model that keeps its K and V elsewhere, or turns them by changing angles."""
        who, layers = type(self.model).__name__, cache.layers
        returned = returned_cache(output)
        if returned is not cache:
            came = "no cache" if returned is None else f"a {type(returned).__name__}"
            raise InputError(
                f"{who}: gives back {came} of its own; legal is a model that fills the DynamicCache"
                " that it is given"
            )
        lengths = [x.get_seq_length() for x in layers if isinstance(x, SpooledLayer)]
        if not any(lengths):
            raise InputError(f"{who}: wrote no K and V into its {type(cache).__name__}")
        if any(length not in (0, tokens) for length in lengths):
            raise InputError(f"{who}: layers hold {sorted(set(lengths))} tokens after {tokens}")
        rules = hf_rope.candidates(self.model)
        if self._rules and rules != self._rules:
            raise InputError(
                f"{who}: RoPE changed its frequencies at {tokens} tokens; such a model needs the"
                f" whole prompt in one pass: --chunk-size {max(self.lengths)}"
            )
        if not self._rules:
            self._update_ropes(rules)

    def _identify_ropes(self) -> None:
        """Find each layer's RoPE in one short pass on the tokens of the longest sequence."""
        _, found = hf_rope.probe_ropes(self.model, self.plan, max(self.sequences, key=len))
        for index, (rope, error) in found.items():
            self.state.ropes[str(index)] = {**rope.to_json(), "error": error}
        self._probed = hf_rope.candidates(self.model)

    def _update_ropes(self, rules: list[Rope]) -> None:
        """Take over the frequencies in effect: some rules look at the length of the prompt."""
        self._rules = rules
        for entry in self.state.ropes.values():
            for probed, now in zip(self._probed, rules, strict=False):
                if entry["inv_freq"] == list(probed.inv_freq) and probed != now:
                    entry.update(inv_freq=list(now.inv_freq), magnitude=now.magnitude, error=None)

    def _cache(self) -> Any:
        """A cache for the current sequence whose layers with K and V spool."""
        cache = plain_cache(self.model.config)
        start = sum(self.lengths[: self.state.sequence])
        for index in self.plan.kinds:
            layer = spooled(cache.layers[index])
            k, v = (self.spools[f"layers.{index}.{side}"] for side in "kv")
            layer.attach(f"layers.{index} ({type(cache.layers[index]).__name__})", k, v, start)
            cache.layers[index] = layer
        return cache

    def _drop_empty_layers(self) -> None:
        for index in list(self.plan.kinds):
            if self.spools[f"layers.{index}.k"].rows == 0:
                self.plan.skipped[index] = "the model computes no K and V here"
                del self.plan.kinds[index]

    def _open(self, fingerprint: str) -> State:
        """Set up the spools, as an interrupted run left them where its journal fits."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = read_journal(self.folder)
        if state is None or state.fingerprint != fingerprint:
            state = State(fingerprint)
        elif self.recurrent:
            state = replace(state, tokens=0)
        rows = sum(self.lengths[: state.sequence]) + state.tokens
        for index in self.plan.kinds:
            for side in ("k", "v", "q") if self.queries else ("k", "v"):
                name = f"layers.{index}.{side}"
                path = self.folder / f"{name}.spool"
                layout = state.layouts.get(name)
                if layout is None:
                    path.unlink(missing_ok=True)
                    self.spools[name] = Spool(path)
                    continue
                known = RowLayout(**layout)
                if not path.is_file() or path.stat().st_size < rows * known.nbytes:
                    raise InputError(
                        f"{path.name}: shorter than the journal beside it says; remove the folder"
                        f" {self.folder} and start again"
                    )
                self.spools[name] = Spool(path, known, rows)
        return state

    def _write_journal(self) -> None:
        self.state.layouts = {
            name: asdict(spool.layout) for name, spool in self.spools.items() if spool.layout
        }
        write_journal(self.folder, self.state)
