"""Which keys a query may see, in the cheapest form that `scaled_dot_product_attention` takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mask:
    """Plain causal (`causal`), everything (neither field), or `allowed` [.., S, keys] of bools."""

    causal: bool
    allowed: Tensor | None = None
    document_BS: Tensor | None = None  # for what looks back on positions without attending to them


def causal_mask(
    queries: int,
    past: int = 0,
    *,
    window: int | None = None,
    document_BS: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Mask:
    """The mask for `queries` new positions after `past` cached ones.

    window: keys further back than so many positions are hidden. document_BS [B, S]: numbers of the documents that the
    positions belong to (no cache then): tokens see only their own.
    """
    keys = past + queries
    inside_window = window is None or keys <= window
    if document_BS is None and inside_window and (past == 0 or queries == 1):
        return Mask(causal=queries > 1)
    query_S1 = torch.arange(past, keys, device=device).unsqueeze(1)
    key_K = torch.arange(keys, device=device)
    allowed = key_K <= query_S1
    if window is not None:
        allowed &= key_K > query_S1 - window
    if document_BS is not None:
        allowed = (allowed & (document_BS.unsqueeze(2) == document_BS.unsqueeze(1))).unsqueeze(1)
    return Mask(False, allowed, document_BS)
