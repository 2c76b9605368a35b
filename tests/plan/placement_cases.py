"""Chains of experts to place, and ranks to place them on."""

from __future__ import annotations

import numpy as np

from grainline.documents import Attention, ModelConfig, Moe
from grainline.documents.routing_trace import RoutingTrace
from grainline.plan.placement import ExpertRanks, Statistics, ranks_between


def chain(layers: int, experts: int, seed: int, banks: tuple[int, ...] | None = None) -> Statistics:
    """Unlike loads, and few likely successors for each expert."""
    rng = np.random.default_rng(seed)
    loads, flows = [rng.dirichlet(np.full(experts, 2.0))], []
    for _ in range(layers - 1):
        rows = 0.9 * rng.dirichlet(np.full(experts, 0.3), size=experts) + 0.1 / experts
        flows.append(loads[-1][:, None] * rows)
        loads.append(flows[-1].sum(0))
    flow = np.array(flows).reshape(-1, experts, experts)
    return Statistics(np.array(loads), flow, banks or tuple(range(layers)), 100_000)


def even(ranks: int) -> ExpertRanks:
    """One node."""
    return ranks_between([0] * ranks, np.ones((ranks, ranks)))


def two_nodes(ranks: int, slower: float = 9.0) -> ExpertRanks:
    """Half of the ranks in each; between nodes messages are so many times slower."""
    node = np.arange(ranks) // (ranks // 2)
    return ranks_between(node.tolist(), np.where(node[:, None] == node, 1.0, 1.0 / slower))


def config(layers: int = 3, experts: int = 4, top_k: int = 1, **moe: object) -> ModelConfig:
    """A model of this many sparse layers."""
    sparse = Moe.model_validate({"experts": experts, "top_k": top_k, "expert_hidden": 16, **moe})
    return ModelConfig(
        family="grainline",
        vocab_size=64,
        hidden_size=16,
        layers=layers,
        ffn_hidden=32,
        max_positions=32,
        attention=Attention(heads=2, head_dim=8),
        moe=sparse,
    )


def trace_of(chain: Statistics, tokens: int, seed: int, length: int = 50) -> RoutingTrace:
    """Tokens drawn from a chain, one expert each, in sequences of `length`."""
    rng = np.random.default_rng(seed)
    expert_TL = np.zeros((tokens, chain.layers), np.int32)
    expert_TL[:, 0] = rng.choice(chain.experts, size=tokens, p=chain.load_LE[0] / chain.load_LE[0].sum())
    for layer, flow_EE in enumerate(chain.flow_LEE):
        cumulative = (flow_EE / flow_EE.sum(1, keepdims=True)).cumsum(1)
        draw = rng.random((tokens, 1))
        next_T = (cumulative[expert_TL[:, layer]] < draw).sum(1)
        expert_TL[:, layer + 1] = np.minimum(next_T, chain.experts - 1)
    sequence_T = (np.arange(tokens) // length).astype(np.int32)
    model = config(chain.layers, chain.experts)
    return RoutingTrace(expert_TL[:, :, None], sequence_T, tuple(range(chain.layers)), model, "0" * 16)
