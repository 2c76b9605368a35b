"""What vocabulary parallelism is held against: fewer blocks on the last rank, and the output layer in lock-step.

arXiv 2411.05288, section 6; the lock-step ("interlaced") pipeline is nnScaler's.
"""

from __future__ import annotations

from grainline.schedule.actions import Action, Kind
from grainline.schedule.schedule import Schedule, straight_paths


def redistributed_blocks(blocks: int, ranks: int, output_in_blocks: float) -> tuple[int, ...]:
    """Blocks of each rank's stage when the last has fewer, to make room for an output layer as dear as so many blocks.

    The x of the last rank makes max(x + output, ⌈(blocks − x) / (ranks − 1)⌉) least, the largest such x; the others
    share the rest, the later ones first, since the earlier hold more micro-batches.
    """
    if ranks < 2 or blocks < 1:
        raise ValueError(f"{blocks} blocks over {ranks} ranks: nothing to move")

    def slowest(x: int) -> float:
        return max(x + output_in_blocks, -(-(blocks - x) // (ranks - 1)))

    last = min(range(blocks, -1, -1), key=slowest)
    each, more = divmod(blocks - last, ranks - 1)
    return (*(each + (i >= ranks - 1 - more) for i in range(ranks - 1)), last)


def interlaced(ranks: int, microbatches: int) -> Schedule:
    """1F1B with the output layer split over all ranks, which all do it at the same time and wait for each other.

    An interval is S and T of one micro-batch on all ranks, then one forward and one backward on each. Seen from the
    last rank, whose backward comes first, every other rank has its forward first: so a micro-batch passes two ranks in
    an interval forwards and one backwards, and rank 0 holds 1.5 · P micro-batches where 1F1B holds P.
    """
    first_interval, past_last = -((ranks - 1) // 2), microbatches + ranks + 1
    lists: list[list[Action]] = []
    for rank in range(ranks):
        from_end = ranks - 1 - rank
        actions: list[Action] = []
        for t in range(first_interval, past_last):
            actions += _in_lock_step(ranks, microbatches, t)
            own = [(Kind.F, t + from_end // 2), (Kind.B, t - 1 - from_end)]
            for kind, m in own if from_end % 2 else reversed(own):
                if 0 <= m < microbatches:
                    actions.append(Action(kind, rank, m))
        lists.append(actions)
    return Schedule("interlaced", straight_paths(range(ranks), microbatches), tuple(map(tuple, lists)))


def _in_lock_step(ranks: int, microbatches: int, t: int) -> list[Action]:
    """What every rank does at the beginning of interval t: gradients come from the interval before."""
    passes = (
        (t - 1 - ranks, (Kind.C_EMBED_GRAD, Kind.EMBED_GRAD)),
        (t + (ranks - 1) // 2, (Kind.EMBED, Kind.C_EMBED)),
        (t - 1, (Kind.C0, Kind.S, Kind.C1, Kind.T, Kind.C2)),
    )
    return [Action(kind, microbatch=m) for m, kinds in passes if 0 <= m < microbatches for kind in kinds]
