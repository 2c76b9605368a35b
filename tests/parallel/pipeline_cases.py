"""What ranks of a pipeline and one process alone must agree on: schedules, cuts, models, paths and choices."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "models"))
from expert_cases import routed

from grainline.documents import Attention, ModelConfig, Moe
from grainline.documents.recipe import Loss
from grainline.models.cells import Batch, cell_names
from grainline.models.dial import config_for_depth
from grainline.models.moe import AT_REST, Moment
from grainline.models.moe.routers import ROUTERS
from grainline.schedule import Schedule, add_messages
from grainline.schedule.passes.offload import with_offload
from grainline.schedule.passes.recompute import with_recompute
from grainline.schedule.passes.split import split_backward
from grainline.schedule.passes.update import add_update
from grainline.schedule.schedule import Hop
from grainline.schedule.table import SCHEDULES, make_schedule

VOCABULARY, LENGTH, ROWS = 64, 12, 3
LOSS = Loss(z_loss=1e-2, balance_loss=1e-1, mtp_weight=0.3, mtp_every=2)


def shared_experts() -> ModelConfig:
    """The dial's model, with its three layers of experts as one bank."""
    config = config_for_depth(3, vocab_size=VOCABULARY, max_positions=64)
    assert config.moe is not None
    return config.model_copy(update={"moe": config.moe.model_copy(update={"experts": 4, "top_k": 2, "reuse": 3})})


MODELS = {
    # Grouped-query attention, experts, a balancing bias, MTP.
    "ling": config_for_depth(3, vocab_size=VOCABULARY, max_positions=64),
    # Latent attention, and MTP whose head is the embedding: three cells share it.
    "mla-tied": ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        layers=3,
        ffn_hidden=32,
        max_positions=64,
        mtp_depth=1,
        tie_embeddings=True,
        attention=Attention(kind="mla", heads=3, head_dim=8, q_rank=12, kv_rank=10, rope_dim=4, value_dim=6, bias=True),
        moe=Moe(experts=4, top_k=2, expert_hidden=8, shared_experts=1, dense_layers=(0,)),
    ),
    # What a router leaves to the next, a scaled stream that is wider than what is computed in, convolutions over time.
    "zaya": ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        layers=4,
        ffn_hidden=32,
        max_positions=64,
        tie_embeddings=True,
        residual_scaling=True,
        attention=Attention(kind="cca", heads=4, kv_heads=2, head_dim=6, key_temperature=1.0),
        moe=Moe(
            experts=4,
            top_k=1,
            expert_hidden=8,
            zero=1,
            router="depth-averaged",
            router_hidden=8,
            bias_balanced=True,
            normalize=False,
            dense_layers=(1,),
        ),
    ),
    # Experts that two blocks and MTP share: in all stages.
    "shared-experts": shared_experts(),
    # Nothing but dense blocks, with a window, biases, and a head tied to the embedding.
    "dense-tied": ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        layers=4,
        ffn_hidden=32,
        max_positions=64,
        tie_embeddings=True,
        attention=Attention(heads=4, kv_heads=2, head_dim=4, window=5, bias=True, output_bias=True),
    ),
}

# Every router with all that it goes with, and a dense block that hands on what they carry.
MODELS |= {kind: routed(kind, vocab_size=VOCABULARY, layers=4, dense_layers=(1,)) for kind in ROUTERS}

Change = Callable[[Schedule], Schedule]


def same(schedule: Schedule) -> Schedule:
    return schedule


