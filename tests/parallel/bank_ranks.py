"""What each of two ranks runs: started by test_banks.py under torchrun, with a folder for what it finds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from grainline.documents import Attention, ModelConfig, Moe
from grainline.documents.recipe import Loss, Opening
from grainline.models.build import build
from grainline.models.moe import Moment
from grainline.parallel import join_ranks, shard, sum_gradients
from grainline.train.objective import Objective

CONFIG = ModelConfig(
    vocab_size=32,
    hidden_size=16,
    layers=5,
    ffn_hidden=24,
    mtp_depth=1,
    init_std=0.3,
    attention=Attention(heads=2, head_dim=8),
    moe=Moe(experts=4, top_k=2, expert_hidden=6, shared_experts=1, reuse=2, bias_balanced=True, dense_layers=(0, 2)),
)
LOSS = Loss(z_loss=1e-2, balance_loss=1e-1, mtp_weight=0.3)
ROWS, LENGTH, STEPS = 4, 10, 2


def ids(step: int) -> torch.Tensor:
    """A batch, of which each rank takes its part."""
    return torch.randint(0, 32, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(step))


def learn(kind: str, recompute: bool, first: int, last: int) -> dict[str, torch.Tensor]:
    """Plain descent on these rows; returns the weights it ends with."""
    model = build(CONFIG, seed=3)
    model.recompute = recompute
    objective = Objective(model, LOSS, batch_tokens=ROWS * LENGTH, document_attention=False, bos_token_id=None)
    ranks = join_ranks("cpu")
    if kind == "sharded":
        shard(objective, [*model.blocks, model.mtp], ranks, model.banks.values())  # type: ignore[list-item]
        assert isinstance(model.banks["1"].w13_E2FD, DTensor)
    for step in range(STEPS):
        moment = Moment(True, step / 4, seed=step, opening=Opening(opening="linear", open_from=0.0, open_until=1.0))
        with model.at(moment):
            for row in range(first, last, 2):
                objective(ids(step)[row : row + 2])[0].backward()
        if kind != "sharded":
            sum_gradients(model.parameters(), ranks)
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter -= 0.5 * parameter.grad
                parameter.grad = None
    return {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        for name, tensor in model.state_dict().items()
    }


def main(folder: Path) -> None:
    rank = join_ranks("cpu").rank
    torch.set_num_threads(1)
    for name, kind, recompute in (("dp", "copied", False), ("fsdp", "sharded", False), ("again", "sharded", True)):
        found = learn(kind, recompute, 2 * rank, 2 * rank + 2)
        if rank == 0:
            torch.save(found, folder / f"{name}.pt")
    (folder / f"done-{rank}.json").write_text(json.dumps(dist.get_world_size()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
