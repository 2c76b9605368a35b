"""The pipeline schedules that there are, by name, and how to ask for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from grainline.documents import GrainlineError, nearest
from grainline.schedule.costs import Costs, equal_costs
from grainline.schedule.members.breadth_first import breadth_first
from grainline.schedule.members.dualpipe_v import dualpipe_v
from grainline.schedule.members.gpipe import gpipe
from grainline.schedule.members.interleaved import interleaved_1f1b
from grainline.schedule.members.one_f_one_b import eager_1f1b, one_f_one_b
from grainline.schedule.members.placement import looped, v_shape
from grainline.schedule.members.v_schedules import v_half, v_min, zb_v
from grainline.schedule.members.zero_bubble import zb_auto, zb_h1, zb_h2
from grainline.schedule.passes.messages import LOOKAHEAD
from grainline.schedule.schedule import Schedule

Make = Callable[[int, int, int, Costs], Schedule]
"""Ranks, micro-batches, chunks per rank, costs → bare compute."""


@dataclass(frozen=True)
class PipelineSchedule:
    """A member of the seam: how it is made, and what it needs to know of a person's wishes."""

    make: Make
    about: str  # in one line
    chunks: tuple[int, int | None] = (1, 1)  # fewest and most stages per rank; None is without bound
    usual_chunks: int = 1
    splits: bool = False  # B into I and W
    place: Callable[[int, int], tuple[int, ...]] = looped  # ranks, chunks → the rank of each stage
    lookahead: int = LOOKAHEAD  # of its receives, for `add_messages`
    refuses: Callable[[int, int, int], str | None] = lambda ranks, microbatches, chunks: None


def _groups(ranks: int, microbatches: int, chunks: int) -> str | None:
    if chunks == 1 or microbatches % ranks == 0:
        return None
    below, above = microbatches // ranks * ranks, (microbatches // ranks + 1) * ranks
    fitting = f"{below} or {above}" if below else f"{above}"
    return (
        f"interleaves groups of {ranks} micro-batches, as many as ranks, and {microbatches} aren't a multiple: "
        f"take {fitting} micro-batches, or the schedule '1f1b'"
    )


def _fills_both_ways(ranks: int, microbatches: int, chunks: int) -> str | None:
    if microbatches >= 2 * ranks:
        return None
    return f"needs {2 * ranks} micro-batches or more for {ranks} ranks, not {microbatches}: take as many, or 'zb-v'"


