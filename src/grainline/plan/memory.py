"""What a cell takes of memory: activations kept for the backward, what it sends on, its parameters and their state.

Counts follow grainline's own blocks (models/blocks.py, kernels/): what autograd keeps there, tensor by tensor.
tests/plan/test_cost.py holds them against what it really keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from grainline.documents import ModelConfig
from grainline.models.count import (
    WIDTH,
    attention_matrices,
    attention_parameters,
    expert_parameters,
    ffn_parameters,
    kept_by_experts,
    router_parameters,
    scaling_parameters,
)
from grainline.schedule.cells import Cell

PARAMETER = 4  # bytes: parameters, their gradients and the optimiser's state are float32
INDEX = 8  # bytes of an id or a place

OptimizerKind = Literal["muon", "adamw"]
TABLES = ("embedding", "head")  # parameters with a row for each token of the vocabulary

LONGEST_WRITTEN_SCORES = 512
"""Sequences up to which attention on CPUs in bfloat16 writes its scores out (kernels/short_attention.py)."""


@dataclass(frozen=True)
class MicroBatch:
    """What passes through a stage at once, and the dtype that it is computed in."""

    sequences: int
    length: int  # tokens of a sequence
    compute: str = "bfloat16"
    mtp_every: int = 1  # MTP learns from one sequence in so many
    writes_scores: bool = False  # attention keeps its scores, as on CPUs in bfloat16
    fuses_experts: bool = False  # routed experts run in the compiled core, as on CPUs

    @property
    def tokens(self) -> int:
        """In all sequences."""
        return self.sequences * self.length

    @property
    def width(self) -> int:
        """Bytes of a value that is computed with."""
        return int(WIDTH["float32" if self.compute == "tf32" else self.compute])

    def tokens_of(self, cell: Cell) -> float:
        """Tokens that pass through a cell: MTP sees a share of them, on average."""
        return self.tokens / (self.mtp_every if cell.kind in ("mtp", "mtp_head") else 1)

    @property
    def casts(self) -> bool:
        """Whether weights are made narrower for each pass."""
        return self.width != PARAMETER


def stream_width(config: ModelConfig, batch: MicroBatch) -> int:
    """Bytes of a value of the stream: float32 where the residual is scaled."""
    return max(batch.width, PARAMETER) if config.residual_scaling else batch.width


def output_bytes(config: ModelConfig, cell: Cell, batch: MicroBatch) -> float:
    """What goes on to the next cell: hidden states; after MTP's block its own as well, nothing after the head."""
    hidden = stream_width(config, batch) * config.hidden_size * float(batch.tokens)
    match cell.kind:
        case "dense" | "moe":  # a dense block hands on what a router before it left
            carries = config.moe and any(layer <= cell.layer for layer in config.sparse_layers)
            return hidden + (PARAMETER * config.moe.carry_width * float(batch.tokens) if config.moe and carries else 0)
        case "head":
            return 0.0
        case "mtp":
            return hidden + batch.width * config.hidden_size * batch.tokens_of(cell)
    return hidden


def input_bytes(config: ModelConfig, cell: Cell, batch: MicroBatch) -> float:
    """What a cell must be given to be computed again."""
    if cell.kind == "embedding":
        return INDEX * float(batch.tokens)
    further = batch.tokens_of(cell) if cell.kind == "mtp_head" else 0.0
    carry = PARAMETER * config.moe.carry_width if config.moe and config.takes_carry(cell.layer) else 0
    return stream_width(config, batch) * config.hidden_size * (batch.tokens + further) + carry * batch.tokens


def kept_bytes(config: ModelConfig, cell: Cell, batch: MicroBatch) -> float:
    """What the forward of one micro-batch keeps for its backward, copies of weights in the compute dtype included."""
    size, width = config.hidden_size, batch.width
    tokens = batch.tokens_of(cell)
    match cell.kind:
        case "embedding":
            return tokens * (INDEX + (size * width if config.residual_scaling else 0))
        case "dense" | "moe":
            return tokens * _block(config, cell.layer, batch) + _copies(config, cell.layer, batch)
        case "mtp":
            # The trunk's norm keeps its normalised input for all tokens. For MTP's share: three norms, the projection's
            # input of 2·D, and the ids of the tokens that follow.
            norm = batch.tokens * (size * width + width)
            per_token = _block(config, config.layers, batch) + 5 * size * width + INDEX
            projection = 2 * size * size * width if batch.casts else 0
            return norm + tokens * per_token + _copies(config, config.layers, batch) + projection
        case "mtp_head":
            return tokens * size * width + config.vocab_size * size * PARAMETER
    norm = 0 if config.mtp_depth else size * width  # else it is MTP's cell that has it
    # The output layer makes its gradients in the forward: of its input, and of its weights.
    return tokens * (norm + size * width) + config.vocab_size * size * PARAMETER


