"""The `Work` seam: how the ranks of a run share the passes of a step, and of a look at held-out text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from grainline.kernels.sink import GradientSink
from grainline.models.loss import LossSums
from grainline.models.model import Model
from grainline.models.moe import step_bias
from grainline.parallel import Ranks, sum_gradients
from grainline.schedule import Timeline
from grainline.train.batches import micro_batches, sequences_of, share_of_step, split
from grainline.train.objective import Objective

if TYPE_CHECKING:
    from grainline.data.dataset import TokenDataset


@dataclass(frozen=True)
class LocalSums:
    """What this rank's passes add to a step; the sum over all ranks is the step's."""

    losses: Tensor  # float64 [6]: cross-entropy, MTP's, z, balance in nats; tokens, MTP's tokens
    entropy_L: Tensor  # float64, of the routers
    counts_LE: Tensor  # what tokens chose
    rows_LE: Tensor  # what experts computed

    @classmethod
    def of(cls, sums: Iterable[LossSums], layers: int, experts: int) -> LocalSums:
        """Of micro-batches or stages; a model of so many sparse layers and experts."""
        losses, entropy_L = torch.zeros(6, dtype=torch.float64), torch.zeros(layers, dtype=torch.float64)
        counts_LE = rows_LE = torch.zeros(layers, experts)
        for one in sums:
            values = torch.stack([v.float() for v in (one.cross_entropy, one.mtp, one.z, one.balance)])
            tokens = torch.tensor([one.tokens, one.mtp_tokens], dtype=torch.float64)
            losses += torch.cat([values.detach().cpu().double(), tokens])
            entropy_L += one.entropy_L.detach().cpu().double()
            counts_LE, rows_LE = counts_LE + one.counts_LE.cpu(), rows_LE + one.rows_LE.cpu()
        return cls(losses, entropy_L, counts_LE, rows_LE)


class Work(Protocol):
    """Members differ in which sequences and which part of the model a rank has."""

    def share(self, step: int) -> range:
        """Global indices of the sequences that this rank takes of step `step` (from 1)."""
        ...

    def gradients(self, step: int) -> LocalSums:
        """Forward and backward over the step; parameters then have the whole batch's gradients."""
        ...

    def clip(self, max_norm: float) -> float:
        """Scale all gradients together so that their norm is at most `max_norm`; returns the norm before."""
        ...

    def balance(self, counts_LE: Tensor, rate: float) -> None:
        """Move the routers' biases by one step, given the loads of the whole batch."""
        ...

    def score(self, dataset: TokenDataset, count: int) -> Tensor:
        """float64 [2]: cross-entropy and tokens of this rank's part of the first `count` sequences. No gradients."""
        ...

    def timeline(self) -> Timeline | None:
        """What the ranks did and when in the last step's passes, where they depend on each other; all ranks ask."""
        ...

    def as_saved(self, name: str, tensor: Tensor) -> Tensor:
        """A live tensor of the model or its optimiser as a checkpoint takes it: where it is a part, of a whole."""
        ...

    def close(self) -> None:
        """Give back what was taken for the run."""
        ...


@dataclass
class SharedOut:
    """Every rank has the whole model, or its share of it under FSDP, and its own sequences: also one rank alone."""

    objective: Objective
    ranks: Ranks
    train: TokenDataset
    batch_sequences: int
    micro_batch_sequences: int
    is_sharded: bool
    sink: GradientSink = field(default_factory=GradientSink)

    @property
    def model(self) -> Model:
        """The live one."""
        return self.objective.model

    def share(self, step: int) -> range:
        """See `Work`."""
        return share_of_step(step, self.batch_sequences, self.ranks.share(self.batch_sequences))

    def gradients(self, step: int) -> LocalSums:
        """See `Work`."""
        found = []
        # FSDP waits for what autograd brings; else nobody looks at a gradient before all are there.
        with nullcontext() if self.is_sharded else self.sink.collecting():
            for part in micro_batches(self.share(step), self.micro_batch_sequences):
                objective, sums = self.objective(sequences_of(self.train, part, self.ranks.device))
                objective.backward()
                found.append(sums.detached())
        if not self.is_sharded:
            sum_gradients(self.model.parameters(), self.ranks)
        moe, layers = self.model.config.moe, len(self.model.config.sparse_layers)
        return LocalSums.of(found, layers, 0 if moe is None else moe.choices)

    def clip(self, max_norm: float) -> float:
        """See `Work`."""
        return clip_(list(self.model.parameters()), max_norm)

    def balance(self, counts_LE: Tensor, rate: float) -> None:
        """See `Work`."""
        step_bias(self.model, counts_LE.to(self.ranks.device), rate)

    @torch.no_grad()
    def score(self, dataset: TokenDataset, count: int) -> Tensor:
        """See `Work`."""
        largest_share = -(-count // self.ranks.world)
        sums = torch.zeros(2, dtype=torch.float64)
        for part in split(self.ranks.share(count), -(-largest_share // self.micro_batch_sequences)):
            # Sharded ranks must run equally many passes: one that has nothing left runs one for nothing.
            _, of_part = self.objective(sequences_of(dataset, part or range(1), self.ranks.device))
            if part:
                sums += torch.tensor([of_part.cross_entropy.item(), of_part.tokens], dtype=torch.float64)
        return sums

    def timeline(self) -> None:
        """See `Work`. Each has its passes to itself."""

    def as_saved(self, name: str, tensor: Tensor) -> Tensor:
        """See `Work`. FSDP's parameters say by themselves what they are part of."""
        return tensor

    def close(self) -> None:
        """See `Work`."""


def clip_(parameters: Sequence[Tensor], max_norm: float) -> float:
    """Scale all gradients together so that their norm is at most `max_norm`; returns the norm before."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm.item()
