"""Which worker does which task, and when: the list played with given times. Link and host are places like workers."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush

from grainline.documents import GrainlineError
from grainline.schedule.overlap.layer import TileDevice
from grainline.schedule.overlap.tasks import ON_LINK, TilePlan, TileTask, What


@dataclass(frozen=True)
class Placed:
    """By task: its place (workers, then the link, then the host), start and end in seconds; `order`: as they began."""

    place: list[int]
    start: list[float]
    end: list[float]
    order: list[int]


def seconds_of(plan: TilePlan, task: int, device: TileDevice) -> float:
    """That a task takes. A tile takes a whole one's time, however few of its rows and columns are there."""
    one, layer, shape = plan.tasks[task], plan.layer, plan.shape
    cells = shape.rows * shape.columns
    if one.what is What.UP:
        return 2.0 * cells * layer.width * layer.up_matrices * device.workers / device.flops_per_second
    if one.what is What.DOWN:
        return 2.0 * cells * layer.hidden * device.workers / device.flops_per_second
    if one.what is What.COMBINE:  # read the row and its token's sum, write the sum
        return 3.0 * cells * layer.element_bytes * device.workers / device.memory_bytes_per_second
    if one.what is What.JOIN:
        return one.launches * device.launch_seconds
    return plan.bytes_of(task) / link_rate(plan, one, device)


def link_rate(plan: TilePlan, task: TileTask, device: TileDevice) -> float:
    """Bytes a second of a dispatch or return; what workers push themselves is bounded by how many they are."""
    pushed = task.what is What.RETURN and plan.comm_workers
    pushers = plan.comm_workers * device.push_bytes_per_second if pushed else float("inf")
    return min(device.link_bytes_per_second, pushers)


def place(plan: TilePlan, device: TileDevice) -> Placed:
    """Raises GrainlineError where no worker would be left to compute."""
    if plan.comm_workers >= device.workers:
        raise GrainlineError(
            f"{plan.comm_workers} of {device.workers} workers communicate, so that none computes: take fewer."
        )
    seconds = [seconds_of(plan, task, device) for task in range(len(plan))]
    return (_in_order if plan.claims == "in order" else _when_ready)(plan, device, seconds)


def pool_of(plan: TilePlan, task: TileTask, workers: int) -> range:
    """Places that may do it."""
    if task.what in ON_LINK:
        return range(workers, workers + 1)
    if task.what is What.JOIN:
        return range(workers + 1, workers + 2)
    computing = workers - plan.comm_workers
    if task.what is What.COMBINE and plan.comm_workers:
        return range(computing, workers)
    return range(computing if task.what is What.DOWN else workers)


def _in_order(plan: TilePlan, device: TileDevice, seconds: list[float]) -> Placed:
    """Each task goes to whoever of its pool is free first, who then waits until it can begin."""
    free = [0.0] * (device.workers + 2)
    placed, start, end = [0] * len(plan), [0.0] * len(plan), [0.0] * len(plan)
    for i, task in enumerate(plan.tasks):
        who = placed[i] = min(pool_of(plan, task, device.workers), key=free.__getitem__)
        start[i] = max(free[who], max((end[need] for need in task.needs), default=0.0))
        end[i] = free[who] = start[i] + seconds[i]
    return Placed(placed, start, end, sorted(range(len(plan)), key=lambda i: (start[i], i)))


def _when_ready(plan: TilePlan, device: TileDevice, seconds: list[float]) -> Placed:
    """Whoever is idle takes what has been ready longest, whatever its kind."""
    n = len(plan)
    placed, start, end, order = [0] * n, [0.0] * n, [0.0] * n, list[int]()
    pools = [pool_of(plan, task, device.workers) for task in plan.tasks]
    left = [len(task.needs) for task in plan.tasks]
    needed_by: list[list[int]] = [[] for _ in range(n)]
    for i, task in enumerate(plan.tasks):
        for need in task.needs:
            needed_by[need].append(i)
    idle = {pool: list(pool) for pool in pools}
    ready: dict[range, list[tuple[float, int]]] = {pool: [] for pool in idle}
    for i in range(n):
        if not left[i]:
            heappush(ready[pools[i]], (0.0, i))
    ending: list[tuple[float, int]] = []
    now = 0.0
    while True:
        for pool, queue in ready.items():
            while queue and idle[pool]:
                i = heappop(queue)[1]
                placed[i] = heappop(idle[pool])
                start[i], end[i] = now, now + seconds[i]
                heappush(ending, (end[i], i))
                order.append(i)
        if not ending:
            return Placed(placed, start, end, order)
        now, i = heappop(ending)
        heappush(idle[pools[i]], placed[i])
        for other in needed_by[i]:
            left[other] -= 1
            if not left[other]:
                heappush(ready[pools[other]], (now, other))
