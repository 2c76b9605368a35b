"""An MoE layer whose tiles are taken as an overlap plans them, run on this CPU while other ranks are played.

It is the compute half of COMET (arXiv 2502.19811) and FlashMoE (arXiv 2506.04667): order, waits and termination are
theirs; who brings the rows is a thread here, and a dispatcher between processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grainline.documents import GrainlineError, nearest
from grainline.kernels.tile_threads import Ran
from grainline.kernels.tiles import ExpertTiles, Peers, Rows, run_tiles
from grainline.schedule.actions import Action
from grainline.schedule.overlap import OVERLAPS, ExpertLayer, Options, TilePlan, What
from grainline.schedule.overlap.lower import KINDS, rows
from grainline.schedule.overlap.termination import Termination
from grainline.schedule.timeline import Timeline


@dataclass(frozen=True)
class Overlapped:
    """What a run gave: the layer's output, its plan, when each task was done, and the account of tile tasks."""

    y_TD: Tensor
    plan: TilePlan
    timeline: Timeline
    start_seconds: tuple[float, ...]  # by task of the plan
    end_seconds: tuple[float, ...]
    account: Termination


@torch.no_grad()
def run_overlapped(
    x_TD: Tensor,
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    score_N: Tensor,
    unit_N: Tensor,
    counts_E: Tensor,
    source_T: Tensor,
    overlap: str,
    options: Options | None = None,
    *,
    rank: int = 0,
    workers: int = 2,
    peers: Peers = Peers(),  # noqa: B008  frozen
    patience_seconds: float = 60.0,
) -> Overlapped:
    """y[t] = Σ score · SwiGLU_expert(x[t]) over the entries of token t, as `kernels.expert_mixture`, without gradients.

    source_T: the rank that each token belongs to; `rank` is the one whose experts these are, so that its tokens are
    there from the start. Rows of others come when `peers` bring them. `patience_seconds` must be longer than any of
    their delays: when nothing has come forward for so long, GrainlineError names source, expert and tile.
    """
    if overlap not in OVERLAPS:
        raise GrainlineError(f"there is no overlap '{overlap}'.{nearest(overlap, OVERLAPS)}")
    if len(source_T) != len(x_TD):
        raise GrainlineError(f"{len(source_T)} tokens have a source, of {len(x_TD)}.")
    options = options or Options()
    sources = max(rank, int(source_T.max()) if len(source_T) else 0) + 1
    experts, width, hidden = w2_EDF.shape
    expert_N = torch.arange(experts).repeat_interleave(counts_E.cpu())
    source_N = source_T[unit_N]
    rows_WE = torch.zeros(sources, experts, dtype=torch.int64)
    rows_WE.index_put_((source_N, expert_N), torch.ones_like(expert_N), accumulate=True)
    counts = tuple(tuple(row) for row in rows_WE.tolist())
    layer = ExpertLayer(counts, width, hidden, rank, 2, x_TD.element_size())
    plan = OVERLAPS[overlap](layer, options)
    packed = _packed(plan, expert_N, source_N)
    tiles = ExpertTiles(plan.tasks, rank, packed, x_TD, w13_E2FD, w2_EDF, score_N, unit_N)
    ran = run_tiles(tiles, plan.claims == "in order", workers, peers, patience_seconds)
    timeline = _timeline(plan, ran, workers)
    return Overlapped(tiles.combined(len(x_TD)), plan, timeline, tuple(ran.start), tuple(ran.end), _account(plan, ran))


def _packed(plan: TilePlan, expert_N: Tensor, source_N: Tensor) -> Rows:
    """Entries in the plan's order; those of a (source, expert) keep theirs."""
    of = {
        (source, expert): torch.nonzero((source_N == source) & (expert_N == expert)).flatten()
        for source in range(plan.layer.sources)
        for expert in range(plan.layer.experts)
    }
    none = torch.empty(0, dtype=torch.int64)
    parts = [of[p.source, p.expert][p.first : p.first + p.rows] for p in plan.pieces]
    arrival_N = torch.tensor([p.arrival for p in plan.pieces for _ in range(p.rows)], dtype=torch.int64)
    entry_N = torch.cat([none, *parts])
    return Rows(entry_N, source_N[entry_N], arrival_N)


def _timeline(plan: TilePlan, ran: Ran, workers: int) -> Timeline:
    names = rows(workers)
    at = {What.DISPATCH: workers, What.RETURN: workers, What.JOIN: workers + 1}
    place = [at.get(task.what, thread) for task, thread in zip(plan.tasks, ran.thread, strict=True)]
    row = np.array(place, np.int32)
    return Timeline(
        name=plan.name,
        how="measured",
        ranks=len(names),
        streams=names,
        actions=tuple(Action(KINDS[task.what], task.stage, task.expert) for task in plan.tasks),
        rank=row,
        stream=row,
        start=np.array(ran.start),
        end=np.array(ran.end),
        link_bytes={"link": float(sum(map(plan.bytes_of, range(len(plan)))))},
        rows=names,
    )


def _account(plan: TilePlan, ran: Ran) -> Termination:
    """Of tile tasks; messages and joins, which no worker does, are taken off."""
    layer, tile = plan.layer, plan.shape
    others = sum(task.what in (What.DISPATCH, What.RETURN, What.JOIN) for task in plan.tasks)
    capacity = max(count for counts in layer.rows_WE for count in counts)
    blocks = len({(task.rows, task.expert) for task in plan.tasks if task.what is What.COMBINE})
    account = Termination(layer.sources, layer.experts, layer.width, layer.hidden, tile, capacity, blocks)
    account.made, account.scheduled, account.done = (n - others for n in (ran.made, ran.scheduled, ran.done))
    for source, counts in enumerate(layer.rows_WE):
        account.signal(source, counts)
    return account
