"""The simulator's engine in plain Python: the meaning of a TaskGraph, step by step. `engine.cpp` does the same, faster.

Time goes from instant to instant at which something ends. At an instant

1. everything that ends then does: memory is freed, tasks that waited for it come closer to their start, and a message
   whose latency is over begins to move its bytes (it becomes a *flow*);
2. tasks that may start do, in order of index: first of their stream, its predecessor and all their `needs` ended, and
   room in every tier. Those that have waited for room longest are tried first, and one that doesn't fit lets others
   pass, but not on its own stream;
3. when nothing more ends at this instant, rates are settled: flows share links max–min fairly, and a stream that others
   disturb is slowed.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from grainline.schedule.simulator.graph import TaskGraph

ROOM = 1 + 1e-12  # sums of bytes that are no whole numbers may be off by rounding


def play(graph: TaskGraph) -> tuple[list[float], list[float], list[int]]:
    """Start and end of each task (−1: never), and the memory effects in the order in which they took place.

    Row i of `graph.memory` is 2·i where it takes effect at its task's start, and 2·i + 1 at its end.
    """
    engine = _Engine(graph)
    engine.run()
    return engine.start, engine.end, engine.effects


class _Engine:
    def __init__(self, graph: TaskGraph) -> None:
        n = len(graph)
        self.stream: list[int] = graph.stream.tolist()
        self.seconds: list[float] = graph.seconds.tolist()
        self.bytes: list[float] = graph.bytes.tolist()
        self.crosses: list[list[int]] = [graph.crosses[i].tolist() for i in range(n)]
        self.start, self.end = [-1.0] * n, [-1.0] * n

        # what waits for what
        self.needed_by: list[list[int]] = [[] for _ in range(n)]
        self.waits_for = [len(graph.needs[i]) for i in range(n)]
        for task in range(n):
            for need in graph.needs[task].tolist():
                self.needed_by[need].append(task)
        self.queue: list[list[int]] = [[] for _ in graph.streams]
        for task, stream in enumerate(self.stream):
            self.queue[stream].append(task)
        self.next = [0] * len(graph.streams)  # place in the queue
        self.running = [-1] * len(graph.streams)

        # what is under way: `left` seconds, or bytes of a flow, at `since`; `speed` a second
        self.events: list[tuple[float, int, int]] = []  # when, task, version
        self.left, self.since, self.speed = [0.0] * n, [0.0] * n, [0.0] * n
        self.version = [0] * n
        self.flowing = [False] * n

        # links
        self.capacity = [link.bytes_per_second for link in graph.links]
        self.flows: list[list[int]] = [[] for _ in graph.links]  # as often as the flow crosses
        self.share = [0.0] * n
        self.changed_links: set[int] = set()

        # interference: streams come first, then links
        self.factor = [1.0] * len(graph.streams)
        self.disturbed_by: list[list[tuple[int, float]]] = [[] for _ in graph.streams]
        self.disturbs: list[list[int]] = [[] for _ in range(len(graph.streams) + len(graph.links))]
        for stream, by, speed in graph.disturbances():
            self.disturbed_by[stream].append((by, speed))
            self.disturbs[by].append(stream)
        self.changed_streams: set[int] = set()

        # memory
        self.rows: list[list[int]] = [[] for _ in range(n)]
        for row, task in enumerate(graph.memory.task.tolist()):
            self.rows[task].append(row)
        self.tier: list[int] = graph.memory.tier.tolist()
        self.at_start: list[float] = graph.memory.start_bytes.tolist()
        self.at_end: list[float] = graph.memory.end_bytes.tolist()
        self.used: list[float] = graph.base_bytes.tolist()
        self.limit = [float("inf") if t.capacity_bytes is None else t.capacity_bytes for t in graph.tiers]
        self.waiting: list[list[int]] = [[] for _ in graph.tiers]  # for room
        self.freed: set[int] = set()
        self.turn = [0] * n  # when a task was first tried
        self.turns = 0
        self.effects: list[int] = []

    def run(self) -> None:
        first = [queue[0] for queue in self.queue if queue and not self.waits_for[queue[0]]]
        self._start_ready(first, 0.0)
        self._settle(0.0)
        while self.events:
            now = self.events[0][0]
            while self.events and self.events[0][0] == now:
                self._start_ready(self._end_all(now), now)
            self._settle(now)

    def _end_all(self, now: float) -> list[int]:
        """End what ends now; which tasks may perhaps start."""
        ending = []
        while self.events and self.events[0][0] == now:
            _, task, version = heappop(self.events)
            if version == self.version[task]:
                ending.append(task)
        candidates: list[int] = []
        for task in ending:
            if not self.flowing[task] and self.bytes[task] > 0 and self.crosses[task]:
                self._begin_flow(task)
            else:
                self._end(task, now, candidates)
        return candidates

    def _end(self, task: int, now: float, candidates: list[int]) -> None:
        self.end[task] = now
        stream = self.stream[task]
        self.version[task] += 1
        if self.flowing[task]:
            for link in self.crosses[task]:
                self.flows[link].remove(task)
                self.changed_links.add(link)
                self.changed_streams.update(self.disturbs[len(self.queue) + link])
        for row in self.rows[task]:
            self._effect(row, self.at_end, 1)
        self.running[stream] = -1
        self.changed_streams.update(self.disturbs[stream])
        self.next[stream] += 1
        for other in self.needed_by[task]:
            self.waits_for[other] -= 1
            if not self.waits_for[other] and self._is_next(other) and self.stream[other] != stream:
                candidates.append(other)
        if self.next[stream] < len(self.queue[stream]):
            after = self.queue[stream][self.next[stream]]
            if not self.waits_for[after]:
                candidates.append(after)

    def _is_next(self, task: int) -> bool:
        stream = self.stream[task]
        return self.running[stream] < 0 and self.queue[stream][self.next[stream]] == task

    def _start_ready(self, candidates: list[int], now: float) -> None:
        candidates.sort()
        for task in candidates:
            self.turn[task] = self.turns
            self.turns += 1
        while candidates or self.freed:
            longest_first: list[int] = []
            for tier in self.freed:
                longest_first += self.waiting[tier]
                self.waiting[tier] = []
            self.freed.clear()
            longest_first.sort(key=self.turn.__getitem__)
            for task in [*longest_first, *candidates]:
                self._try(task, now)
            candidates = []

    def _try(self, task: int, now: float) -> None:
        for row in self.rows[task]:
            tier, wanted = self.tier[row], self.at_start[row]
            if wanted > 0 and self.used[tier] + wanted > self.limit[tier] * ROOM:
                self.waiting[tier].append(task)
                return
        for row in self.rows[task]:
            self._effect(row, self.at_start, 0)
        stream = self.stream[task]
        self.running[stream] = task
        self.start[task] = now
        self.changed_streams.update(self.disturbs[stream])
        if self.seconds[task] > 0 or not (self.bytes[task] > 0 and self.crosses[task]):
            self.left[task], self.since[task], self.speed[task] = self.seconds[task], now, 0.0
            self._go(task, self.factor[stream], now)
        else:
            self._begin_flow(task)

    def _begin_flow(self, task: int) -> None:
        self.flowing[task] = True
        self.version[task] += 1
        self.left[task], self.speed[task], self.share[task] = self.bytes[task], 0.0, 0.0
        for link in self.crosses[task]:
            self.flows[link].append(task)
            self.changed_links.add(link)
            self.changed_streams.update(self.disturbs[len(self.queue) + link])

    def _effect(self, row: int, effect_bytes: list[float], at_end: int) -> None:
        if effect_bytes[row] != 0:
            self.used[self.tier[row]] += effect_bytes[row]
            self.effects.append(2 * row + at_end)
            if effect_bytes[row] < 0:
                self.freed.add(self.tier[row])

    def _settle(self, now: float) -> None:
        """Rates until the next instant, and when that makes things end."""
        tasks = self._share_links() if self.changed_links else []
        for stream in sorted(self.changed_streams):
            factor = 1.0
            for by, speed in self.disturbed_by[stream]:
                busy = self.running[by] >= 0 if by < len(self.queue) else bool(self.flows[by - len(self.queue)])
                factor *= speed if busy else 1.0
            if factor != self.factor[stream]:
                self.factor[stream] = factor
                if self.running[stream] >= 0:
                    tasks.append(self.running[stream])
        self.changed_streams.clear()
        for task in tasks:
            base = self.share[task] if self.flowing[task] else 1.0
            self._go(task, base * self.factor[self.stream[task]], now)

    def _go(self, task: int, speed: float, now: float) -> None:
        """Go on at `speed` from now."""
        if speed == self.speed[task]:
            return
        if self.speed[task] > 0:
            self.left[task] = max(0.0, self.left[task] - (now - self.since[task]) * self.speed[task])
        self.since[task], self.speed[task] = now, speed
        self.version[task] += 1
        heappush(self.events, (now + self.left[task] / speed, task, self.version[task]))

    def _share_links(self) -> list[int]:
        """Max–min fair shares of all flows that a change can reach; which flows those are.

        Progressive filling: the link that gives its flows least decides for them; the rest is shared by the others.
        """
        reached, links = set(self.changed_links), sorted(self.changed_links)
        found: set[int] = set()
        for link in links:  # grows
            for flow in self.flows[link]:
                if flow not in found:
                    found.add(flow)
                    for other in self.crosses[flow]:
                        if other not in reached:
                            reached.add(other)
                            links.append(other)
        self.changed_links.clear()
        left = {link: self.capacity[link] for link in links}
        unshared = {link: len(self.flows[link]) for link in links}
        least = [(left[link] / unshared[link], link) for link in links if unshared[link]]
        heapify(least)
        settled: set[int] = set()
        while least:
            share, link = heappop(least)
            if not unshared[link]:
                continue
            now = left[link] / unshared[link]
            if now > share:  # other flows on it have been settled since
                heappush(least, (now, link))
                continue
            for flow in self.flows[link]:
                if flow not in settled:
                    settled.add(flow)
                    self.share[flow] = now
                    for other in self.crosses[flow]:
                        left[other] -= now
                        unshared[other] -= 1
        return sorted(found)