def queued_bytes(config: ModelConfig, cell: Cell, batch: MicroBatch) -> float:
    """What the weights' gradients need: the input and the output's gradient of each matrix product."""
    size, width = config.hidden_size, batch.width
    tokens = batch.tokens_of(cell)
    match cell.kind:
        case "embedding":
            return tokens * (INDEX + size * width)
        case "dense" | "moe":
            return tokens * width * _products(config, cell.layer)
        case "mtp":
            return tokens * width * (_products(config, config.layers) + 3 * size)
    return float(config.vocab_size * size * PARAMETER)  # made already, to be added


def parameters_of(config: ModelConfig, cell: Cell) -> dict[str, int]:
    """Parameters that a cell works with, by name: what two cells of one rank have in common is there once."""
    size = config.hidden_size
    table = config.vocab_size * size
    head = {"embedding" if config.tie_embeddings else "head": table}
    match cell.kind:
        case "embedding":
            return {"embedding": table} | ({"embedding_scaling": 2 * size} if config.residual_scaling else {})
        case "dense" | "moe":
            return {cell.name: _block_parameters(config, cell.layer)} | _bank(config, cell.layer)
        case "mtp":
            block = _block_parameters(config, config.layers) + 2 * size * size + 3 * size
            return {"mtp": block, "norm": size, "embedding": table} | _bank(config, config.layers)
        case "mtp_head":
            return head
    return head if config.mtp_depth else {"norm": size, **head}


@dataclass(frozen=True)
class StateBytes:
    """What parameters take from the first step to the last."""

    parameters: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """All three."""
        return self.parameters + self.gradients + self.optimizer


def state_bytes(parameters: Mapping[str, int], optimizer: OptimizerKind) -> StateBytes:
    """Of parameters by name (`parameters_of`): AdamW keeps two values for each, Muon one, and two for tables."""
    count = sum(parameters.values())
    tables = sum(n for name, n in parameters.items() if name in TABLES)
    values = 2 * count if optimizer == "adamw" else count + tables
    return StateBytes(PARAMETER * count, PARAMETER * count, PARAMETER * values)


def parameters_of_all(config: ModelConfig, cells: Iterable[Cell], *, tables: bool = True) -> dict[str, int]:
    """Of several cells on one rank, shared ones once; without `tables` the vocabulary's are somebody else's."""
    found: dict[str, int] = {}
    for cell in cells:
        found |= parameters_of(config, cell)
    return found if tables else {name: count for name, count in found.items() if name not in TABLES}


def _block_parameters(config: ModelConfig, layer: int) -> int:
    """Of a block by itself: experts that it shares with others are their bank's."""
    count = attention_parameters(config) + 2 * config.hidden_size + ffn_parameters(config, layer)[0]
    count += scaling_parameters(config)
    return count - (config.moe.experts * expert_parameters(config) if config.moe and _bank(config, layer) else 0)


def _bank(config: ModelConfig, layer: int) -> dict[str, int]:
    """The experts that a layer shares with others, by the name of their bank."""
    if config.moe is None or not config.banks or not config.is_sparse(layer):
        return {}
    return {f"bank.{config.expert_layers(layer)[0]}": config.moe.pool * expert_parameters(config)}


def _copies(config: ModelConfig, layer: int, batch: MicroBatch) -> float:
    """Narrow copies of a block's matrices: autograd keeps them with each micro-batch.

    The router has none, and those of routed experts are made anew for each pass.
    """
    if not batch.casts:
        return 0.0
    matrices = attention_matrices(config) + ffn_parameters(config, layer)[0]
    if config.moe and config.is_sparse(layer):
        matrices -= config.moe.experts * expert_parameters(config) + router_parameters(config, layer)
    return batch.width * float(matrices)