SCHEDULES: dict[str, PipelineSchedule] = {
    "gpipe": PipelineSchedule(
        lambda ranks, microbatches, chunks, costs: gpipe(ranks, microbatches),
        "all forwards, then all backwards; holds every micro-batch (arXiv 1811.06965)",
    ),
    "1f1b": PipelineSchedule(
        lambda ranks, microbatches, chunks, costs: one_f_one_b(ranks, microbatches),
        "one forward, one backward: GPipe's bubble, at most as many micro-batches held as ranks (arXiv 2104.04473)",
    ),
    "eager-1f1b": PipelineSchedule(
        lambda ranks, microbatches, chunks, costs: eager_1f1b(ranks, microbatches),
        "1F1B with twice the warm-up: hides slow links, holds twice as much (arXiv 2211.05322)",
        lookahead=4,  # two F and two B: what its warm-up hides of a message there and back
    ),
    "interleaved": PipelineSchedule(
        lambda ranks, microbatches, chunks, costs: interleaved_1f1b(ranks, microbatches, chunks),
        "1F1B with several stages per rank: the bubble divided by them, the messages times them (arXiv 2104.04473)",
        chunks=(1, None),
        usual_chunks=2,
        refuses=_groups,
    ),
    "breadth-first": PipelineSchedule(
        lambda ranks, microbatches, chunks, costs: breadth_first(ranks, microbatches, chunks),
        "all micro-batches through one stage before the next: for sharded data parallelism (arXiv 2211.05953)",
        chunks=(1, None),
        usual_chunks=2,
    ),
    "zb-h1": PipelineSchedule(
        lambda ranks, microbatches, chunks, costs: zb_h1(ranks, microbatches, costs, chunks=chunks),
        "1F1B with the backward split, W in the gaps: a third of its bubble (arXiv 2401.10241)",
        chunks=(1, None),
        splits=True,
        refuses=_groups,
    ),
    "zb-h2": PipelineSchedule(
        lambda ranks, microbatches, chunks, costs: zb_h2(ranks, microbatches, costs),
        "with twice the warm-up as well: no waiting once begun, nearly twice as much held (arXiv 2401.10241)",
        splits=True,
    ),
    "zb-auto": PipelineSchedule(
        lambda ranks, microbatches, chunks, costs: zb_auto(ranks, microbatches, costs),
        "the best of warm-ups between the two for the costs at hand (arXiv 2401.10241)",
        splits=True,
    ),
    "zb-v": PipelineSchedule(
        lambda ranks, microbatches, chunks, costs: zb_v(ranks, microbatches, costs),
        "two stages per rank in a V: no waiting once begun, and 1F1B's memory (arXiv 2401.10241)",
        chunks=(2, 2),
        usual_chunks=2,
        splits=True,
        place=lambda ranks, chunks: v_shape(ranks),
    ),
    "v-half": PipelineSchedule(
        lambda ranks, microbatches, chunks, costs: v_half(ranks, microbatches, costs),
        "in a V with half of 1F1B's memory and half of its bubble (arXiv 2405.15362)",
        chunks=(2, 2),
        usual_chunks=2,
        splits=True,
        place=lambda ranks, chunks: v_shape(ranks),
    ),
    "v-min": PipelineSchedule(
        lambda ranks, microbatches, chunks, costs: v_min(ranks, microbatches, costs),
        "in a V with about a third of 1F1B's memory and two thirds of its bubble (arXiv 2405.15362)",
        chunks=(2, 2),
        usual_chunks=2,
        splits=True,
        place=lambda ranks, chunks: v_shape(ranks),
    ),
    "dualpipe-v": PipelineSchedule(
        lambda ranks, microbatches, chunks, costs: dualpipe_v(ranks, microbatches),
        "in a V, each forward beside a backward of the other stage, whose messages it hides (DeepSeek's DualPipe)",
        chunks=(2, 2),
        usual_chunks=2,
        splits=True,
        place=lambda ranks, chunks: v_shape(ranks),
        refuses=_fills_both_ways,
    ),
}


def make_schedule(
    name: str, ranks: int, microbatches: int, *, chunks: int | None = None, costs: Costs | None = None
) -> Schedule:
    """Bare compute of the schedule `name` of SCHEDULES; `add_messages`, with its `lookahead`, makes it fit to run.

    `chunks` is the number of stages per rank (default: the schedule's usual one). `costs` guide those schedules that
    are fitted to them; without, all stages count as equal, with I and W as long as F.
    Raises GrainlineError for an unknown name and for numbers that the schedule can't take, saying what it can.
    """
    if name not in SCHEDULES:
        raise GrainlineError(f"there is no pipeline schedule '{name}'.{nearest(name, SCHEDULES)}")
    schedule = SCHEDULES[name]
    for what, number in (("ranks", ranks), ("micro-batches", microbatches)):
        if number < 1:
            raise GrainlineError(f"a pipeline of {number} {what}: there must be 1 or more")
    chunks = schedule.usual_chunks if chunks is None else chunks
    fewest, most = schedule.chunks
    if chunks < fewest or (most is not None and chunks > most):
        allowed = f"{fewest}" if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"
        raise GrainlineError(
            f"schedule '{name}' has {allowed} {'stage' if allowed == '1' else 'stages'} per rank, not {chunks}: "
            f"{'leave the chunks out, or take' if most == 1 else 'take'} {_taking(chunks)}"
        )
    refusal = schedule.refuses(ranks, microbatches, chunks)
    if refusal:
        raise GrainlineError(f"schedule '{name}' {refusal}")
    return schedule.make(ranks, microbatches, chunks, costs or equal_costs())


def _taking(chunks: int) -> str:
    """The schedules that take so many chunks, for people."""
    names = [
        f"'{name}'"
        for name, schedule in SCHEDULES.items()
        if schedule.chunks[0] <= chunks and (schedule.chunks[1] is None or chunks <= schedule.chunks[1])
    ]
    return ", ".join(names) if names else "1 or more"
