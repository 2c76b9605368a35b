"""A list of tile tasks as a TaskGraph, which `simulate` plays: a stream for each worker, the link and the host.

A link's messages go one after another at its whole rate. In a balanced exchange every rank sends as much as it gets, so
what comes in before the experts and what goes back after them share one link.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from grainline.schedule.actions import Action, Kind
from grainline.schedule.overlap.layer import TileDevice
from grainline.schedule.overlap.place import Placed, place, seconds_of
from grainline.schedule.overlap.tasks import ON_LINK, TilePlan, What
from grainline.schedule.simulator.graph import Link, Memory, Ragged, TaskGraph
from grainline.schedule.simulator.simulate import simulate
from grainline.schedule.timeline import Timeline

KINDS = {
    What.DISPATCH: Kind.DISPATCH,
    What.UP: Kind.UP,
    What.JOIN: Kind.JOIN,
    What.DOWN: Kind.DOWN,
    What.RETURN: Kind.RETURN,
    What.COMBINE: Kind.COMBINE,
}


def lower(plan: TilePlan, device: TileDevice, placed: Placed | None = None) -> TaskGraph:
    """The plan's tasks, those of each place in the order in which it does them."""
    placed = place(plan, device) if placed is None else placed
    order, number = placed.order, {task: i for i, task in enumerate(placed.order)}
    tasks = [plan.tasks[task] for task in order]
    moved = [plan.bytes_of(task) for task in order]
    links = [Link("link", device.link_bytes_per_second)]
    pushed = plan.comm_workers * device.push_bytes_per_second
    if plan.comm_workers and np.isfinite(pushed):
        links.append(Link("communicating workers", pushed))
    returns = tuple(range(len(links)))
    crosses: list[tuple[int, ...]] = [
        () if task.what not in ON_LINK else returns if task.what is What.RETURN else (0,) for task in tasks
    ]
    needs: list[tuple[int, ...]] = [tuple(number[need] for need in task.needs) for task in tasks]
    stream = np.array([placed.place[task] for task in order], np.int32)
    on_link = [task.what in ON_LINK for task in tasks]
    seconds = [0.0 if there else seconds_of(plan, task, device) for task, there in zip(order, on_link, strict=True)]
    return TaskGraph(
        streams=rows(device.workers),
        links=tuple(links),
        tiers=(),
        base_bytes=np.zeros(0),
        stream=stream,
        seconds=np.array(seconds),
        bytes=np.array(moved, np.float64),
        crosses=Ragged.of(crosses),
        needs=Ragged.of(needs),
        memory=Memory.none(),
        actions=tuple(Action(KINDS[task.what], task.stage, task.expert) for task in tasks),
        rank=stream,
    )


def rows(workers: int) -> tuple[str, ...]:
    """Names of the places: workers, the link, the host."""
    return (*(f"worker {i}" for i in range(workers)), "link", "host")


def simulate_tiles(plan: TilePlan, device: TileDevice) -> Timeline:
    """The layer's timeline: its workers and its link. Raises ScheduleError where tasks wait for each other."""
    return replace(simulate(lower(plan, device), plan.name), rows=rows(device.workers))


@dataclass(frozen=True)
class Spent:
    """Where a layer's time goes. `hidden` is the share of communication that costs no time of its own."""

    seconds: float
    compute_seconds: float  # with no communication at all
    link_seconds: float  # of communication alone

    @property
    def hidden(self) -> float:
        """1 − (what communication adds) / (what it takes); 1 where there is none."""
        added = self.seconds - self.compute_seconds
        return 1 - added / self.link_seconds if self.link_seconds else 1.0


def spent(plan: TilePlan, base: TilePlan, device: TileDevice) -> Spent:
    """Of a plan, with its compute taken as that of `base`, the serial layer, on a link that takes no time."""
    compute = place(base, replace(device, link_bytes_per_second=float("inf"), launch_seconds=0.0))
    link = 2 * plan.layer.exchange_bytes / device.link_bytes_per_second
    return Spent(simulate_tiles(plan, device).makespan, max(compute.end), link)
