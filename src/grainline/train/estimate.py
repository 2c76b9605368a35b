"""What a run will need, before it starts: memory, disk and time, by formula. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from grainline.documents import ModelConfig, Recipe
from grainline.models.count import flops_per_token, parameters
from grainline.train.learning_rate import merge_steps

FLOAT32 = 4

LONGEST_WRITTEN_SCORES = 512
"""Sequences up to which `kernels.short_attention` takes over."""
UTILISATION = 0.4
"""Share of the measured matmul rate that training is taken to reach; a run's own is the `mfu` in its metrics."""

SCRATCH_BYTES = 4 * FLOAT32 << 25
"""What Muon needs at most beside its state, for one batch of matrices."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    working: int  # copies in the compute dtype, the output layer's gradient, the optimiser's scratch

    @property
    def total(self) -> int:
        """All at the same time: at the end of a backward pass."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.working


@dataclass(frozen=True)
class Disk:
    """Bytes under the run's folder."""

    checkpoints: int
    weights: int  # best, wsm window, and the models at the end
    data: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.checkpoints + self.weights + self.data


@dataclass(frozen=True)
class Estimate:
    """Memory, disk and time of a run."""

    parameters: int
    active_parameters: int
    tokens: int
    flops: float
    memory: Memory
    disk: Disk
    seconds: float | None  # None where no matmul rate is known
    tokens_per_second: float | None

    def at(self, tokens_per_second: float) -> Estimate:
        """The same at a speed that was measured."""
        return replace(self, tokens_per_second=tokens_per_second, seconds=self.tokens / tokens_per_second)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; totals included."""
        values = asdict(self)
        values["memory"]["total"] = self.memory.total
        values["disk"]["total"] = self.disk.total
        return values


def estimate(
    recipe: Recipe,
    config: ModelConfig,
    *,
    micro_batch_sequences: int,
    compute: str,
    recompute: bool,
    ranks: int,
    stages: int = 1,
    sharded: bool,
    data_bytes: int,
    flops_per_second: float | None,
) -> Estimate:
    """`flops_per_second` is the measured matmul rate of all ranks together; `data_bytes` the packed data's size.

    A pipeline of so many `stages` is taken to be cut evenly, and to hold as many micro-batches as ranks (1F1B).
    """
    count = parameters(config)
    total = count.total + count.mtp
    tables = count.embedding + count.head
    per_value = 1 if recipe.optimizer.kind == "muon" else 2
    state = FLOAT32 * (per_value * (total - tables) + 2 * tables)
    shares = ranks if sharded else stages
    tokens = micro_batch_sequences * recipe.data.sequence_length
    memory = Memory(
        parameters=FLOAT32 * total // shares,
        gradients=FLOAT32 * total // shares,
        optimizer=state // shares,
        activations=tokens * activation_bytes_per_token(config, recipe.data.sequence_length, compute, recompute),
        working=_working_bytes(config, total // stages, compute) + min(SCRATCH_BYTES, 4 * FLOAT32 * total),
    )
    weights = FLOAT32 * total
    merged = len(merge_steps(recipe.learning_rate, recipe.training.steps))
    all_tokens = recipe.training.steps * recipe.training.batch_tokens
    flops = all_tokens * flops_per_token(config, recipe.data.sequence_length, mtp=1 / recipe.loss.mtp_every)
    seconds = flops / (UTILISATION * flops_per_second) if flops_per_second else None
    return Estimate(
        parameters=total,
        active_parameters=count.active,
        tokens=all_tokens,
        flops=flops,
        memory=memory,
        disk=Disk(
            checkpoints=(recipe.checkpoint.keep + 1) * (weights + state),  # one more while it is being written
            weights=weights * (2 + merged + (3 if merged else 2)),
            data=data_bytes,
        ),
        seconds=seconds,
        tokens_per_second=all_tokens / seconds if seconds else None,
    )


def activation_bytes_per_token(config: ModelConfig, sequence_length: int, compute: str, recompute: bool) -> int:
    """Kept between forward and backward for each token of a micro-batch: a tally of what each layer saves.

    tests/train/test_estimate.py holds it against what autograd saves, within a quarter.
    """
    size, width = config.hidden_size, 2 if compute == "bfloat16" else 4
    layers = [_block_bytes(config, layer, sequence_length, width) for layer in range(config.layers + config.mtp_depth)]
    # A norm keeps its normalised input, and what follows it keeps its output; the loss keeps its gradient.
    ends = (3 + (9 if config.mtp_depth else 0)) * size * width
    if recompute:
        return len(layers) * size * width + max(layers) + ends
    return sum(layers) + ends


def _block_bytes(config: ModelConfig, layer: int, sequence_length: int, width: int) -> int:
    norms = 4 * config.hidden_size * width
    return norms + _attention_bytes(config, sequence_length, width) + _ffn_bytes(config, layer, width)


def _attention_bytes(config: ModelConfig, sequence_length: int, width: int) -> int:
    a = config.attention
    if a.kind == "mla":
        assert a.kv_rank and a.rope_dim and a.value_dim
        q, out = a.heads * (a.head_dim + a.rope_dim), a.heads * a.value_dim
        values = 3 * q + 3 * out + 2 * ((a.q_rank or 0) + a.kv_rank)
    else:
        q, kv = a.heads * a.head_dim, a.key_value_heads * a.head_dim
        values = 3 * q + 2 * kv + (q + kv if a.qk_norm else 0)
    # On short sequences in bfloat16 the attention of CPUs writes its scores out.
    scores = a.heads * sequence_length if width == 2 and sequence_length <= LONGEST_WRITTEN_SCORES else 0
    return (values + scores) * width


def _ffn_bytes(config: ModelConfig, layer: int, width: int) -> int:
    moe = config.moe
    if moe is None or not config.is_sparse(layer):
        return 4 * config.ffn_hidden * width
    indices = 32 * moe.top_k
    router = 4 * (5 * moe.experts + (config.hidden_size if width == 2 else 0))  # in float32
    routed = moe.top_k * 2 * (config.hidden_size + moe.expert_hidden)
    return indices + router + (routed + 4 * moe.shared_width) * width


def _working_bytes(config: ModelConfig, total: int, compute: str) -> int:
    heads = 1 + config.mtp_depth
    copies = 2 * total if compute == "bfloat16" else 0
    return copies + heads * FLOAT32 * config.vocab_size * config.hidden_size
