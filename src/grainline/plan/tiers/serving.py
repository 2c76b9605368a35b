"""Serving a model from memory tiers: time to the first token, time per token, stalls and bytes, by paging its layers.

Every rank holds 1/N of every tensor. A batch's tokens go through attention, router and experts (or a dense FFN) of each
layer, with an all-reduce after either half. Weights and the cache that aren't pinned come from the pool each pass. T
tokens that choose K of E experts evenly touch E·(1 − (1 − K/E)^T) of them, and which is known after the router alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from grainline.documents import GrainlineError, ModelConfig
from grainline.models.count import (
    WIDTH,
    attention_flops_per_token,
    attention_matrices,
    attention_parameters,
    expert_parameters,
    ffn_parameters,
    kv_cache_bytes_per_token,
    parameters,
    touched_experts,
)
from grainline.plan.tiers.machine import VALUE, Machine
from grainline.plan.tiers.paging import Operator, Paged, Port, largest_window, page, worth_pinning

Routing = Literal["stall", "predicted"]
TURNS = 3  # passes that are played to see the last of them
LOCAL = Port(1e30, 1e30)  # where nothing is fetched


@dataclass(frozen=True)
class Wanted:
    """What is asked for."""

    batch: int
    context: int
    out: int
    dtype: str = "bfloat16"
    cache_dtype: str = "bfloat16"
    lookahead: int = 8
    routing: Routing = "stall"  # experts are fetched once they are known, or as if a predictor knew them
    staged: bool = True  # what is fetched is written to local memory and read from it, which takes its bandwidth twice

    def __post_init__(self) -> None:
        for key in ("batch", "context", "out"):
            if getattr(self, key) < 1:
                raise GrainlineError(f"{key} {getattr(self, key)}: must be at least 1.")
        for key in ("dtype", "cache_dtype"):
            if getattr(self, key) not in WIDTH:
                raise GrainlineError(f"{key} '{getattr(self, key)}': known are {', '.join(WIDTH)}.")


@dataclass(frozen=True)
class Work:
    """An operator of one rank before paging: products, and tensors by name."""

    name: str
    flops: float
    uses: tuple[str, ...] = ()
    writes: tuple[tuple[str, float], ...] = ()
    seconds: float = 0.0  # of a collective
    after_router: bool = False


@dataclass(frozen=True)
class Pass:
    """One pass through the model."""

    seconds: float
    compute_seconds: float  # of all operators, collectives included
    collective_seconds: float
    stall_seconds: float
    fetched_bytes: float  # of one rank
    written_bytes: float
    peak_bytes: float
    paged: Paged


@dataclass(frozen=True)
class Served:
    """What a machine does with a model."""

    machine: Machine
    wanted: Wanted
    first: Pass  # the prompts
    token: Pass  # of one token each, half way through the answers
    weight_bytes: float  # of all ranks
    cache_bytes: float
    pinned_bytes: float  # of one rank
    pinned_experts: float  # share of every layer's experts
    window_bytes: float  # of one rank: what look-ahead needs beside

    @property
    def ttft_seconds(self) -> float:
        """Until every sequence of the batch has its first token."""
        return self.first.seconds

    @property
    def tpot_seconds(self) -> float:
        """Per further token of each sequence."""
        return self.token.seconds


def serve(config: ModelConfig, machine: Machine, wanted: Wanted) -> Served:
    """Raises GrainlineError where weights and cache don't fit, or a layer doesn't fit into local memory."""
    weights = parameters(config).total * WIDTH[wanted.dtype]
    cache = wanted.batch * (wanted.context + wanted.out) * kv_cache_bytes_per_token(config, wanted.cache_dtype)
    _check_room(machine, weights, cache)
    tokens = wanted.batch
    kept = _kept(config, machine, wanted)
    first = _pass(config, machine, wanted, kept, tokens * wanted.context, wanted.context / 2, prefill=True)
    token = _pass(config, machine, wanted, kept, tokens, wanted.context + wanted.out / 2)
    pinned = sum(kept.sizes[name] for name in kept.names) + kept.experts * kept.expert_bytes
    return Served(machine, wanted, first, token, weights, cache, pinned, kept.experts, kept.window)


def _check_room(machine: Machine, weights: float, cache: float) -> None:
    need = weights + cache
    if machine.pool is not None:
        room, where = float(machine.pool.memory.capacity_bytes), f"the pool '{machine.pool.memory.name}'"
    else:
        room, where = machine.local_bytes * machine.ranks, f"the {machine.ranks} devices"
    if need > room:
        raise GrainlineError(
            f"weights of {weights / 1e9:,.1f} GB and a cache of {cache / 1e9:,.1f} GB (batch × (context + out)) "
            f"are more than the {room / 1e9:,.1f} GB of {where}. Lower batch, context or out, take a narrower dtype, "
            "or more memory."
        )


@dataclass(frozen=True)
class _Kept:
    """What stays in local memory for good: tensors by name, and a share of every layer's experts."""

    names: frozenset[str]
    experts: float
    sizes: dict[str, float]
    expert_bytes: float  # of all, of one rank
    window: float


