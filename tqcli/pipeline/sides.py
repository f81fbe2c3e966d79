"""The sides of a dump's layers under cache plans: which tokens, which mean."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

from tqcli.kv.dump import Dump, KVTensor
from tqcli.pipeline.pieces import Cleaner, Nonfinite
from tqcli.plan.calibration import open_calibration
from tqcli.plan.center import Center, known_rope, own_center
from tqcli.plan.plan import Plan
from tqcli.plan.references import CalibrationFile
from tqcli.plan.side import SidePlan
from tqcli.plan.tokens import Tokens
from tqcli.plan.types import Side


class Sides:
    """Makes the :class:`SidePlan` of each tensor of a dump; means and tokens are made once.

    Parameters
    ----------
    dump : Dump
    nonfinite : {"error", "zero", "skip"}
        What a mean does with NaN and Inf.
    """

    def __init__(self, dump: Dump, nonfinite: Nonfinite = "error") -> None:
        self._dump, self._nonfinite = dump, nonfinite
        self._tokens: dict[tuple[int, int], Tokens] = {}
        self._centers: dict[tuple[int, CalibrationFile | None], Center] = {}
        self._made: dict[tuple[str, str, bool], tuple[SidePlan, Tokens]] = {}

    def of(self, plan: Plan, tensor: KVTensor, *, aged: bool = False) -> tuple[SidePlan, Tokens]:
        """One side of one layer.

        Parameters
        ----------
        plan : Plan
        tensor : KVTensor
            K or V.
        aged : bool
            No token is kept for being among the last.

        Raises
        ------
        InputError
            The format cannot hold such heads, the tokens cannot be told, or the calibration is
            of another model.
        """
        key = plan.identity(), tensor.name, aged
        if key not in self._made:
            _, heads, _, head_dim = tensor.shape
            side: Side = "k" if tensor.side == "k" else "v"
            where = f"{self._dump.path}: {tensor.name}"
            kind = plan.type_of(tensor.layer, side)
            center = self._center(plan, tensor) if kind.center else None
            own = replace(plan, keep_last=0) if aged else plan
            made = SidePlan(own, tensor.layer, side, heads, head_dim, center, where)
            tokens = self.tokens(tensor)
            made.kept(tokens)  # refuses tokens that cannot be told before any work
            self._made[key] = made, tokens
        return self._made[key]

    def tokens(self, tensor: KVTensor) -> Tokens:
        """The token axis of a tensor."""
        batch, _, seq_len, _ = tensor.shape
        if (batch, seq_len) not in self._tokens:
            self._tokens[batch, seq_len] = Tokens.of_dump(self._dump, batch, seq_len)
        return self._tokens[batch, seq_len]

    def _center(self, plan: Plan, tensor: KVTensor) -> Center:
        key = tensor.layer, plan.calibration
        if key not in self._centers:
            source, tokens = self._dump.source, self.tokens(tensor)
            _, heads, _, head_dim = tensor.shape
            if plan.calibration is None:
                where = f"{self._dump.path}: {tensor.name}"
                rope = known_rope(source, tensor.layer, tokens)
                cleaner = Cleaner(self._nonfinite)
                pieces = ((first, cleaner.clean(x)[0]) for first, x in tensor.stored.pieces())
                self._centers[key] = own_center(pieces, tensor.shape, tokens, rope, where)
            else:
                with closing(open_calibration(plan.calibration.file)) as opened:
                    self._centers[key] = opened.center(
                        tensor.layer, (heads, head_dim), source, tokens
                    )
        return self._centers[key]
