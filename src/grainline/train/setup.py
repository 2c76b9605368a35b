"""Everything a run computes with, made from recipe, plan and data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grainline.documents import ModelConfig, Plan, Recipe
from grainline.models.build import build
from grainline.models.count import flops_per_token
from grainline.models.model import Model
from grainline.models.part import keep_cells
from grainline.parallel import Ranks, shard
from grainline.parallel.pipeline import Connection, Grid
from grainline.parallel.pipeline.resolve import ResolvedPipeline, resolve
from grainline.parallel.pipeline.vocabulary_group import SplitTables, vocabulary_passes
from grainline.plan.pipeline import Resolved
from grainline.train.batches import is_sharded
from grainline.train.objective import Objective
from grainline.train.optim import Optimizer
from grainline.train.pipelined import Pipelined
from grainline.train.state import all_tensors, model_tensors
from grainline.train.work import SharedOut, Work

if TYPE_CHECKING:
    from grainline.data.dataset import TokenDataset

PIPELINE_TIMEOUT_SECONDS = 300.0
"""How long a rank waits for a message before it takes another for gone: first passes meet kernels and compilers."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Setup:
    """What the loop works with; nothing in it is decided later."""

    recipe: Recipe
    ranks: Ranks
    model: Model  # in a pipeline this rank's part
    work: Work
    optimizer: Optimizer
    train: TokenDataset
    validation: TokenDataset
    micro_batch_sequences: int
    bos_token_id: int | None
    flops_per_token: float
    peak_flops: float | None  # of all ranks together, in the compute dtype

    @property
    def sparse_layers(self) -> int:
        """Rows of a step's expert counts."""
        return len(self.model.config.sparse_layers)

    @property
    def router_names(self) -> tuple[str, ...]:
        """Those rows, for people; layers count from 0, as in the names of tensors."""
        config = self.model.config
        return tuple(f"layer {i}" if i < config.layers else "the MTP layer" for i in config.sparse_layers)

    @property
    def experts(self) -> int:
        """Columns of a step's expert counts."""
        moe = self.model.config.moe
        return 0 if moe is None else moe.choices

    def model_tensors(self) -> dict[str, Tensor]:
        """The model's live tensors, as checkpoints take them."""
        return {name: self.work.as_saved(name, tensor) for name, tensor in model_tensors(self.model).items()}

    def all_tensors(self) -> dict[str, Tensor]:
        """And the optimiser's: what a run needs to go on."""
        tensors = all_tensors(self.model, self.optimizer)
        return {name: self.work.as_saved(name, tensor) for name, tensor in tensors.items()}

    def alone_with(self, model: Model) -> SharedOut:
        """The work of this rank alone on another model, whole and on its device: to score it."""
        model.compute_dtype = self.model.compute_dtype
        alone = Ranks(self.ranks.device)
        objective = _objective(self.recipe, model, self.bos_token_id)
        return SharedOut(objective, alone, self.train, self.recipe.batch_sequences, self.micro_batch_sequences, False)


def set_up(
    recipe: Recipe,
    plan: Plan,
    ranks: Ranks,
    source: Model | ModelConfig,
    train: TokenDataset,
    validation: TokenDataset,
    *,
    compute: str,
    peak_flops: float | None,
    bos_token_id: int | None,
    laid_out: Resolved | None = None,
) -> Setup:
    """Build (or take) the model, lay it out over the ranks and make its optimiser.

    `plan.execution` must say micro_batch_sequences, `compute` be "float32" or "bfloat16", and the plan's pipeline be
    laid out: `decide` fills them in.
    """
    execution = plan.execution
    micro_batch_sequences = execution.micro_batch_sequences
    assert micro_batch_sequences is not None
    pipeline, connection = None, None
    if plan.pipeline is not None:
        config = source.config if isinstance(source, Model) else source
        assert laid_out is not None
        pipeline = resolve(laid_out, config)
        grid = Grid(plan.pipeline.ranks, plan.layout.data_parallel)
        connection = Connection(grid, ranks.device, timeout_seconds=PIPELINE_TIMEOUT_SECONDS)
    cells = pipeline.cells_of(connection.rank) if pipeline is not None and connection is not None else None
    if isinstance(source, Model):
        model = source.to(device=ranks.device, dtype=torch.float32)
        if cells is not None:
            keep_cells(model, cells)
    else:
        model = build(source, seed=recipe.seed, device=ranks.device, cells=cells)
    model.train()
    model.compute_dtype = DTYPES[compute]
    model.recompute = execution.recompute == "block"
    blocks = [block for block in (*model.blocks, model.mtp) if block is not None]
    if execution.compile == "on":
        for block in blocks:
            block.compile()
    work: Work
    if pipeline is not None and connection is not None:
        work = _pipelined(recipe, ranks, model, pipeline, connection, train, bos_token_id)
    else:
        objective = _objective(recipe, model, bos_token_id)
        sharded = is_sharded(plan, ranks)
        if sharded:
            shard(objective, blocks, ranks, model.banks.values() if model.config.banks else ())
        work = SharedOut(objective, ranks, train, recipe.batch_sequences, micro_batch_sequences, sharded)
    return Setup(
        recipe=recipe,
        ranks=ranks,
        model=model,
        work=work,
        optimizer=Optimizer(model.named_parameters(), recipe.optimizer, dtype=DTYPES[compute]),
        train=train,
        validation=validation,
        micro_batch_sequences=micro_batch_sequences,
        bos_token_id=bos_token_id,
        flops_per_token=flops_per_token(model.config, recipe.data.sequence_length, mtp=1 / recipe.loss.mtp_every),
        peak_flops=peak_flops,
    )


def _objective(recipe: Recipe, model: Model, bos_token_id: int | None) -> Objective:
    return Objective(
        model,
        recipe.loss,
        batch_tokens=recipe.training.batch_tokens,
        document_attention=recipe.data.document_attention,
        bos_token_id=bos_token_id,
    )


def _pipelined(
    recipe: Recipe,
    ranks: Ranks,
    model: Model,
    pipeline: ResolvedPipeline,
    connection: Connection,
    train: TokenDataset,
    bos_token_id: int | None,
) -> Pipelined:
    loss, batch_tokens = recipe.loss, recipe.training.batch_tokens
    passes, split = None, None
    if pipeline.algorithm is not None:
        passes = vocabulary_passes(connection, model, pipeline.algorithm, loss=loss, batch_tokens=batch_tokens)
        split = SplitTables.of(connection, model.config.vocab_size)
    training, evaluation = (
        connection.runtime(
            schedule,
            pipeline.stages,
            model,
            loss=loss,
            batch_tokens=batch_tokens,
            passes=passes,
            backwards=pipeline.backwards,
        )
        for schedule in (pipeline.training, pipeline.evaluation)
    )
    remark = pipeline.remark
    mean = pipeline.gradient_mean
    return Pipelined(model, recipe, ranks, connection, training, evaluation, train, bos_token_id, split, remark, mean)