def _kept(config: ModelConfig, machine: Machine, wanted: Wanted) -> _Kept:
    """By bytes that a token's pass saves for each byte held: dense tensors and cache first, then experts."""
    context = wanted.context + wanted.out
    work, sizes = _works(config, machine, wanted, wanted.batch, context)
    _, prompt = _works(config, machine, wanted, wanted.batch * wanted.context, context, prefill=True)
    sizes = {name: max(size, prompt[name]) for name, size in sizes.items()}  # prompts touch more experts
    moe = config.moe
    sparse = sum(config.is_sparse(layer) for layer in range(config.layers))
    every = (
        0.0 if moe is None else sparse * moe.experts * expert_parameters(config) * WIDTH[wanted.dtype] / machine.ranks
    )
    dense = {name: size for name, size in sizes.items() if not name.startswith("experts")}
    if machine.pool is None:
        return _Kept(frozenset(dense), 1.0, sizes, every, 0.0)
    budget = machine.local_bytes
    operators = [Operator(one.name, 0.0, one.uses) for one in work]
    window, _ = largest_window(operators, sizes, wanted.lookahead)
    names = worth_pinning(dict.fromkeys(dense, 1.0), sizes, max(budget - window, 0.0))
    share = 0.0
    if names == dense.keys() and every:
        rest = [replace(one, uses=tuple(n for n in one.uses if n not in names)) for one in operators]
        window, _ = largest_window(rest, sizes, wanted.lookahead)
        left = budget - sum(dense.values()) - window
        share = min(max(left / (every - window), 0.0), 1.0) if every > window else 1.0
    return _Kept(names, share, sizes, every, window * (1 - share))