@dataclass(frozen=True)
class Case:
    """`cut` is cells per stage (None: about equal); `paths` are stage and rank by micro-batch."""

    schedule: str
    model: str = "ling"
    cut: tuple[int, ...] | None = None
    dtype: torch.dtype = torch.float64
    change: Change = same  # of the bare schedule
    end: Change = same  # of the schedule with its messages
    lookahead: int = 1
    microbatches: int = 4
    documents: bool = False
    recompute: bool = False  # of blocks
    compute: torch.dtype | None = None  # what activations are; default: as parameters
    paths: tuple[tuple[tuple[int, int], ...], ...] | None = None
    replicas: int = 1
    moment: Moment = AT_REST
    backwards: Literal["planned", "arrival"] = "planned"

    def made(self, ranks: int) -> Schedule:
        """The schedule, with its messages."""
        if self.paths is not None:
            bare = along_paths(self.paths, ranks)
        else:
            bare = make_schedule(self.schedule, ranks, self.microbatches)
        return self.end(add_messages(self.change(bare), self.lookahead))

    def cut_for(self, stages: int) -> tuple[int, ...]:
        """Cells of each stage."""
        count = len(list(cell_names(MODELS[self.model])))
        if self.cut is not None:
            return self.cut
        return tuple(count * (s + 1) // stages - count * s // stages for s in range(stages))

    def ids(self) -> list[torch.Tensor]:
        """Micro-batches; of sizes that differ, so that nothing relies on their being equal."""
        generator = torch.Generator().manual_seed(7)
        sizes = [ROWS + m % 2 for m in range(self.microbatches)]
        return [torch.randint(0, VOCABULARY, (rows, LENGTH + 1), generator=generator) for rows in sizes]

    @property
    def batch_tokens(self) -> int:
        return sum(ids.shape[0] * LENGTH for ids in self.ids()) * self.replicas

    def batch(self, ids_BS1: torch.Tensor) -> Batch:
        every = LOSS.mtp_every
        config = MODELS[self.model]
        return Batch.of(config, ids_BS1, document_attention=self.documents, bos_token_id=1, mtp_every=every)


def along_paths(paths: tuple[tuple[tuple[int, int], ...], ...], ranks: int) -> Schedule:
    """Bare compute in the simplest order that can be carried out: a micro-batch after another, there and back."""
    from grainline.schedule import Action, Kind

    hops = tuple(tuple(Hop(*hop) for hop in path) for path in paths)
    lists: list[list[Action]] = [[] for _ in range(ranks)]
    for kind, turn in ((Kind.F, 1), (Kind.B, -1)):
        for m, path in enumerate(hops):
            for hop in path[::turn]:
                lists[hop.rank].append(Action(kind, hop.stage, m))
    return Schedule("paths", hops, tuple(map(tuple, lists)))


def _cases(ranks: int) -> dict[str, Case]:
    """For pipelines of so many ranks."""
    found = {f"{name}": Case(name, microbatches=2 * ranks) for name in SCHEDULES}
    found |= {
        "float32": Case("1f1b", dtype=torch.float32),
        "bfloat16": Case("1f1b", dtype=torch.float32, compute=torch.bfloat16),
        "blocks again": Case("1f1b", recompute=True),
        "blocks again, split": Case("zb-h1", recompute=True),
        "mla, tied, mtp": Case("1f1b", "mla-tied"),
        "mla, tied, mtp, split": Case("zb-h1", "mla-tied"),
        "dense, tied": Case("gpipe", "dense-tied", documents=True),
        "dense, split": Case("1f1b", "dense-tied", change=split_backward),
        "documents": Case("1f1b", documents=True),
        "zaya": Case("1f1b", "zaya", documents=True),
        "zaya, split": Case("zb-h1", "zaya"),
        "zaya, recomputed": Case("interleaved", "zaya", change=lambda s: with_recompute(s, "always"), recompute=True),
        "zaya, bfloat16": Case("1f1b", "zaya", dtype=torch.float32, compute=torch.bfloat16),
        "shared experts": Case("1f1b", "shared-experts"),
        "shared experts, split": Case("zb-h1", "shared-experts"),
        "recomputed": Case("1f1b", change=lambda s: with_recompute(s, "always")),
        "recomputed, split": Case("zb-h1", change=lambda s: with_recompute(s, "except_last")),
        "offloaded": Case("gpipe", change=with_offload),
        "offloaded, recomputed": Case("gpipe", change=lambda s: with_offload(with_recompute(s))),
        "posted late": Case("1f1b", lookahead=0),
        "posted early": Case("interleaved", lookahead=3),
        "reduced in the list": Case("1f1b", "dense-tied", end=lambda s: add_update(s, tied={0: s.stages - 1})),
        "one micro-batch": Case("1f1b", microbatches=1),
        "as they arrive": Case("1f1b", "mla-tied", backwards="arrival"),
        "as they arrive, interleaved": Case("interleaved", backwards="arrival", microbatches=2 * ranks),
        "as they arrive, split": Case("zb-h1", backwards="arrival"),
        "as they arrive, recomputed": Case(
            "gpipe", backwards="arrival", change=lambda s: with_recompute(s, "except_last")
        ),
    }
    return found


TWO = _cases(2) | {
    "uneven": Case("1f1b", cut=(1, 6)),
    "uneven the other way": Case("1f1b", cut=(6, 1)),
    "an empty stage": Case("interleaved", cut=(3, 0, 1, 3)),
    "nothing first": Case("interleaved", cut=(0, 3, 4, 0)),
    "all on one rank": Case("1f1b", cut=(7, 0)),
    "mtp apart from its head": Case("interleaved", cut=(4, 1, 1, 1)),
    "partial paths": Case(
        "paths",
        "dense-tied",
        cut=(1, 1, 1, 1, 1, 1),
        microbatches=3,
        paths=(
            ((0, 0), (1, 1), (2, 0), (3, 1), (4, 0), (5, 1)),
            ((0, 0), (2, 0), (1, 1), (4, 0), (5, 1)),  # skips a block, and two are the other way round
            ((0, 0), (3, 1), (1, 1), (2, 1), (5, 1)),  # block 2 is on both ranks
        ),
    ),
}
TWO |= {
    f"router {kind}": Case("zb-h1" if i % 2 else "1f1b", kind, moment=Moment(True, 0.4, 7))
    for i, kind in enumerate(ROUTERS)
}
FOUR = {
    name: case
    for name, case in _cases(4).items()
    if name in {"gpipe", "1f1b", "interleaved", "zb-v", "dualpipe-v", "mla, tied, mtp", "recomputed", "as they arrive"}
} | {
    "two replicas": Case("1f1b", "mla-tied", replicas=2),
    "two replicas, reduced in the list": Case(
        "zb-h1", "dense-tied", replicas=2, end=lambda s: add_update(s, range(s.stages), tied={0: s.stages - 1})
    ),
    "stages on several ranks": Case(
        "paths",
        "dense-tied",
        cut=(2, 1, 1, 2),
        microbatches=4,
        paths=(
            ((0, 0), (1, 1), (2, 2), (3, 3)),
            ((0, 0), (1, 2), (2, 1), (3, 3)),
            ((0, 1), (2, 2), (1, 1), (3, 3)),
            ((0, 0), (3, 3)),
        ),
    ),
}
WORLDS = {2: TWO, 4: FOUR}
