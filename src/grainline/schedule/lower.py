"""lower: a schedule, what its actions cost, and a network → a TaskGraph, which `simulate` plays.

Compute takes its stage's seconds on its rank; passes that belong to no stage take `costs.rank_seconds`. A message takes
the latency of its route and then moves bytes over its links: forward the sending stage's output, backward a gradient of
the same size. Copies to host memory and back move what F kept over the rank's host link. `collectives.py` says what
collectives cost, `lower_memory.py` what is held when.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from grainline.schedule.actions import COLLECTIVES, COMPUTE, COPIES, SENDS, Kind
from grainline.schedule.collectives import NOTHING, Crossing, crossing, root_of
from grainline.schedule.columns import CODE, KINDS, Columns, StageTable
from grainline.schedule.costs import Costs
from grainline.schedule.dependencies import ScheduleError, Stream, Tasks, tasks_of
from grainline.schedule.graph import Floats, Interference, Ints, Ragged, TaskGraph, Tier
from grainline.schedule.lower_memory import kept_by_forward, memory_of
from grainline.schedule.network import Network, Route
from grainline.schedule.schedule import Schedule
from grainline.schedule.timeline import host_tier, rank_tier

OF_STAGE = (Kind.F, Kind.B, Kind.I, Kind.W, Kind.R)  # what a stage's cost has seconds for


def lower(
    schedule: Schedule,
    costs: Costs,
    network: Network,
    *,
    capacity_bytes: Mapping[int, float] | None = None,
    host_capacity_bytes: Mapping[int, float] | None = None,
    count_received: bool = True,
    overlap_speed: float = 1.0,
) -> TaskGraph:
    """The schedule as tasks on streams, links and memory tiers.

    `capacity_bytes[r]` is the room of rank r, `host_capacity_bytes[r]` that of its host memory for activations; without
    bound where nothing is said. `count_received=False` leaves received tensors out of memory. While a message or a
    collective of a rank is under way, its compute runs at `overlap_speed` (several at once multiply).

    Raises ScheduleError where an action has no cost, or a rank offloads and the network has no way to its host.
    """
    tasks = tasks_of(schedule)
    columns = Columns.of(tasks.tasks)
    table = StageTable.of(costs, schedule.ranks, columns)
    messages = _message_bytes(columns, table)
    crossings = _crossings(schedule, costs, network, tasks, columns, messages, kept_by_forward(columns, table))
    streams, stream = _streams(tasks, schedule.ranks)
    own, hosts = capacity_bytes or {}, host_capacity_bytes or {}
    offloads = bool(columns.are(*COPIES).any())
    tiers = [Tier(rank_tier(rank), own.get(rank)) for rank in range(schedule.ranks)]
    tiers += [Tier(host_tier(rank), hosts.get(rank)) for rank in range(schedule.ranks) if offloads]
    base_bytes = np.zeros(len(tiers))
    base_bytes[: schedule.ranks] = [costs.static_bytes.get(rank, 0.0) for rank in range(schedule.ranks)]
    host = np.arange(schedule.ranks) + schedule.ranks
    return TaskGraph(
        streams=tuple(map(_name, streams)),
        links=network.links,
        tiers=tuple(tiers),
        base_bytes=base_bytes,
        stream=stream,
        seconds=_compute_seconds(costs, tasks, columns, table) + np.array([c.seconds for c in crossings]),
        bytes=np.array([c.bytes for c in crossings]),
        crosses=Ragged.of([c.links for c in crossings]),
        needs=Ragged.of(tasks.needs),
        memory=memory_of(columns, table, host, messages if count_received else None),
        actions=tuple(task.action for task in tasks.tasks),
        rank=columns.rank.astype(np.int32),
        interference=_interference(tasks, streams, overlap_speed),
    )


def _name(stream: Stream) -> str:
    """E.g. "compute 3", "forward 0→1"."""
    return f"{stream.what} {stream.rank}" + (f"→{stream.to}" if stream.to >= 0 else "")


def _streams(tasks: Tasks, ranks: int) -> tuple[list[Stream], Ints]:
    """Every rank's compute first, then what else there is; and the number of each task's."""
    number = {Stream("compute", rank): rank for rank in range(ranks)}
    stream = [number.setdefault(task.stream, len(number)) for task in tasks.tasks]
    return list(number), np.array(stream, dtype=np.int32)


def _message_bytes(columns: Columns, table: StageTable) -> Floats:
    """By task: the output of the stage that is earlier on the path; 0 for what is no message."""
    forward, backward = columns.are(Kind.SEND_F), columns.are(Kind.SEND_B)
    found = np.zeros(len(columns))
    found[forward] = table.output_bytes[table.row(columns.stage, columns.rank)[forward]]
    found[backward] = table.output_bytes[table.row(columns.peer_stage, columns.peer)[backward]]
    return found


def _compute_seconds(costs: Costs, tasks: Tasks, columns: Columns, table: StageTable) -> Floats:
    """By task; 0 for what is no compute."""
    by_kind = np.full(len(KINDS), np.nan)
    by_kind[CODE[Kind.UPDATE]] = 0.0  # unless it is said
    for kind, one in costs.rank_seconds.items():
        by_kind[CODE[kind]] = one
    said = np.where(
        columns.are(*OF_STAGE),
        table.seconds[table.row(columns.stage, columns.rank), columns.kind],
        by_kind[columns.kind],
    )
    seconds = np.where(columns.are(*COMPUTE), said, 0.0)
    for task in np.flatnonzero(np.isnan(seconds))[:1].tolist():
        raise ScheduleError(f"the costs say nothing of {tasks.name(task)}")
    return seconds


def _crossings(
    schedule: Schedule,
    costs: Costs,
    network: Network,
    tasks: Tasks,
    columns: Columns,
    message_bytes: Floats,
    kept_bytes: Floats,
) -> list[Crossing]:
    """What each task does to links."""
    found = [NOTHING] * len(columns)
    routes: dict[tuple[int, int], Route] = {}
    for i in np.flatnonzero(columns.are(*SENDS)).tolist():
        ends = tasks.tasks[i].places[0].rank, tasks.tasks[i].action.peer
        if ends not in routes:
            routes[ends] = network.route(*ends)
        found[i] = Crossing(routes[ends].latency_seconds, float(message_bytes[i]), routes[ends].links)
    for i in np.flatnonzero(columns.are(*COPIES)).tolist():
        rank, action = tasks.tasks[i].places[0].rank, tasks.tasks[i].action
        if not network.host:
            raise ScheduleError(f"{tasks.name(i)}: the network has no way to a host. Give it one: Network.with_host")
        way = network.host[rank][0 if action.kind is Kind.OFFLOAD else 1]
        found[i] = Crossing(way.latency_seconds, float(kept_bytes[i]), way.links)
    rings: dict[tuple[Kind, tuple[int, ...], int], Crossing] = {}
    for i in np.flatnonzero(columns.are(*COLLECTIVES)).tolist():
        kind, m = tasks.tasks[i].action.kind, tasks.tasks[i].action.microbatch
        ring = kind, tuple(place.rank for place in tasks.tasks[i].places), root_of(schedule, kind, m)
        if ring not in rings:
            rings[ring] = crossing(*ring, costs.collective_bytes.get(kind, 0.0), network)
        found[i] = rings[ring]
    return found


def _interference(tasks: Tasks, streams: list[Stream], overlap_speed: float) -> tuple[Interference, ...]:
    """Compute of a rank is slowed by its messages and collectives."""
    if overlap_speed == 1.0:
        return ()
    takes_part: dict[Stream, set[int]] = {}
    for task in tasks.tasks:
        if task.stream.what not in ("compute", "copy"):
            takes_part.setdefault(task.stream, set()).update(place.rank for place in task.places)
    return tuple(
        Interference(rank, _name(stream), overlap_speed)
        for stream in streams
        for rank in sorted(takes_part.get(stream, ()))
    )
