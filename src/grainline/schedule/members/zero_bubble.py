"""Zero-bubble schedules without a V: 1F1B whose weight gradients fill the gaps (arXiv 2401.10241)."""

from __future__ import annotations

from grainline.schedule.costs import Costs, equal_costs
from grainline.schedule.dependencies import ScheduleError
from grainline.schedule.members.interleaved import interleaving
from grainline.schedule.members.one_f_one_b import alternating, eager_1f1b
from grainline.schedule.members.weights import place_weights, shortest
from grainline.schedule.schedule import Schedule


def zb_h1(
    ranks: int, microbatches: int, costs: Costs | None = None, *, chunks: int = 1, message_seconds: float = 0.0
) -> Schedule:
    """Bare compute of ZB-H1 (section 2.1): 1F1B's order, and on every rank the most micro-batches that it holds, P.

    With F, I and W alike the bubble is a third of 1F1B's: (P − 1)(F + I − W). With several chunks it is interleaved
    1F1B with a shorter warm-up, and M must be a multiple of P.
    """
    order = interleaving("zb-h1", ranks, microbatches, chunks, ahead=1)
    return place_weights(order, costs or equal_costs(), ranks * chunks, message_seconds=message_seconds)


def zb_h2(ranks: int, microbatches: int, costs: Costs | None = None, *, message_seconds: float = 0.0) -> Schedule:
    """Bare compute of ZB-H2 (section 2.2): twice the warm-up; 2P − 1 micro-batches held.

    With F, I and W alike no rank waits between its first action and its last.
    """
    order = eager_1f1b(ranks, microbatches)
    bound = 2 * ranks - 1
    return place_weights(order, costs or equal_costs(), bound, message_seconds=message_seconds, name="zb-h2")


def zb_auto(
    ranks: int,
    microbatches: int,
    costs: Costs | None = None,
    *,
    held: int | None = None,
    message_seconds: float = 0.0,
) -> Schedule:
    """Bare compute fitted to real costs and to memory (section 3.1): the best of warm-ups from ZB-H1's to ZB-H2's.

    `held` bounds the micro-batches held on a rank: P for the paper's ZB-1p, 2P for its ZB-2p, which is the default.
    Raises ScheduleError for less than P.
    """
    bound = 2 * ranks if held is None else held
    behind = range(ranks - 1, -1, -1)
    warm_ups = {tuple(min(bound - 1, round(ahead * n)) for n in behind) for ahead in (1.0, 1.25, 1.5, 1.75, 2.0)}
    if bound < ranks:
        raise ScheduleError(f"{bound} micro-batches held on {ranks} ranks: must be {ranks} or more")
    orders = [
        (alternating("zb-auto", each, microbatches), most)
        for each in sorted(warm_ups)
        for most in sorted({max(ranks, each[0] + 1), bound})
    ]
    return shortest(orders, costs or equal_costs(), message_seconds=message_seconds, name="zb-auto")
