"""What a placement is worth, judged on a trace that it wasn't made from: loads, steps, messages, seconds, memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from grainline.documents import ModelConfig
from grainline.documents.routing_trace import RoutingTrace
from grainline.models.count import WIDTH
from grainline.plan.placement.placement import Placement
from grainline.plan.placement.ranks import ExpertRanks, Floats
from grainline.plan.placement.statistics import Statistics
from grainline.plan.placement.traffic import counted

MATRICES = 3  # of a SwiGLU expert


@dataclass(frozen=True)
class Sizes:
    """Bytes and operations behind a trace's counts."""

    vector_bytes: float  # a token on its way
    expert_bytes: float
    expert_flops: float  # of a token in one expert, forward
    context_bytes: float  # keys and values that a token leaves, of all layers

    @classmethod
    def of(cls, config: ModelConfig, dtype: str) -> Sizes:
        """Of a model in a dtype."""
        assert config.moe is not None
        width = config.moe.latent or config.hidden_size
        byte = WIDTH["float32" if dtype == "tf32" else dtype]
        weights = MATRICES * width * config.moe.expert_hidden
        a = config.attention
        if a.kind == "mla" and a.kv_rank is not None and a.rope_dim is not None:
            kept = a.kv_rank + a.rope_dim
        else:
            kept = 2 * a.key_value_heads * a.head_dim
        return cls(width * byte, weights * byte, 2.0 * weights, config.layers * kept * byte)


@dataclass(frozen=True)
class Judged:
    """Of one placement on one trace. Bytes are a token's; seconds are of a step of `batch_tokens`, forward."""

    load_L: tuple[float, ...]  # the fullest rank over the mean, of each layer
    same_rank: float  # of steps from layer to layer, which stay on their rank …
    same_node: float  # … go to another rank of the node …
    other_node: float  # … or to another node
    pair_tail_seconds: float  # Σ over layers of the slowest pair's, of steps (MoETuner's objective)
    dispatch_bytes: float  # there and back
    dispatch_node_bytes: float  # of these, between nodes
    coherent_bytes: float
    coherent_node_bytes: float
    context_bytes: float  # coherent: what is gathered by all others
    dispatch_seconds: float  # of messages
    coherent_seconds: float  # without the gathering of contexts
    expert_seconds: float  # of the fullest rank in each layer
    slots: tuple[int, ...]  # experts on each rank, over all layers
    slot_bytes: float  # of the rank with most
    batch_tokens: int

    @property
    def load(self) -> float:
        """Mean over layers of the fullest rank over the mean: how much longer experts take than if loads were even."""
        return float(np.mean(self.load_L))

    @property
    def seconds(self) -> float:
        """Experts, and messages of a plain dispatcher: what any of today's engines would take."""
        return self.expert_seconds + self.dispatch_seconds

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "load": self.load, "seconds": self.seconds}


def judge(
    placement: Placement, trace: RoutingTrace, ranks: ExpertRanks, dtype: str = "bfloat16", batch_tokens: int = 8192
) -> Judged:
    """Counted on the trace, which should be held out: not the one that the placement was decided by."""
    sizes, traffic = Sizes.of(trace.config, dtype), counted(trace, placement, ranks)
    step_LGG = steps(Statistics.of(trace), placement)
    moved = batch_tokens * sizes.vector_bytes
    apart = ranks.apart_GG
    total = step_LGG.sum() or 1.0
    same_rank, same_node, other_node = (float(step_LGG[:, apart == far].sum() / total) for far in (0, 1, 2))
    slots_G = placement.slots_BG.sum(0)
    load_LG = traffic.rows_LG / np.maximum(traffic.rows_LG.mean(1, keepdims=True), 1e-12)
    coherent_LGG = traffic.coherent_LGG + traffic.merged_LGG
    return Judged(
        load_L=tuple(load_LG.max(1).tolist()),
        same_rank=same_rank,
        same_node=same_node,
        other_node=other_node,
        pair_tail_seconds=sum(ranks.pair_seconds(moved * step_GG) for step_GG in step_LGG),
        dispatch_bytes=2 * _sent(traffic.dispatch_LGG, apart, 1) * sizes.vector_bytes,
        dispatch_node_bytes=2 * _sent(traffic.dispatch_LGG, apart, 2) * sizes.vector_bytes,
        coherent_bytes=_sent(coherent_LGG, apart, 1) * sizes.vector_bytes,
        coherent_node_bytes=_sent(coherent_LGG, apart, 2) * sizes.vector_bytes,
        context_bytes=sizes.context_bytes * (ranks.count - 1),
        dispatch_seconds=sum(
            ranks.seconds(moved * sent_GG) + ranks.seconds(moved * sent_GG.T) for sent_GG in traffic.dispatch_LGG
        ),
        coherent_seconds=sum(
            ranks.seconds(moved * sent_GG) for part in (traffic.coherent_LGG, traffic.merged_LGG) for sent_GG in part
        ),
        expert_seconds=expert_seconds(traffic.rows_LG * batch_tokens, placement, ranks, sizes),
        slots=tuple(slots_G.tolist()),
        slot_bytes=float(slots_G.max() * sizes.expert_bytes),
        batch_tokens=batch_tokens,
    )


def steps(statistics: Statistics, placement: Placement) -> Floats:
    """[L − 1, G, G]: a token's steps from rank to rank. Copies of an expert have equal shares of its load."""
    share = placement.share_BEG
    banks = statistics.banks
    return np.array(
        [share[banks[i]].T @ flow_EE @ share[banks[i + 1]] for i, flow_EE in enumerate(statistics.flow_LEE)]
    ).reshape(-1, placement.ranks, placement.ranks)


def expert_seconds(rows_LG: Floats, placement: Placement, ranks: ExpertRanks, sizes: Sizes) -> float:
    """Σ over layers of the slowest rank: its rows' operations, or reading its experts once, whichever takes longer."""
    held_LG = np.minimum(placement.slots_BG[list(placement.banks)], rows_LG)  # no more are read than there are rows
    computing_LG = rows_LG * sizes.expert_flops / ranks.flops_per_second_G
    reading_LG = held_LG * sizes.expert_bytes / ranks.memory_bytes_per_second_G
    return float(np.maximum(computing_LG, reading_LG).max(1).sum())


def _sent(vectors_LGG: Floats, apart: np.ndarray, least: int) -> float:
    return float(vectors_LGG[:, apart >= least].sum())
