"""Compressed convolutional attention (arXiv 2510.04476), as in ZAYA1 (arXiv 2511.17127).

All of attention happens in the width of its heads, which is less than the model's. What the narrow q and k lack, two
short causal convolutions over time make up for: one of each channel, one that mixes the channels of a head. Half of the
values come from the token before. A are the heads of q and k together, C their channels, K the positions that a
convolution sees, x a head's dims times those.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grainline import kernels
from grainline.documents import ModelConfig
from grainline.models.attention.cache import Cache
from grainline.models.attention.mask import Mask
from grainline.models.attention.rope import RopeTable, apply_rope
from grainline.models.layers import Linear


class CompressedConvolutionalAttention(nn.Module):
    """H heads of queries share G of keys and values; q and k are convolved, mixed with each other, and normalised.

    Before the first position there are zeros in front of both convolutions together, so that the second one sees the
    first one's biases there. At the start of a document it is the same: nothing of another one leaks in.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        a, size = config.attention, config.hidden_size
        self.heads, self.head_dim, self.interleaved = a.heads, a.head_dim, a.rope.interleaved
        self.kernels, self.reach, self.scale = a.conv_kernels, a.conv_reach, a.head_dim**-0.5
        queries, keys = a.heads * a.head_dim, a.key_value_heads * a.head_dim
        self.q = Linear(size, queries, bias=a.bias)
        self.k = Linear(size, keys, bias=a.bias)
        self.v = Linear(size, keys // 2, bias=a.bias)
        self.v_before = Linear(size, keys // 2, bias=a.bias)
        channels, (of_channel, of_head) = a.conv_channels, a.conv_kernels
        self.depthwise_CK = nn.Parameter(torch.empty(channels, of_channel))
        self.depthwise_bias_C = nn.Parameter(torch.empty(channels))
        # A matrix per head, so that it can be orthogonalised as one.
        self.grouped_Ahx = nn.Parameter(torch.empty(channels // a.head_dim, a.head_dim, a.head_dim * of_head))
        self.grouped_bias_C = nn.Parameter(torch.empty(channels))
        self.temperature_G = nn.Parameter(torch.empty(a.key_value_heads))
        self.o = Linear(queries, size, bias=a.output_bias)

    def forward(self, x_BSD: Tensor, rope: RopeTable, mask: Mask, cache: Cache | None = None) -> Tensor:
        """[B, S, D] → [B, S, D]; a cache is read and grown in place."""
        rows_BC, before_BX = cache.tail if cache is not None and cache.tail else (None, None)
        q_BSX, k_BSX = self.q(x_BSD), self.k(x_BSD)
        qk_BSC, late_BSX = torch.cat((q_BSX, k_BSX), dim=-1), self.v_before(x_BSD)
        if rows_BC is None or before_BX is None:
            rows_BC = qk_BSC.new_zeros(qk_BSC.shape[0], self.reach, qk_BSC.shape[-1])
            before_BX = late_BSX.new_zeros(late_BSX.shape[0], 1, late_BSX.shape[-1])
            if self.v_before.bias is not None:  # of a state of zeros
                before_BX = before_BX + self.v_before.bias.to(before_BX.dtype)
        seen_BTC = torch.cat((rows_BC, qk_BSC), dim=1)
        if cache is not None:
            cache.tail = (seen_BTC[:, qk_BSC.shape[1] :].clone(), late_BSX[:, -1:].clone())
        q_BSHh, k_BSGh = self._mixed(q_BSX, k_BSX, self._convolved(seen_BTC, mask.document_BS))
        v_BSGh = self._values(self.v(x_BSD), late_BSX, before_BX, mask.document_BS)
        q_BSHh, k_BSGh = (apply_rope(x, rope, self.interleaved) for x in (q_BSHh, k_BSGh))
        if cache is not None:
            k_BSGh, v_BSGh = cache.append(k_BSGh, v_BSGh)
        out_BSHh = kernels.attention(q_BSHh, k_BSGh, v_BSGh, mask.allowed, mask.causal, self.scale)
        return self.o(out_BSHh.flatten(-2))

    def _convolved(self, seen_BTC: Tensor, document_BS: Tensor | None) -> Tensor:
        """Both convolutions over rows with `reach` earlier ones in front [B, T, C] → [B, S, C]."""
        document_BT = None if document_BS is None else nn.functional.pad(document_BS, (self.reach, 0), value=-1)
        of_channel, of_head = self.kernels
        bias_C, nothing = self.depthwise_bias_C.to(seen_BTC.dtype), seen_BTC.new_zeros(())
        weight_CK, weight_Ahx = self.depthwise_CK.to(seen_BTC.dtype), self.grouped_Ahx.to(seen_BTC.dtype)
        out_BTC = bias_C
        for j, tap_BTC in enumerate(_taps(seen_BTC, of_channel, document_BT, nothing)):
            out_BTC = torch.addcmul(out_BTC, tap_BTC, weight_CK[:, j])
        document_BT = None if document_BT is None else document_BT[:, of_channel - 1 :]
        taps_BSCK = torch.stack(_taps(out_BTC, of_head, document_BT, bias_C), dim=-1)
        x_BSAx = taps_BSCK.flatten(-2).unflatten(-1, (len(weight_Ahx), -1))
        mixed_BSAh = torch.einsum("bsax,aox->bsao", x_BSAx, weight_Ahx)
        return mixed_BSAh.flatten(-2) + self.grouped_bias_C.to(seen_BTC.dtype)

    def _mixed(self, q_BSX: Tensor, k_BSX: Tensor, convolved_BSC: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys: the convolved ones, plus the mean of each query with its key, at length √h."""
        q_BSGnh = q_BSX.unflatten(-1, (-1, self.heads * self.head_dim // k_BSX.shape[-1], self.head_dim))
        k_BSGh = k_BSX.unflatten(-1, (-1, self.head_dim))
        mean_BSGnh = (q_BSGnh + k_BSGh.unsqueeze(-2)) * 0.5
        convolved_BSAh = convolved_BSC.unflatten(-1, (-1, self.head_dim))
        q_BSHh = convolved_BSAh[:, :, : self.heads] + mean_BSGnh.flatten(2, 3)
        k_BSGh = convolved_BSAh[:, :, self.heads :] + mean_BSGnh.mean(-2)
        return _of_length_root_h(q_BSHh), _of_length_root_h(k_BSGh) * self.temperature_G.to(k_BSX.dtype).unsqueeze(-1)

    def _values(self, now_BSX: Tensor, late_BSX: Tensor, before_BX: Tensor, document_BS: Tensor | None) -> Tensor:
        """The first half of all values from the token itself, the second from the one before it: [B, S, G, h]."""
        delayed_BSX = torch.cat((before_BX, late_BSX[:, :-1]), dim=1)
        if document_BS is not None:
            first_BS = nn.functional.pad(document_BS[:, 1:] != document_BS[:, :-1], (1, 0))
            delayed_BSX = torch.where(first_BS.unsqueeze(-1), before_BX, delayed_BSX)
        return torch.cat((now_BSX, delayed_BSX), dim=-1).unflatten(-1, (-1, self.head_dim))


def _taps(x_BTC: Tensor, count: int, document_BT: Tensor | None, outside: Tensor) -> list[Tensor]:
    """What a convolution of `count` positions sees at each place, the earliest first: [B, T − count + 1, C] each.

    Where a position belongs to another document it is `outside`.
    """
    length = x_BTC.shape[1] - count + 1
    taps = [x_BTC[:, j : j + length] for j in range(count)]
    if document_BT is None:
        return taps
    own_BS = document_BT[:, count - 1 :]
    same = [own_BS == document_BT[:, j : j + length] for j in range(count)]
    return [torch.where(s.unsqueeze(-1), tap, outside) for s, tap in zip(same, taps, strict=True)]


def _of_length_root_h(x_BSHh: Tensor) -> Tensor:
    """√h · x / |x| over the last dimension."""
    size = x_BSHh.shape[-1]
    smallest = torch.finfo(x_BSHh.dtype).eps ** 2 / size  # of the mean square: shorter vectors stay short
    return kernels.rms_norm(x_BSHh, x_BSHh.new_ones(size), smallest)
