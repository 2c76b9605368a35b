"""Keys and values in pages: what sequences that come, grow and go at different times share one memory with.

Kwon et al. 2023 (PagedAttention), section 4. `attention_decode` reads the pages where they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grainline import kernels
from grainline.documents import GrainlineError

INT8_MOST = 127


class PagedKv:
    """Pages of `page_tokens` tokens for all layers; a sequence has the same pages in each.

    Of int8 pages a token's heads have a scale each: the largest magnitude is 127.
    """

    def __init__(
        self,
        layers: int,
        pages: int,
        page_tokens: int,
        groups: int,
        key_size: int,
        value_size: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`groups`: heads of keys and values; sizes are of a head. dtype: float32, bfloat16 or int8."""
        shape = (layers, pages, page_tokens, groups)
        self.page_tokens = page_tokens
        self.k_LPNGh = torch.zeros(*shape, key_size, dtype=dtype)
        self.v_LPNGv = torch.zeros(*shape, value_size or key_size, dtype=dtype)
        self.k_scale_LPNG, self.v_scale_LPNG = (torch.zeros(shape) if dtype == torch.int8 else None for _ in range(2))
        self._free = list(range(pages))[::-1]  # the next to be given is last
        self._pages: dict[int, list[int]] = {}
        self._length: dict[int, int] = {}
        self._begun = 0

    @property
    def free_pages(self) -> int:
        """How many no sequence has."""
        return len(self._free)

    def begin(self) -> int:
        """A new, empty sequence: its number."""
        self._begun += 1
        self._pages[self._begun], self._length[self._begun] = [], 0
        return self._begun

    def length(self, sequence: int) -> int:
        """Tokens that a sequence has. Raises GrainlineError for one that isn't there."""
        if sequence not in self._length:
            raise GrainlineError(f"sequence {sequence}: there is none; it has been freed, or was never begun.")
        return self._length[sequence]

    def extend(self, sequence: int, tokens: int) -> None:
        """Room for `tokens` more, in all layers. Raises GrainlineError, and takes none, where pages run out."""
        length, held = self.length(sequence) + tokens, self._pages[sequence]
        wanted = -(-length // self.page_tokens) - len(held)
        if wanted > len(self._free):
            raise GrainlineError(
                f"sequence {sequence}: {tokens} more tokens need {wanted} more pages, and {len(self._free)} are free. "
                "Free or truncate another, or make more pages."
            )
        held += [self._free.pop() for _ in range(wanted)]
        self._length[sequence] = length

    def put(self, layer: int, sequence: int, k_SGh: Tensor, v_SGv: Tensor) -> None:
        """Write one layer's keys and values of the sequence's last S tokens."""
        length = self.length(sequence)
        if len(k_SGh) > length:
            raise GrainlineError(f"sequence {sequence}: {len(k_SGh)} tokens to write, and it has {length}; extend it.")
        token_S = torch.arange(length - len(k_SGh), length)
        page_S = torch.tensor(self._pages[sequence], dtype=torch.int64)[token_S // self.page_tokens]
        at = layer, page_S, token_S % self.page_tokens
        for new, codes, scales in (
            (k_SGh, self.k_LPNGh, self.k_scale_LPNG),
            (v_SGv, self.v_LPNGv, self.v_scale_LPNG),
        ):
            if scales is None:
                codes[at] = new.to(codes.dtype)
            else:
                scale_SG = new.float().abs().amax(-1) / INT8_MOST
                scales[at] = scale_SG
                codes[at] = (new.float() / scale_SG.clamp_min(1e-30).unsqueeze(-1)).round().to(torch.int8)

    def gather(self, layer: int, sequence: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values of a sequence as dense tensors, [length, G, …]; those of int8 pages as float32."""
        length, pages = self.length(sequence), self._pages[sequence]

        def dense(codes: Tensor, scales: Tensor | None) -> Tensor:
            found = codes[layer, pages].flatten(0, 1)[:length]
            return found if scales is None else found * scales[layer, pages].flatten(0, 1)[:length].unsqueeze(-1)

        return dense(self.k_LPNGh, self.k_scale_LPNG), dense(self.v_LPNGv, self.v_scale_LPNG)

    def truncate(self, sequence: int, length: int) -> None:
        """Forget a sequence's tokens from `length` on, and give back the pages that become empty."""
        self._length[sequence] = min(self.length(sequence), length)
        kept = -(-self._length[sequence] // self.page_tokens)
        self._free += self._pages[sequence][kept:][::-1]
        del self._pages[sequence][kept:]

    def free(self, sequence: int) -> None:
        """Forget a sequence and give back its pages."""
        self.truncate(sequence, 0)
        del self._pages[sequence], self._length[sequence]

    def table(self, sequences: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Which pages hold the sequences' tokens [B, most pages], filled up with 0, and their lengths [B]."""
        lengths = [self.length(sequence) for sequence in sequences]
        most = max((len(self._pages[sequence]) for sequence in sequences), default=0)
        rows = [self._pages[sequence] + [0] * (most - len(self._pages[sequence])) for sequence in sequences]
        return torch.tensor(rows, dtype=torch.int64).view(len(rows), most), torch.tensor(lengths, dtype=torch.int64)

    def attend(self, layer: int, q_BHh: Tensor, table_BM: Tensor, length_B: Tensor, scale: float) -> Tensor:
        """Attention of one query per sequence of `table` → [B, H, v]."""
        scales = (None if x is None else x[layer] for x in (self.k_scale_LPNG, self.v_scale_LPNG))
        return kernels.attention_decode(
            q_BHh, self.k_LPNGh[layer], self.v_LPNGv[layer], table_BM, length_B, scale, *scales
        )
