"""Plain data parallelism: every rank holds all parameters, and gradients are summed over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from grainline.parallel.ranks import Ranks

BUCKET_BYTES = 32 << 20


def sum_gradients(parameters: Iterable[Tensor], ranks: Ranks) -> None:
    """Sum each parameter's gradient over ranks, in place, a bucket at a time.

    A sum, not a mean: each rank's gradient is already its part of the whole batch's. Every rank must have the same
    parameters with gradients, which holds because the model is the same on all.
    """
    if ranks.world > 1:
        sum_in_buckets([p.grad for p in parameters if p.grad is not None], ranks.sum_)


def sum_in_buckets(gradients: list[Tensor], sum_: Callable[[Tensor], object]) -> None:
    """Sum tensors over ranks in place, a bucket at a time; `sum_` does it to one flat tensor."""
    for bucket in _buckets(gradients):
        if len(bucket) == 1 and bucket[0].is_contiguous():
            sum_(bucket[0])
            continue
        flat = torch.cat([g.flatten() for g in bucket])
        sum_(flat)
        for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (size + gradient.nbytes > BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket
