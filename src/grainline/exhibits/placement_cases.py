"""What the exhibits of expert placement share: synthetic chains of experts, and traces of small models trained here."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np

from grainline.documents import ModelConfig, Moe, Recipe
from grainline.documents.routing_trace import RoutingTrace
from grainline.exhibits.frame import Scale
from grainline.exhibits.small_models import peak_rate, recipe, small_model
from grainline.exhibits.training import trained
from grainline.plan.placement import Placement, Statistics
from grainline.plan.placement.judge import steps
from grainline.plan.placement.ranks import ExpertRanks

CONCENTRATION, MIXED = 0.3, 0.1
"""Successors of an expert are a Dirichlet draw, mixed with so much of equal shares."""


def chain(layers: int, experts: int, seed: int) -> Statistics:
    """A Markov chain of experts that begins evenly."""
    rng = np.random.default_rng(seed)
    loads, flows = [np.full(experts, 1 / experts)], []
    for _ in range(layers - 1):
        flows.append(loads[-1][:, None] * _rows(rng, experts))
        loads.append(flows[-1].sum(0))
    return Statistics(np.array(loads), np.array(flows), tuple(range(layers)), 10**6)


def skewed_chain(layers: int, experts: int, skew: float, seed: int) -> Statistics:
    """The same with loads of each layer drawn from a Dirichlet of concentration `skew`; flows are scaled to them."""
    rng = np.random.default_rng(seed)
    load_LE = rng.dirichlet(np.full(experts, skew), size=layers)
    flows = []
    for here, there in itertools.pairwise(load_LE):
        flow = _rows(rng, experts)
        for _ in range(200):  # rows and columns in turn until both fit
            flow *= (here / flow.sum(1))[:, None]
            flow *= there / flow.sum(0)
        flows.append(flow)
    return Statistics(load_LE, np.array(flows), tuple(range(layers)), 10**6)


def _rows(rng: np.random.Generator, experts: int) -> np.ndarray:
    return (1 - MIXED) * rng.dirichlet(np.full(experts, CONCENTRATION), size=experts) + MIXED / experts


def tail_load(statistics: Statistics, placement: Placement) -> float:
    """The fullest rank over the mean, averaged over layers."""
    rows_LG = np.stack([statistics.load_LE[i] @ placement.share_BEG[bank] for i, bank in enumerate(statistics.banks)])
    return float((rows_LG.max(1) / rows_LG.mean(1)).mean())


def tail_traffic(statistics: Statistics, placement: Placement, ranks: ExpertRanks) -> float:
    """Σ over layers of the slowest pair's time, in any unit."""
    return float(sum(ranks.pair_seconds(step_GG) for step_GG in steps(statistics, placement)))


def crossing_share(statistics: Statistics, placement: Placement) -> float:
    """Of steps from layer to layer, those to another rank."""
    step_LGG = steps(statistics, placement)
    return float(1 - np.trace(step_LGG.sum(0)) / step_LGG.sum())


@cache
def model(top_k: int, layers: int = 6, experts: int = 8) -> ModelConfig:
    """A small model of sparse layers alone, with Mixtral's kind of router."""
    moe = Moe(experts=experts, top_k=top_k, expert_hidden=128, router="softmax-topk", normalize=top_k > 1)
    return small_model(layers, 128, moe)


def recipes(name: str, top_k: int, scale: Scale) -> list[Recipe]:
    """Of a run for each seed."""
    config = model(top_k)
    return [recipe(name, config, scale, seed, peak_rate(scale, config)) for seed in scale.seeds]


def traces(name: str, top_k: int, scale: Scale) -> list[RoutingTrace]:
    """Routing of the trained models on text that was held out of their training, a trace for each seed."""
    from grainline.data.packed import validation_documents
    from grainline.models.loading import load
    from grainline.models.trace import trace_of_texts
    from grainline.train.corpus import PACKED

    found = []
    for run in trained(recipes(name, top_k, scale), scale):
        loaded, tokenizer = load(run.model, dtype="float32")
        texts = (document.text for document in validation_documents(scale.folder / "data" / PACKED))
        tokens = scale.pick(full=20_000, quick=2000)
        found.append(trace_of_texts(loaded, tokenizer, texts, tokens, loaded.config.max_positions))
    return found
