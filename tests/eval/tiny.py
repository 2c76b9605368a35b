"""A model of a few thousand parameters and a tokenizer of bytes, so that everything can be checked by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from grainline.documents import Attention, ModelConfig, Moe
from grainline.models.build import build
from grainline.models.model import Model

BOS = 256


class ByteTokenizer:
    """Ids are bytes; `pairs` are two-byte tokens that take the place of their bytes, from the left."""

    bos_token_id: int | None = BOS
    eos_token_id: int | None = None

    def __init__(self, pairs: Sequence[bytes] = ()) -> None:
        self.pairs = {pair: 257 + i for i, pair in enumerate(pairs)}

    def encode(self, text: str) -> list[int]:
        data, ids = text.encode(), []
        while data:
            pair = self.pairs.get(data[:2])
            ids.append(data[0] if pair is None else pair)
            data = data[1 if pair is None else 2 :]
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]


def tiny_model(seed: int = 0, max_positions: int = 64) -> Model:
    """Two layers, one of them sparse, with weights large enough that every token matters."""
    config = ModelConfig(
        vocab_size=300,
        hidden_size=16,
        layers=2,
        ffn_hidden=32,
        max_positions=max_positions,
        init_std=0.4,
        attention=Attention(heads=2, head_dim=8, qk_norm=True),
        moe=Moe(experts=4, top_k=2, expert_hidden=8, bias_balanced=True, dense_layers=(0,)),
    )
    return build(config, seed=seed)


def uniform_model(max_positions: int = 64) -> Model:
    """Every token is as likely as any other."""
    model = tiny_model(max_positions=max_positions)
    assert model.head is not None
    torch.nn.init.zeros_(model.head.weight)
    return model