def _pass(
    config: ModelConfig,
    machine: Machine,
    wanted: Wanted,
    kept: _Kept,
    tokens: float,
    context: float,
    *,
    prefill: bool = False,
) -> Pass:
    """A pass after others like it; a prefill is the first."""
    work, sizes = _works(config, machine, wanted, tokens, context, prefill=prefill)
    sizes = {n: size * (1 - kept.experts) if n.startswith("experts") else size for n, size in sizes.items()}
    if machine.pool is None:
        sizes = {name: (0.0 if name.startswith("experts") else size) for name, size in sizes.items()}
    turns = 1 if prefill else TURNS
    volatile = frozenset(name for name in sizes if name.startswith("experts"))
    experts = _touched_bytes(config, machine, wanted, tokens)
    routers = {i for i, one in enumerate(work) if one.name.startswith("router")}

    def operators(fetched: list[float]) -> list[Operator]:
        found: list[Operator] = []
        for number in range(turns * len(work)):
            i = number % len(work)
            one = work[i]
            read = sum(sizes[name] for name in one.uses)
            if one.after_router:
                read = experts
            brought = fetched[number]
            local = read - brought + (2 * brought if wanted.staged else 0.0)
            seconds = max(one.flops / machine.flops_per_second, local / machine.local_bytes_per_second) + one.seconds
            known = number - 1 if one.after_router and wanted.routing == "stall" and i - 1 in routers else None
            made = tuple(name for name in one.uses if prefill and name.startswith("cache"))
            found.append(Operator(one.name, seconds, one.uses, dict(one.writes), known, made))
        return found

    if machine.pool is None:
        budget, port, pins = float("inf"), LOCAL, frozenset(sizes)
    else:
        budget = machine.local_bytes - kept.experts * kept.expert_bytes
        port, pins = machine.port(), kept.names
    keys = {"budget_bytes": budget, "lookahead": wanted.lookahead, "pinned": pins, "volatile": volatile}
    nothing = [0.0] * (turns * len(work))
    # What is fetched doesn't depend on seconds, and seconds depend on what is fetched.
    plan = page(operators(nothing), sizes, port, **keys)  # type: ignore[arg-type]
    paged = page(operators(plan.fetched_bytes.tolist()), sizes, port, **keys)  # type: ignore[arg-type]
    last = len(work) * turns
    begin = last - len(work)
    mine = paged.operators[begin:last]
    return Pass(
        paged.seconds(begin, last - 1),
        sum(one.seconds for one in mine),
        sum(one.seconds for one in work),
        float(paged.stall_seconds[begin:last].sum()),
        float(paged.fetched_bytes[begin:last].sum()),
        paged.written_bytes / turns,
        paged.peak_bytes + (kept.experts * kept.expert_bytes if machine.pool is not None else kept.expert_bytes),
        paged,
    )


def _touched_bytes(config: ModelConfig, machine: Machine, wanted: Wanted, tokens: float) -> float:
    moe = config.moe
    if moe is None:
        return 0.0
    touched = touched_experts(moe.experts, moe.top_k, tokens)
    return touched * expert_parameters(config) * WIDTH[wanted.dtype] / machine.ranks


def _works(
    config: ModelConfig, machine: Machine, wanted: Wanted, tokens: float, context: float, *, prefill: bool = False
) -> tuple[list[Work], dict[str, float]]:
    """Operators of one rank in their order, and its share of every tensor."""
    n, width, size = machine.ranks, WIDTH[wanted.dtype], config.hidden_size
    reduced = machine.all_reduce_seconds(tokens * size * VALUE)
    held = tokens if prefill else wanted.batch * context  # positions in the cache
    per_layer = kv_cache_bytes_per_token(config, wanted.cache_dtype) / config.layers / n
    scores = tokens * attention_flops_per_token(config, context) / n
    works: list[Work] = []
    sizes: dict[str, float] = {}
    for layer in range(config.layers):
        attention, cache = f"attention {layer}", f"cache {layer}"
        sizes[attention] = attention_parameters(config) * width / n
        sizes[cache] = held * per_layer
        flops = 2 * tokens * attention_matrices(config) / n + scores
        works.append(Work(attention, flops, (attention, cache), ((cache, tokens * per_layer),)))
        works.append(Work(f"all-reduce {layer}a", 0.0, seconds=reduced))
        total, active = ffn_parameters(config, layer)
        if config.is_sparse(layer) and config.moe is not None:
            one = expert_parameters(config)
            always = total - config.moe.experts * one
            router, experts = f"router {layer}", f"experts {layer}"
            sizes[router] = always * width / n
            sizes[experts] = _touched_bytes(config, machine, wanted, tokens)
            works.append(Work(router, 2 * tokens * always / n, (router,)))
            works.append(Work(experts, 2 * tokens * (active - always) / n, (experts,), after_router=True))
        else:
            sizes[f"ffn {layer}"] = total * width / n
            works.append(Work(f"ffn {layer}", 2 * tokens * total / n, (f"ffn {layer}",)))
        works.append(Work(f"all-reduce {layer}b", 0.0, seconds=reduced))
    head = config.vocab_size * size
    sizes["head"] = head * width / n
    works.append(Work("head", 2 * wanted.batch * head / n, ("head",)))
    return works, sizes
