"""Everything a run computes with, made from recipe, plan and data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from grainline.documents import ModelConfig, Plan, Recipe
from grainline.models.build import build
from grainline.models.count import flops_per_token
from grainline.models.model import Model
from grainline.parallel import Ranks, shard
from grainline.train.batches import is_sharded
from grainline.train.objective import Objective
from grainline.train.optim import Optimizer

if TYPE_CHECKING:
    from grainline.data.dataset import TokenDataset

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Setup:
    """What the loop works with; nothing in it is decided later."""

    recipe: Recipe
    ranks: Ranks
    model: Model
    objective: Objective
    optimizer: Optimizer
    train: TokenDataset
    validation: TokenDataset
    micro_batch_sequences: int
    is_sharded: bool
    flops_per_token: float
    peak_flops: float | None  # of all ranks together, in the compute dtype

    @property
    def sparse_layers(self) -> int:
        """Rows of a step's expert counts."""
        return len(self.model.config.sparse_layers)

    @property
    def experts(self) -> int:
        """Columns of a step's expert counts."""
        moe = self.model.config.moe
        return 0 if moe is None else moe.experts


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
) -> Setup:
    """Build (or take) the model, lay it out over the ranks and make its optimiser.

    `plan.execution` must say micro_batch_sequences, and `compute` be "float32" or "bfloat16": `decide` fills them in.
    """
    execution = plan.execution
    micro_batch_sequences = execution.micro_batch_sequences
    assert micro_batch_sequences is not None
    sharded = is_sharded(plan, ranks)
    if isinstance(source, Model):
        model = source.to(device=ranks.device, dtype=torch.float32)
    else:
        model = build(source, seed=recipe.seed, device=ranks.device)
    model.train()
    model.compute_dtype = DTYPES[compute]
    model.recompute = execution.recompute == "block"
    blocks = [*model.blocks, *([model.mtp] if model.mtp is not None else [])]
    if execution.compile == "on":
        for block in blocks:
            block.compile()
    objective = Objective(
        model,
        recipe.loss,
        batch_tokens=recipe.training.batch_tokens,
        document_attention=recipe.data.document_attention,
        bos_token_id=bos_token_id,
    )
    if sharded:
        shard(objective, blocks, ranks)
    return Setup(
        recipe=recipe,
        ranks=ranks,
        model=model,
        objective=objective,
        optimizer=Optimizer(model.named_parameters(), recipe.optimizer, dtype=DTYPES[compute]),
        train=train,
        validation=validation,
        micro_batch_sequences=micro_batch_sequences,
        is_sharded=sharded,
        flops_per_token=flops_per_token(model.config, recipe.data.sequence_length, mtp=1 / recipe.loss.mtp_every),
        peak_flops=peak_flops,
    )
