"""Megatron-LM: pretrain_gpt.py's flags for model and layout."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from grainline.documents import GrainlineError, ModelConfig
from grainline.plan.export.common import Exported, Flag, Run, launcher, order_remarks
from grainline.schedule.cells import Cell, cells_of

SCHEDULES = ("1f1b", "interleaved")
LETTERS = {"embedding": "E", "dense": "t", "moe": "t", "mtp": "m", "mtp_head": "", "head": "L"}


def megatron(run: Run) -> Exported:
    """Raises GrainlineError for what Megatron has no flag for."""
    run.refuse("megatron", "vocabulary parallelism", "activation offloading", "expert placement")
    flags = (*_model(run.config, run.length), *_layout(run), *_batch(run))
    remarks = (
        "Data, optimiser and checkpoints are yours to add; MEGATRON is the folder of Megatron-LM.",
        *order_remarks(run),
    )
    return Exported(f'{launcher(run)} "$MEGATRON"/pretrain_gpt.py', flags, remarks)


def _model(config: ModelConfig, length: int) -> Iterator[Flag]:
    a = config.attention
    if a.kind == "cca" or config.residual_scaling or (config.moe and (config.moe.costless or config.moe.reuse > 1)):
        raise GrainlineError("Megatron-LM has no flags for this model's attention, residual scaling or experts.")
    yield "--use-mcore-models", "--transformer-impl", "transformer_engine"
    yield "--num-layers", str(config.layers)
    yield "--hidden-size", str(config.hidden_size)
    yield "--ffn-hidden-size", str(config.ffn_hidden)
    yield "--num-attention-heads", str(a.heads)
    yield "--seq-length", str(length)
    yield "--max-position-embeddings", str(max(length, config.max_positions))
    yield "--vocab-size", str(config.vocab_size)
    yield "--normalization", "RMSNorm"
    yield "--norm-epsilon", f"{config.norm_eps:g}"
    yield "--swiglu", "--disable-bias-linear"
    yield "--position-embedding-type", "rope"
    yield "--rotary-base", f"{a.rope.theta:.0f}"
    if a.rope.fraction != 1:
        yield "--rotary-percent", f"{a.rope.fraction:g}"
    if not config.tie_embeddings:
        yield ("--untie-embeddings-and-output-weights",)
    if a.qk_norm:
        yield ("--qk-layernorm",)
    if a.bias:
        yield ("--add-qkv-bias",)
    if a.window:
        yield "--window-size", f"({a.window},0)"
    if a.kind == "mla":
        yield ("--multi-latent-attention",)
        if a.q_rank:
            yield "--q-lora-rank", str(a.q_rank)
        yield "--kv-lora-rank", str(a.kv_rank)
        yield "--qk-head-dim", str(a.head_dim)
        yield "--qk-pos-emb-head-dim", str(a.rope_dim)
        yield "--v-head-dim", str(a.value_dim)
    else:
        yield "--kv-channels", str(a.head_dim)
        if a.key_value_heads != a.heads:
            yield "--group-query-attention", "--num-query-groups", str(a.key_value_heads)
    if config.mtp_depth:
        yield "--mtp-num-layers", str(config.mtp_depth)
    yield from _experts(config)


def _experts(config: ModelConfig) -> Iterator[Flag]:
    moe = config.moe
    if moe is None:
        return
    yield "--num-experts", str(moe.experts)
    yield "--moe-router-topk", str(moe.top_k)
    yield "--moe-ffn-hidden-size", str(moe.expert_hidden)
    if moe.dense_layers:
        sparse = [int(config.is_sparse(layer)) for layer in range(config.layers)]
        yield "--moe-layer-freq", "(" + "+".join(f"[{bit}]*{len(list(n))}" for bit, n in groupby(sparse)) + ")"
    if moe.shared_width:
        yield "--moe-shared-expert-intermediate-size", str(moe.shared_width)
    match moe.router:
        case "sigmoid-topk":
            yield "--moe-router-score-function", "sigmoid"
        case "softmax-topk":
            yield "--moe-router-score-function", "softmax"
            if not moe.normalize:
                yield ("--moe-router-pre-softmax",)
        case other:
            raise GrainlineError(f"Megatron-LM has no router '{other}'.")
    if moe.bias_balanced:
        yield ("--moe-router-enable-expert-bias",)
    if moe.groups > 1:
        yield "--moe-router-num-groups", str(moe.groups), "--moe-router-group-topk", str(moe.top_groups)
    if moe.scale != 1:
        yield "--moe-router-topk-scaling-factor", f"{moe.scale:g}"
    if moe.latent:
        yield "--moe-latent-size", str(moe.latent)
    yield "--moe-grouped-gemm", "--moe-token-dispatcher-type", "alltoall"


def _layout(run: Run) -> Iterator[Flag]:
    layout, pipeline, execution = run.plan.layout, run.plan.pipeline, run.plan.execution
    yield "--tensor-model-parallel-size", str(layout.tensor_parallel)
    if layout.tensor_parallel > 1 and layout.sequence_parallel:
        yield ("--sequence-parallel",)
    yield "--context-parallel-size", str(layout.context_parallel)
    if run.config.moe is not None:
        yield "--expert-model-parallel-size", str(layout.expert_parallel)
        yield "--expert-tensor-parallel-size", str(layout.expert_tensor_parallel)
    if layout.shard != "none":
        yield "--use-distributed-optimizer", "--overlap-grad-reduce", "--overlap-param-gather"
    if layout.shard == "full":
        yield "--use-megatron-fsdp", "--data-parallel-sharding-strategy", "optim_grads_params"
    if pipeline is not None:
        if pipeline.schedule not in SCHEDULES:
            raise GrainlineError(
                f"Megatron-LM has no schedule '{pipeline.schedule}': it has {' and '.join(SCHEDULES)}."
            )
        if pipeline.paths is not None or pipeline.placement is not None:
            raise GrainlineError("Megatron-LM has no pipelines with paths or with a placement of stages.")
        yield "--pipeline-model-parallel-size", str(pipeline.ranks)
        if isinstance(pipeline.cut, tuple):
            yield "--pipeline-model-parallel-layout", stage_letters(cells_of(run.config), pipeline.cut)
        elif pipeline.chunks and pipeline.chunks > 1:
            yield "--num-virtual-stages-per-pipeline-rank", str(pipeline.chunks)
    if execution.recompute == "block" or (pipeline is not None and pipeline.recompute != "never"):
        yield "--recompute-granularity", "full", "--recompute-method", "uniform", "--recompute-num-layers", "1"
    elif execution.recompute == "attention":
        yield "--recompute-granularity", "selective"


def _batch(run: Run) -> Iterator[Flag]:
    yield "--micro-batch-size", str(run.micro_batch_sequences)
    yield "--global-batch-size", str(run.batch_sequences)
    yield ("--bf16",)


def stage_letters(cells: tuple[Cell, ...], cut: tuple[int, ...]) -> str:
    """Stages in Megatron's own letters: E embedding, t block, m MTP, L loss, | between stages: ``Et*3|t*4|t*3L``."""
    if sum(cut) != len(cells):
        raise GrainlineError(f"pipeline.cut {list(cut)} adds up to {sum(cut)} cells, and the model has {len(cells)}.")
    stages, at = [], 0
    for size in cut:
        letters = "".join(LETTERS[cell.kind] for cell in cells[at : at + size])
        at += size
        runs = ((letter, len(list(same))) for letter, same in groupby(letters))
        stages.append("".join(letter if n == 1 else f"{letter}*{n}" for letter, n in runs))
    return "|".join(stages)
