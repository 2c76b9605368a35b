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
from grainline.schedule.columns import CODE, KINDS
from grainline.schedule.costs import Costs
from grainline.schedule.dependencies import ScheduleError, Tasks, tasks_of
from grainline.schedule.schedule import Schedule
from grainline.schedule.simulator.collectives import NOTHING, Crossing, crossing, root_of
from grainline.schedule.simulator.graph import Floats, Interference, Ragged, TaskGraph, Tier
from grainline.schedule.simulator.lower_memory import kept_by_forward, memory_of
from grainline.schedule.simulator.network import Network, Route
from grainline.schedule.simulator.stage_table import OF_STAGE, StageTable
from grainline.schedule.timeline import host_tier, rank_tier


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

    Raises ScheduleError where an action has no cost, a rank offloads and the network has no way to its host, or lists
    without messages meet a network on which messages would take time.
    """
    tasks = tasks_of(schedule)
    if network.links:
        _refuse_bare(tasks)
    table = StageTable.of(costs, tasks.actions)
    messages, kept = _message_bytes(tasks, table), kept_by_forward(tasks.columns, table)
    crossings = _crossings(tasks, costs, network, messages, kept)
    streams, stream = tasks.streams
    own, hosts = capacity_bytes or {}, host_capacity_bytes or {}
    offloads = bool(tasks.columns.are(COPIES).any())
    tiers = [Tier(rank_tier(rank), own.get(rank)) for rank in range(schedule.ranks)]
    tiers += [Tier(host_tier(rank), hosts.get(rank)) for rank in range(schedule.ranks) if offloads]
    base_bytes = np.zeros(len(tiers))
    base_bytes[: schedule.ranks] = [costs.static_bytes.get(rank, 0.0) for rank in range(schedule.ranks)]
    host = np.arange(schedule.ranks) + schedule.ranks
    return TaskGraph(
        streams=tuple(map(str, streams)),
        links=network.links,
        tiers=tuple(tiers),
        base_bytes=base_bytes,
        stream=stream,
        seconds=_seconds(tasks, costs, table) + np.array([c.seconds for c in crossings]),
        bytes=np.array([c.bytes for c in crossings]),
        crosses=Ragged.of([c.links for c in crossings]),
        needs=tasks.waits_for,
        memory=memory_of(tasks.columns, table, host, messages if count_received else np.zeros(len(tasks))),
        actions=tasks.first_actions(),
        rank=tasks.columns.rank.astype(np.int32),
        interference=_interference(tasks, overlap_speed),
    )


def _refuse_bare(tasks: Tasks) -> None:
    """Raises ScheduleError where a rank's compute uses another's and nothing carries it there."""
    of = tasks.columns
    user = np.repeat(np.arange(len(tasks)), np.diff(tasks.waits_for.offsets))
    used = tasks.waits_for.values
    is_compute = of.are(OF_STAGE)
    bare = is_compute[user] & is_compute[used] & (of.rank[user] != of.rank[used])
    for i in np.flatnonzero(bare)[:1].tolist():
        raise ScheduleError(
            f"{tasks.name(user[i])} uses {tasks.name(used[i])}, and no message carries it: add_messages puts them in"
        )


def _message_bytes(tasks: Tasks, table: StageTable) -> Floats:
    """By task: the output of the stage that is earlier on the path; 0 for what is no message."""
    of = tasks.columns
    forward = np.where(of.are([Kind.SEND_F]), table.output_bytes[table.row(of.stage, of.rank)], 0.0)
    backward = np.where(of.are([Kind.SEND_B]), table.output_bytes[table.row(of.peer_stage, of.peer)], 0.0)
    return forward + backward


def _seconds(tasks: Tasks, costs: Costs, table: StageTable) -> Floats:
    """By task: of compute, and what costs say of collectives besides their time on links."""
    of = tasks.columns
    of_rank = np.full((tasks.schedule.ranks, len(KINDS)), np.nan)
    of_rank[:, [CODE[kind] for kind in COLLECTIVES | {Kind.UPDATE}]] = 0.0  # unless it is said
    for kind, seconds in costs.rank_seconds.items():
        of_rank[:, CODE[kind]] = seconds
    for (kind, rank), seconds in costs.seconds_on.items():
        of_rank[rank, CODE[kind]] = seconds
    of_stage = table.seconds[table.row(of.stage, of.rank), of.kind]
    said = np.where(of.are(OF_STAGE), of_stage, of_rank[of.rank, of.kind])
    found: Floats = np.where(of.are(COMPUTE | COLLECTIVES), said, 0.0)
    for task in np.flatnonzero(np.isnan(found))[:1].tolist():
        raise ScheduleError(f"the costs say nothing of {tasks.name(task)}")
    return found


def _crossings(
    tasks: Tasks, costs: Costs, network: Network, message_bytes: Floats, kept_bytes: Floats
) -> list[Crossing]:
    """What each task does to links."""
    of = tasks.columns
    found = [NOTHING] * len(tasks)
    routes: dict[tuple[int, int], Route] = {}
    source, target = of.rank.tolist(), of.peer.tolist()
    for i in of.rows(SENDS).tolist():
        ends = source[i], target[i]
        if ends not in routes:
            routes[ends] = network.route(*ends)
        found[i] = Crossing(routes[ends].latency_seconds, float(message_bytes[i]), routes[ends].links)
    for i in of.rows(COPIES).tolist():
        if not network.host:
            raise ScheduleError(f"{tasks.name(i)}: the network has no way to a host. Give it one: Network.with_host")
        way = network.host[of.rank[i]][0 if of.kind[i] == CODE[Kind.OFFLOAD] else 1]
        found[i] = Crossing(way.latency_seconds, float(kept_bytes[i]), way.links)
    rings: dict[tuple[Kind, tuple[int, ...], int], Crossing] = {}
    for i in of.rows(COLLECTIVES).tolist():
        kind = KINDS[of.kind[i]]
        root = root_of(tasks.schedule, kind, int(of.microbatch[i]))
        ring = kind, tuple(tasks.actions.rank[tasks.rows[i]].tolist()), root
        if ring not in rings:
            rings[ring] = crossing(*ring, costs.collective_bytes.get(kind, 0.0), network)
        found[i] = rings[ring]
    return found


def _interference(tasks: Tasks, overlap_speed: float) -> tuple[Interference, ...]:
    """Compute of a rank is slowed by its messages and collectives."""
    if overlap_speed == 1.0:
        return ()
    streams, number = tasks.streams
    number_of_row = np.zeros(len(tasks.actions), np.int64)
    number_of_row[tasks.rows.values] = np.repeat(number, np.diff(tasks.rows.offsets))
    pairs = np.unique(np.stack([number_of_row, tasks.actions.rank], axis=1), axis=0)
    return tuple(
        Interference(rank, str(streams[stream]), overlap_speed)
        for stream, rank in pairs.tolist()
        if streams[stream].what not in ("compute", "copy")
    )
