"""What a sparse layer asks for one token: FFNs, and bytes through an all-to-all if its experts were on other ranks."""

from __future__ import annotations

from dataclasses import dataclass

from grainline.documents import ModelConfig
from grainline.models.count import WIDTH

WAYS = 2
"""There and back: a forward's all-to-alls. A backward's are as many."""


@dataclass(frozen=True)
class ExpertWork:
    """Of one token and one sparse layer, with loads as its document has them; shares are of a plain layer's, whose K
    choices all fall on FFNs and whose tokens travel D wide.
    """

    ffns_per_token: float  # K·s
    cost: float  # s
    sent_bytes: float  # of a forward, there and back, were all chosen experts elsewhere
    sent_share: float  # s·r


def expert_work(config: ModelConfig, dtype: str = "bfloat16") -> ExpertWork | None:
    """None where there are no experts. MoE++ has s < 1 (arXiv 2410.07348), BigMac r < 1 (arXiv 2502.16927)."""
    moe = config.moe
    if moe is None or not config.sparse_layers:
        return None
    rows, width = moe.top_k * moe.ffn_share, moe.latent or config.hidden_size
    return ExpertWork(
        ffns_per_token=rows,
        cost=moe.ffn_share,
        sent_bytes=WAYS * rows * width * WIDTH["float32" if dtype == "tf32" else dtype],
        sent_share=moe.ffn_share * width / config.hidden_size,
    )
