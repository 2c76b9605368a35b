"""What feeds a head: a decoder of ours, or random embeddings that know nothing of order."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from grainline.models.heads.mixture import Answer, HectoHead
from grainline.models.heads.views import Views, last_of_valid, mean_of_valid
from grainline.models.model import Model


class Encoder(Protocol):
    """Token ids, padded on the right with any of them → views."""

    width: int

    def __call__(self, ids_BS: Tensor, length_B: Tensor) -> Views: ...


class DecoderEncoder(nn.Module):
    """The trunk of a decoder. It looks back only, so padding on the right changes no state before it."""

    def __init__(self, model: Model, pooled: Literal["last", "mean"] = "last", *, frozen: bool = False) -> None:
        super().__init__()
        self.model, self.pooled, self.frozen = model, pooled, frozen
        self.width = model.config.hidden_size
        model.requires_grad_(not frozen)
        for unused in (model.head, model.mtp):  # they predict tokens
            if unused is not None:
                unused.requires_grad_(False)

    def forward(self, ids_BS: Tensor, length_B: Tensor) -> Views:
        """See `Encoder`."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            states_BSD = self.model.trunk(ids_BS).hidden_BSD
        pool = last_of_valid if self.pooled == "last" else mean_of_valid
        return Views(pool(states_BSD, length_B), states_BSD, length_B)


class EmbeddingEncoder(nn.Module):
    """Fixed random embeddings. Pooled: their mean plus the first one, which may be a tag: order is in states alone."""

    def __init__(self, vocab_size: int, width: int, seed: int = 0) -> None:
        super().__init__()
        self.width = width
        drawn_VD = torch.randn(vocab_size, width, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("table_VD", drawn_VD)

    def forward(self, ids_BS: Tensor, length_B: Tensor) -> Views:
        """See `Encoder`."""
        states_BSD = self.get_buffer("table_VD")[ids_BS]
        return Views(mean_of_valid(states_BSD, length_B) + states_BSD[:, 0], states_BSD, length_B)


class Classifier(nn.Module):
    """An encoder and a head."""

    def __init__(self, encoder: DecoderEncoder | EmbeddingEncoder, head: HectoHead) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, ids_BS: Tensor, length_B: Tensor) -> Answer:
        """Ids and lengths → the head's answer."""
        answer: Answer = self.head(self.encoder(ids_BS, length_B))
        return answer
