"""The schedules that torch.distributed.pipelining has, too: the same order where both follow one convention.

Each difference of convention is written down here, and in docs/schedules.md:

- torch's lists keep idle slots (None) and gradient reductions (REDUCE_GRAD); ours have compute alone until passes add
  to it. `OVERLAP_F_B` is a forward and a backward in one; here they are two actions.
- torch runs GPipe's backwards first to last, we last to first, as the paper does.
- torch writes 1F1B's forwards of the last rank as micro-batches 1 to M (a slip of its printed list; its runtime runs 0
  to M − 1), so that rank is read with one less.
- torch's zero-bubble schedules fix the place of each W, ours is found by playing the lists with costs: the order of F
  and I is the same, that of W may not be, and the makespan is equal.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

import pytest
from torch.distributed.pipelining import schedules as theirs
from torch.distributed.pipelining.stage import _PipelineStageBase

from grainline.schedule import (
    SCHEDULES,
    Action,
    Kind,
    Network,
    Schedule,
    add_messages,
    equal_costs,
    lower,
    make_schedule,
    peak_in_flight,
    simulate,
    validate,
)
from grainline.schedule.schedule import straight_paths

COMPUTE = {"F", "B", "I", "W"}
SIZES = [(2, 4), (4, 8), (4, 12), (5, 20), (8, 16)]


def torch_schedule(name: str, ours: str, ranks: int, microbatches: int, chunks: int) -> Schedule:
    """torch's lists for all ranks, made without processes from stages that only know their numbers."""
    stages = []
    for chunk in range(chunks):
        stage = MagicMock(spec=_PipelineStageBase)
        stage.group_size, stage.group_rank, stage.num_stages = ranks, 0, ranks * chunks
        stage.stage_index, stage.submod, stage.has_backward = chunk * ranks, None, True
        stages.append(stage)
    made = theirs.get_schedule_class(name)
    single = issubclass(made, theirs.PipelineScheduleSingle)
    order: dict[int, list[Any]] = made(stages[0] if single else stages, microbatches).pipeline_order
    lists = [[a for each in order[rank] for a in _compute(each)] for rank in range(ranks)]
    if name == "1F1B":
        assert min(a.microbatch for a in lists[-1] if a.kind is Kind.F) == 1
        lists[-1] = [replace(a, microbatch=a.microbatch - 1) if a.kind is Kind.F else a for a in lists[-1]]
    paths = straight_paths(SCHEDULES[ours].place(ranks, chunks), microbatches)
    return Schedule(name, paths, tuple(map(tuple, lists)))


def _compute(action: Any) -> list[Action]:
    if action is None:
        return []
    return [
        Action(Kind(part.computation_type.value), part.stage_index, part.microbatch_index)
        for part in action.sub_actions or (action,)
        if part.computation_type.value in COMPUTE
    ]


def makespan(schedule: Schedule) -> float:
    network = Network.ideal(schedule.ranks)
    return simulate(lower(add_messages(schedule), equal_costs(1, 2), network)).makespan


@pytest.mark.parametrize(("ranks", "microbatches"), SIZES)
@pytest.mark.parametrize(
    ("name", "ours", "chunks"),
    [
        ("GPipe", "gpipe", 1),
        ("1F1B", "1f1b", 1),
        ("Interleaved1F1B", "interleaved", 2),
        ("Interleaved1F1B", "interleaved", 3),
        ("LoopedBFS", "breadth-first", 2),
        ("InterleavedZeroBubble", "zb-h1", 1),
        ("InterleavedZeroBubble", "zb-h1", 2),
        ("ZBVZeroBubble", "zb-v", 2),
        ("DualPipeV", "dualpipe-v", 2),
    ],
)
def test_the_same_work_in_the_same_time(name: str, ours: str, chunks: int, ranks: int, microbatches: int) -> None:
    one, other = (
        torch_schedule(name, ours, ranks, microbatches, chunks),
        make_schedule(ours, ranks, microbatches, chunks=chunks),
    )
    validate(one)
    assert one.paths == other.paths
    assert [sorted(actions) for actions in one.actions] == [sorted(actions) for actions in other.actions]
    assert makespan(one) == pytest.approx(makespan(other))
    assert max(peak_in_flight(one)) == max(peak_in_flight(other))
    if name == "GPipe":
        backwards = [[a for a in actions if a.kind is Kind.B] for actions in one.actions]
        forwards = [[a for a in actions if a.kind is Kind.F] for actions in one.actions]
        mirrored = [f + b[::-1] for f, b in zip(forwards, backwards, strict=True)]
        assert mirrored == [list(actions) for actions in other.actions]
    elif ours in ("zb-h1", "zb-v"):
        orders = [[[a for a in actions if a.kind is not Kind.W] for actions in each.actions] for each in (one, other)]
        assert orders[0] == orders[1]
    else:
        assert one.actions == other.actions
