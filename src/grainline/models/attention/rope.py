"""Rotary position embedding and its stretched forms, as tables of cosines and sines."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from grainline import kernels
from grainline.documents import Rope


@dataclass(frozen=True)
class RopeTable:
    """cos and sin of every position's angles, [S, r/2], already times the attention factor; S may be [B, S]."""

    cos: Tensor
    sin: Tensor


def rope_table(rope: Rope, dims: int, position_S: Tensor, dtype: torch.dtype) -> RopeTable:
    """Angles of `position_S` ([S] or [B, S]) for `dims` rotating dims (Su et al. 2021)."""
    angle_Sr = position_S.float().unsqueeze(-1) * inverse_frequencies(rope, dims).to(position_S.device)
    factor = attention_factor(rope)
    return RopeTable((angle_Sr.cos() * factor).to(dtype), (angle_Sr.sin() * factor).to(dtype))


def apply_rope(x_BSHh: Tensor, table: RopeTable, interleaved: bool) -> Tensor:
    """Turn the first dims of every head; the rest pass through."""
    return kernels.rotate(x_BSHh, table.cos.unsqueeze(-2), table.sin.unsqueeze(-2), interleaved)


def inverse_frequencies(rope: Rope, dims: int) -> Tensor:
    """The angle per position of each pair of dims, [dims/2], stretched as the rope says."""
    exponent_r = torch.arange(0, dims, 2, dtype=torch.float32) / dims
    frequency_r = 1.0 / rope.theta**exponent_r
    if rope.scaling == "linear":
        return frequency_r / rope.factor
    if rope.scaling == "llama3":
        return _llama3(rope, frequency_r)
    if rope.scaling == "yarn":
        return _yarn(rope, frequency_r, dims)
    return frequency_r


def attention_factor(rope: Rope) -> float:
    """What YaRN multiplies cos and sin by, so that attention stays as sharp over a longer context."""
    if rope.scaling != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return _yarn_mscale(rope.factor, rope.mscale) / _yarn_mscale(rope.factor, rope.mscale_all_dim)
    return _yarn_mscale(rope.factor, 1.0)


def _yarn_mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def softmax_scale(rope: Rope, head_dim: int) -> float:
    """Latent attention's: 1/√head_dim, which DeepSeek-V3's YaRN sharpens by mscale_all_dim squared."""
    scale = head_dim**-0.5
    if rope.scaling == "yarn" and rope.mscale_all_dim:
        scale *= _yarn_mscale(rope.factor, rope.mscale_all_dim) ** 2
    return scale


def _llama3(rope: Rope, frequency_r: Tensor) -> Tensor:
    """Long waves are stretched, short ones kept, those between blended (Llama 3.1's release)."""
    original = rope.original_positions or 1
    turns_r = original * frequency_r / (2 * math.pi)  # whole turns within the original context
    blend_r = (turns_r - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend_r = blend_r.clamp(0, 1)
    return frequency_r * (blend_r + (1 - blend_r) / rope.factor)


def _yarn(rope: Rope, frequency_r: Tensor, dims: int) -> Tensor:
    """Dims of fewer than beta_slow turns are stretched, of more than beta_fast kept (Peng et al. 2023, section 3.2)."""
    original = rope.original_positions or 1

    def dim_of(turns: float) -> float:
        return dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = max(math.floor(dim_of(rope.beta_fast)), 0), min(math.ceil(dim_of(rope.beta_slow)), dims - 1)
    ramp_r = (torch.arange(dims // 2, dtype=torch.float32) - low) / max(high - low, 0.001)
    stretched_r = ramp_r.clamp(0, 1)
    return frequency_r * (1 - stretched_r) + frequency_r / rope.factor * stretched_r
