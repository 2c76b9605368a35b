"""WSM: the average of a run's last checkpoints stands for a learning-rate decay (arXiv 2507.17634, section 3).

With θ_n the checkpoint at the window's start and g_i the update between checkpoints i - 1 and i, the mean Σ cⱼ θ_{n+j}
is θ_n + Σ wᵢ gᵢ with wᵢ = Σ_{j ≥ i} cⱼ: merging by c is decaying the updates by w, after the fact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from grainline.documents import GrainlineError
from grainline.documents.recipe import LearningRate
from grainline.train.learning_rate import decay

if TYPE_CHECKING:
    from torch import Tensor


def merge_weights(updates: Sequence[float]) -> list[float]:
    """c_0 … c_k from a decay curve 1 ≥ w_1 ≥ … ≥ w_k ≥ 0; all c are ≥ 0 and sum to 1.

    Raises GrainlineError if the curve rises or leaves [0, 1]: no average of checkpoints can do that.
    """
    curve = [1, *updates, 0]
    for i, (high, low) in enumerate(pairwise(curve), 1):
        if not high >= low:  # written so that NaN fails too
            raise GrainlineError(
                f"A decay that checkpoints can be merged by never rises and stays between 0 and 1; this one goes "
                f"from {float(high):g} to {float(low):g} at update {i} of {len(updates)}."
            )
    return [high - low for high, low in pairwise(curve)]


def decay_merge_weights(recipe: LearningRate, count: int) -> list[float]:
    """c for `count` checkpoints so that the merge stands for the recipe's decay shape; linear down to 0 is uniform."""
    return merge_weights([decay(recipe, recipe.decay_shape, i, count - 1) for i in range(1, count)])


class TensorSource(Protocol):
    """A checkpoint whose tensors are read one at a time."""

    @property
    def where(self) -> str: ...
    def names(self) -> Iterable[str]: ...
    def read(self, name: str) -> Tensor: ...


def merge(sources: Sequence[TensorSource], weights: Sequence[float]) -> Iterator[tuple[str, Tensor]]:
    """Σ weights[j] · sources[j], tensor by tensor, summed in float64 and returned in the sources' dtype.

    Memory: one tensor in float64 and one as stored. Tensors that aren't floating point must agree and are passed on.
    Raises GrainlineError where names, shapes or dtypes differ, or a value isn't finite.
    """
    if len(sources) != len(weights) or not sources:
        raise GrainlineError(f"{len(sources)} checkpoints to merge and {len(weights)} weights: give one for each.")
    if not math.isclose(math.fsum(weights), 1.0, abs_tol=1e-9):
        raise GrainlineError(f"The weights of merged checkpoints must sum to 1, not {math.fsum(weights):g}.")
    names = sorted(sources[0].names())
    for source in sources[1:]:
        odd = sorted(set(names) ^ set(source.names()))
        if odd:
            raise GrainlineError(
                f"{source.where} and {sources[0].where} can't be merged: only one of them has "
                f"{', '.join(odd[:3])}{f' and {len(odd) - 3} more' if len(odd) > 3 else ''}."
            )
    for name in names:
        yield name, _merged(name, sources, weights)


def _merged(name: str, sources: Sequence[TensorSource], weights: Sequence[float]) -> Tensor:
    import torch

    first = sources[0].read(name)
    total = torch.zeros(first.shape, dtype=torch.float64)
    for source, weight in zip(sources, weights, strict=True):
        tensor = source.read(name)
        if tensor.shape != first.shape or tensor.dtype != first.dtype:
            raise GrainlineError(
                f"{source.where}: {name} is {tensor.dtype} {list(tensor.shape)}; in {sources[0].where} it is "
                f"{first.dtype} {list(first.shape)}. Merge checkpoints of one run."
            )
        if not first.is_floating_point():
            if not torch.equal(tensor, first):
                raise GrainlineError(f"{source.where}: {name} holds integers that differ from {sources[0].where}'s.")
            continue
        if not torch.isfinite(tensor).all():
            raise GrainlineError(f"{source.where}: {name} holds NaN or infinity. Leave this checkpoint out.")
        total.add_(tensor.to(torch.float64), alpha=weight)
    return total.to(first.dtype) if first.is_floating_point() else first
