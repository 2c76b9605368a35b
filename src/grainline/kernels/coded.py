"""Weights as codes of 8 or 4 bits, with a scale for each group of neighbours along the depth (the last dimension)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from grainline.documents import GrainlineError

BLOCK = 128
"""The depth is rounded up to a multiple of it, with codes of 0."""
ROWS = 16
"""The same of the rows (the dimension before): a line of memory, 64 bytes, has a word of each of 16 rows."""
WORD_BYTES = 4
"""Of a row that lie together: 4 codes of 8 bits, or 8 of 4 bits."""


@dataclass(frozen=True)
class CodedWeights:
    """Weights […, rows, depth] = code · scale of its group.

    codes: uint8 […, rows′/16, words, 16, 4], a row's words in the order of the depth. 8 bits: a byte is a code + 128.
    4 bits: the first four of a word's 8 codes are the lower halves of its bytes, the others the upper ones, each + 8.
    scale: float32 […, rows′/16, depth′/group, 16]. rows′, depth′: rounded up to 16 and 128.
    """

    codes: Tensor
    scale: Tensor
    bits: Literal[8, 4]
    group: int
    rows: int
    depth: int

    @property
    def shape(self) -> torch.Size:
        """That of the weights."""
        return torch.Size([*self.codes.shape[:-4], self.rows, self.depth])

    @property
    def bytes(self) -> int:
        """What a product reads."""
        return self.codes.nbytes + self.scale.nbytes

    def __getitem__(self, experts: slice) -> CodedWeights:
        """Those of some experts, by the first dimension."""
        return CodedWeights(self.codes[experts], self.scale[experts], self.bits, self.group, self.rows, self.depth)

    def dequantized(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights that the codes stand for."""
        values = self.codes
        if self.bits == 4:
            values = torch.stack([values & 15, values >> 4], -2).flatten(-2)
        values = values.transpose(-3, -2).flatten(-2).float().sub_(2 ** (self.bits - 1))
        wide = values.unflatten(-1, (-1, self.group)) * self.scale.transpose(-2, -1).unsqueeze(-1)
        return wide.flatten(-2).flatten(-3, -2)[..., : self.rows, : self.depth].to(dtype)


def quantize_experts(weights: Tensor, bits: Literal[8, 4], group: int = 128) -> CodedWeights:
    """Round weights […, rows, depth] to codes, symmetric about 0, so that the largest of each group keeps its value.

    Raises GrainlineError for other widths than 8 and 4 bits and groups other than 16, 32, 64 and 128.
    """
    if bits not in (8, 4):
        raise GrainlineError(f"codes of {bits} bits: there are codes of 8 and of 4.")
    if group not in (16, 32, 64, 128):
        raise GrainlineError(f"groups of {group} weights: a group has 16, 32, 64 or 128.")
    rows, depth = weights.shape[-2:]
    wide = F.pad(weights.detach().float(), (0, -depth % BLOCK, 0, -rows % ROWS)).unflatten(-1, (-1, group))
    most = 2 ** (bits - 1) - 1
    scale = wide.abs().amax(-1) / most
    codes = (wide / scale.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(-1)).round_().clamp_(-most, most)
    codes = codes.flatten(-2).add_(most + 1).to(torch.uint8)
    if bits == 4:
        low, high = codes.unflatten(-1, (-1, 2, WORD_BYTES)).unbind(-2)
        codes = (low | high << 4).flatten(-2)
    codes = codes.unflatten(-1, (-1, WORD_BYTES)).unflatten(-3, (-1, ROWS)).transpose(-3, -2)
    return CodedWeights(codes.contiguous(), _by_16_rows(scale), bits, group, rows, depth)


def _by_16_rows(scale: Tensor) -> Tensor:
    """[…, rows′, groups] → […, rows′/16, groups, 16]."""
    return scale.unflatten(-2, (-1, ROWS)).transpose(-2, -1).contiguous()
