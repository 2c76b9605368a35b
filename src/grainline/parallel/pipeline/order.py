"""In which order a rank works through its list: as planned, or taking backwards as their gradients arrive.

A planned order fits the durations that it was planned with. Where real ones differ, a rank may wait for one gradient
while another is there already (SkipPipe, arXiv 2502.19913, leaves that choice to the run). The list stays what was
planned; what was done is in the step's spans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from grainline.schedule import Action, Kind

BACKWARDS = frozenset({Kind.B, Kind.I})

Do = Callable[[Action], None]
Step = tuple[Do, Action]
Order = Callable[[Sequence[Step], Callable[[Action], bool]], Iterator[Step]]
"""A rank's list, and whether a backward could start at once → the steps in the order to take them."""


def as_planned(program: Sequence[Step], is_ready: Callable[[Action], bool]) -> Iterator[Step]:
    """The list as it is."""
    yield from program


def by_arrival(program: Sequence[Step], is_ready: Callable[[Action], bool]) -> Iterator[Step]:
    """Where the next step is a backward that would wait, the first later one that wouldn't, with what it sends back.

    Receives of gradients are posted first, so that any may arrive; everything else keeps its place.
    """
    todo = [step for step in program if step[1].kind is Kind.RECV_B]
    todo += [step for step in program if step[1].kind is not Kind.RECV_B]
    while todo:
        at = 0
        if todo[0][1].kind in BACKWARDS and not is_ready(todo[0][1]):
            at = next((i for i, (_, a) in enumerate(todo) if a.kind in BACKWARDS and is_ready(a)), 0)
        do, action = todo.pop(at)
        yield do, action
        if at:
            send = next((i for i, (_, a) in enumerate(todo) if a.kind is Kind.SEND_B and _key(a) == _key(action)), None)
            if send is not None:
                yield todo.pop(send)


def _key(action: Action) -> tuple[int, int]:
    return action.stage, action.microbatch


ORDERS: dict[str, Order] = {"planned": as_planned, "arrival": by_arrival}
"""A plan's pipeline.backwards → how the list is gone through."""
