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
NIBBLES = 8
"""Codes in a word of 32 bits."""


@dataclass(frozen=True)
class CodedWeights:
    """Weights […, depth] = code · scale of its group.

    codes: 8 bits: int8 […, depth′]; 4 bits: int32 […, depth′/8], where of each 128 codes, code 16·s + j is nibble s of
    word j, and stands for its value + 8. scale: float32 […, depth′/group]. depth′: the depth, rounded up to 128.
    """

    codes: Tensor
    scale: Tensor
    bits: Literal[8, 4]
    group: int
    depth: int

    @property
    def shape(self) -> torch.Size:
        """That of the weights."""
        return torch.Size([*self.codes.shape[:-1], self.depth])

    @property
    def bytes(self) -> int:
        """What a product reads."""
        return self.codes.nbytes + self.scale.nbytes

    def __getitem__(self, experts: slice) -> CodedWeights:
        """Those of some experts, by the first dimension."""
        return CodedWeights(self.codes[experts], self.scale[experts], self.bits, self.group, self.depth)

    def dequantized(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights that the codes stand for."""
        values = self.codes
        if self.bits == 4:
            words = self.codes.unflatten(-1, (-1, 1, BLOCK // NIBBLES))
            shifts = torch.arange(0, 4 * NIBBLES, 4, dtype=torch.int32).view(NIBBLES, 1)
            values = ((words >> shifts) & 15).sub_(8).flatten(-3)
        wide = values.unflatten(-1, (-1, self.group)) * self.scale.unsqueeze(-1)
        return wide.flatten(-2)[..., : self.depth].to(dtype)


def quantize_experts(weights: Tensor, bits: Literal[8, 4], group: int = 128) -> CodedWeights:
    """Round weights […, depth] to codes, symmetric about 0, so that the largest of each group keeps its value.

    Raises GrainlineError for other widths than 8 and 4 bits and groups other than 16, 32, 64 and 128.
    """
    if bits not in (8, 4):
        raise GrainlineError(f"codes of {bits} bits: there are codes of 8 and of 4.")
    if group not in (16, 32, 64, 128):
        raise GrainlineError(f"groups of {group} weights: a group has 16, 32, 64 or 128.")
    depth = weights.shape[-1]
    wide = F.pad(weights.detach().float(), (0, -depth % BLOCK)).unflatten(-1, (-1, group))
    most = 2 ** (bits - 1) - 1
    scale = wide.abs().amax(-1) / most
    codes = (wide / scale.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(-1)).round_().clamp_(-most, most)
    codes = codes.flatten(-2)
    if bits == 8:
        return CodedWeights(codes.to(torch.int8), scale.contiguous(), bits, group, depth)
    nibbles = codes.to(torch.int32).add_(8).unflatten(-1, (-1, NIBBLES, BLOCK // NIBBLES))
    words = torch.zeros_like(nibbles[..., 0, :])
    for s in range(NIBBLES):
        words |= nibbles[..., s, :] << (4 * s)
    return CodedWeights(words.flatten(-2).contiguous(), scale.contiguous(), bits, group, depth)
