"""Queues: single messages that arrive at random and wait for devices, as a TaskGraph that the simulator plays.

The flow says how many devices a stage keeps busy; this says how long messages wait for so many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from grainline.documents import GrainlineError
from grainline.documents.filters import Filters
from grainline.plan.filters.flow import Flow
from grainline.schedule.actions import Action, Kind
from grainline.schedule.simulator.graph import Memory, Ragged, TaskGraph
from grainline.schedule.simulator.simulate import simulate
from grainline.schedule.timeline import Timeline


@dataclass(frozen=True)
class Queued:
    """What single messages met: the mean wait in front of each stage, and each message's time to its end."""

    timeline: Timeline
    devices: dict[str, int]
    utilisation: dict[str, float]
    wait_seconds: dict[str, float]
    seconds: np.ndarray[tuple[int], np.dtype[np.float64]]


def queued(filters: Filters, flow: Flow, messages: int, *, ceiling: float = 0.8, seed: int = 0) -> Queued:
    """So many messages with exponential gaps through the stages that take time, each with devices enough for `ceiling`.

    A stage's message goes to the device that has waited longest, in turn. Whether a message passes is drawn with the
    stage's share. Only for one chain of stages: parts that meet are one message. GrainlineError where no stage takes
    time, or the devices are more than a picture of single messages is good for.
    """
    timed = [flow.steps[name] for name in filters.order() if flow.steps[name].devices]
    if not timed:
        raise GrainlineError("no stage takes time: set seconds_per_unit and work in some.")
    if any(filters.stages[name].merge == "sum" for name in filters.stages):
        raise GrainlineError("queues are drawn for messages of one kind: no merge may be 'sum'.")
    devices = {one.name: max(math.ceil(one.devices / ceiling), 1) for one in timed}
    if sum(devices.values()) > 4096:
        raise GrainlineError(
            f"{sum(devices.values()):,} devices are too many to draw message by message; lower the rates and the "
            "devices alike: queues of many devices hardly wait."
        )
    generator = np.random.default_rng(seed)
    streams = ["arrivals", *(f"{one.name} {i}" for one in timed for i in range(devices[one.name]))]
    first = dict(zip(devices, np.cumsum([1, *list(devices.values())[:-1]]).tolist(), strict=True))
    taken = dict.fromkeys(devices, 0)
    stream: list[int] = []
    seconds: list[float] = []
    needs: list[list[int]] = []
    of: list[tuple[int, int]] = []  # number of the stage, −1 for an arrival, and message
    arrived: list[int] = []
    for message, gap in enumerate(generator.exponential(1 / timed[0].rates.total, messages).tolist()):
        arrived.append(len(stream))
        stream.append(0)
        seconds.append(gap)
        needs.append([])
        of.append((-1, message))
        before = arrived[-1]
        for number, one in enumerate(timed):
            service = one.work.units * filters.stages[one.name].seconds_per_unit
            stream.append(first[one.name] + taken[one.name] % devices[one.name])
            taken[one.name] += 1
            seconds.append(service)
            needs.append([before])
            of.append((number, message))
            before = len(stream) - 1
            later = timed[number + 1].rates.total if number + 1 < len(timed) else 0.0
            if generator.random() >= later / one.rates.total:
                break
    n = len(stream)
    graph = TaskGraph(
        streams=tuple(streams),
        links=(),
        tiers=(),
        base_bytes=np.zeros(0),
        stream=np.array(stream, np.int32),
        seconds=np.array(seconds),
        bytes=np.zeros(n),
        crosses=Ragged.of(tuple([()] * n)),
        needs=Ragged.of(needs),
        memory=Memory.none(),
        actions=tuple(Action(Kind.F, max(stage, 0), message) for stage, message in of),
        rank=np.array([max(stage, 0) for stage, _ in of], np.int32),
    )
    played = simulate(graph, filters.name)
    waits: dict[str, list[float]] = {one.name: [] for one in timed}
    total = np.zeros(messages)
    for task, (stage, message) in enumerate(of):
        if stage >= 0:
            waits[timed[stage].name].append(float(played.start[task] - played.end[needs[task][0]]))
            total[message] = played.end[task] - played.end[arrived[message]]
    return Queued(
        played,
        devices,
        {one.name: one.devices / devices[one.name] for one in timed},
        {name: float(np.mean(values)) for name, values in waits.items() if values},
        total,
    )