def _block(config: ModelConfig, layer: int, batch: MicroBatch) -> float:
    """Of one token: two norms, each its normalised input, a number per row, and its output; attention; FFN."""
    norms = 2 * (2 * config.hidden_size + 1) * batch.width
    if config.residual_scaling:  # what is added and the stream, each plus its bias
        norms += 2 * config.hidden_size * (batch.width + stream_width(config, batch))
    return norms + _attention(config, batch) + _ffn(config, layer, batch)


def _attention(config: ModelConfig, batch: MicroBatch) -> float:
    """Of one token: q, k, v and the output, as the products take them, and what norms in between keep."""
    a, writes = config.attention, batch.writes_scores and batch.length <= LONGEST_WRITTEN_SCORES
    if a.kind == "mla":
        assert a.kv_rank and a.rope_dim and a.value_dim
        still = 0 if writes else a.heads * a.head_dim  # v is a part of what was made together with it
        low = (a.q_rank or 0) + a.kv_rank
        values = 2 * a.heads * (a.head_dim + a.rope_dim + a.value_dim) + still + 2 * low
    else:
        q, kv = a.heads * a.head_dim, a.key_value_heads * a.head_dim
        normed = a.qk_norm or a.kind == "cca"
        values = 2 * q + 2 * kv + (q + kv + a.heads + a.key_value_heads if normed else 0)
        if a.kind == "cca":  # what each convolution sees, and keys before their temperature
            values += a.conv_channels * (1 + a.conv_kernels[1]) + kv
    if writes:
        return (values + a.heads * batch.length) * batch.width
    return values * batch.width + 4 * a.heads  # flash attention's sum per row, in float32


def _ffn(config: ModelConfig, layer: int, batch: MicroBatch) -> float:
    moe, width = config.moe, batch.width
    if moe is None or not config.is_sparse(layer):
        return 4 * config.ffn_hidden * width
    # In float32: the input, where it was made wider; logits, scores, and what balance is measured by.
    router = PARAMETER * (3 * moe.choices + (config.hidden_size if batch.casts else 0))
    if moe.router == "gating-residual":
        router += PARAMETER * moe.choices * config.takes_carry(layer)
    if moe.router_hidden:  # of its stream what was before, what the norm keeps, and five values on the way through
        router += PARAMETER * (moe.router_hidden * (6 + config.takes_carry(layer)) + 1)
    # The choice, and the order by expert. The experts' input is the norm's output; behind a bottleneck, its own, as
    # is their output.
    places = 2 * (INDEX + PARAMETER) * moe.top_k
    latent = moe.latent or 0
    routed = kept_by_experts(1, moe.top_k * moe.ffn_share, latent, moe.expert_hidden, width)
    # Of costless ones which choices are theirs, and a constant one's score, mix and products of the two.
    costless = 2 * (INDEX + PARAMETER) * moe.top_k + 5 * PARAMETER * moe.constant if moe.costless else 0
    return router + places + routed + costless + (latent + 4 * moe.shared_width) * width


def _products(config: ModelConfig, layer: int) -> float:
    """Values of one token: inputs and outputs of a block's matrix products, an input that several share once."""
    a, size, moe = config.attention, config.hidden_size, config.moe
    if a.kind == "mla":
        assert a.kv_rank and a.rope_dim and a.value_dim
        q = a.heads * (a.head_dim + a.rope_dim)
        down = 2 * a.q_rank if a.q_rank else 0
        kv = a.kv_rank + a.rope_dim + a.kv_rank + a.heads * (a.head_dim + a.value_dim)
        attention = size + down + q + kv + a.heads * a.value_dim + size
    else:
        q, kv = a.heads * a.head_dim, a.key_value_heads * a.head_dim
        attention = 2 * size + 2 * q + 2 * kv
    if moe is None or not config.is_sparse(layer):
        return attention + 2 * size + 3 * config.ffn_hidden
    router = moe.choices + 5 * (moe.router_hidden or 0)
    # Rows are gathered again: of the experts' input and their output's gradient, a token has one each.
    experts = 3 * (moe.top_k * moe.ffn_share * moe.expert_hidden + moe.shared_width) + 2 * (moe.latent or 0)
    return attention + 2 * size + router + experts
