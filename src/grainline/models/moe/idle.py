"""Experts that nothing reaches: not chosen, or chosen by so few that tiles round them away. They learn nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grainline.documents import ModelConfig

PATIENCE = 100
"""Steps without a row after which an expert counts as idle: few enough to mend a run, too many to be chance."""

NAMED = 8
"""Experts of a layer that are named, and layers."""


class IdleExperts:
    """For how many steps on end each expert with weights has had no row, counted once per step over the whole batch.

    Those of a bank are the bank's: idle where none of its layers gives them rows. A step in which an expert was closed,
    or its layer saw no tokens, counts for neither side.
    """

    def __init__(self, config: ModelConfig, steps_LE: Sequence[Sequence[int]] | None = None) -> None:
        assert config.moe is not None
        self.moe = config.moe
        shape = len(config.sparse_layers), self.moe.pool
        self.steps_LE = torch.zeros(shape, dtype=torch.long) if steps_LE is None else torch.tensor(steps_LE)
        self._told_LE = self.steps_LE >= PATIENCE
        self._steps_since_told = PATIENCE

    def count(self, rows_LE: Tensor, could_LE: Tensor) -> None:
        """One step. rows_LE: what experts computed, costless ones' columns last; could_LE: who could be chosen."""
        pool, reuse = self.moe.pool, self.moe.reuse
        had_LE, could_LE = rows_LE[:, :pool].cpu() > 0, could_LE[:, :pool].cpu()
        if reuse > 1:
            had_LE, could_LE = (
                x.unflatten(0, (-1, reuse)).any(1).repeat_interleave(reuse, 0) for x in (had_LE, could_LE)
            )
        self.steps_LE = (self.steps_LE + could_LE).masked_fill(had_LE, 0)
        self._steps_since_told += 1

    @property
    def share_L(self) -> list[float]:
        """Of each layer's experts, how many are idle."""
        return [float(share) for share in (self.steps_LE >= PATIENCE).double().mean(-1)]

    def remark(self, layers: Sequence[str]) -> str | None:
        """Which experts are idle that weren't told of yet, in a line; at most one line in PATIENCE steps."""
        new_LE = (self.steps_LE >= PATIENCE) & ~self._told_LE
        if self._steps_since_told < PATIENCE or not new_LE.any():
            return None
        self._told_LE |= new_LE
        self._steps_since_told = 0
        first = range(0, len(layers), self.moe.reuse)  # of a bank one layer speaks for all
        found = [(layers[i], new_LE[i].nonzero().flatten().tolist()) for i in first if new_LE[i].any()]
        named = "; ".join(f"{name}: {_some([str(expert) for expert in those])}" for name, those in found[:NAMED])
        more = f"; and in {len(found) - NAMED} more layers" if len(found) > NAMED else ""
        bank = " (and the layers that share its experts)" if self.moe.reuse > 1 else ""
        return f"No rows for {PATIENCE} steps, so these experts learn nothing: {named}{more}{bank}. {self._remedy}"

    @property
    def _remedy(self) -> str:
        if self.moe.router == "token-rounding":
            return "A smaller moe.tile or larger micro-batches round fewer away."
        if self.moe.bias_balanced:
            return "A larger loss.bias_rate brings them back."
        return "moe.bias_balanced or a loss.balance_loss brings them back."


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
