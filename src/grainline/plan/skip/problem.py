"""The problem of partial pipelines (SkipPipe, arXiv 2502.19913): who serves which stage, what hops cost, what may be.

S stages are each served by several nodes. Those of stage 0, which has the embedding and the first blocks, are the data
nodes: a micro-batch starts at one of them, visits `path_length` stages in all, and comes back to its own data node for
head and loss, which count as one more stage, number S. Then the same path is walked backwards. The constraints are

- CC1: stage 0 is never skipped; it is the first of every path;
- CC2: reordering is bounded. With the frontier the furthest stage so far, a hop goes to a stage at most `max_jump`
  beyond it, or to one right behind it. Hops behind are swaps: at most `max_swaps`, and `max_back` stages back in all.
  No stage is visited twice;
- CC3: every path has the same length;
- TC1: a node is on the paths of at most `slots` micro-batches, so a stage on at most (its nodes × slots) of them;
- TC2: no two visits overlap at a node, but two backwards may, as in the authors' check (`conflicts.py`).

The labels of the constraints are the authors' as far as their code tells them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, lru_cache

from grainline.documents import GrainlineError

Route = tuple[int, ...]
"""Nodes that a micro-batch visits, its data node first; the way back to it for the loss is understood."""

Seconds = tuple[float, ...]


class What(IntEnum):
    """What a visit to a node does."""

    FORWARD = 0
    LOSS = 1  # head and loss, forward and backward, at the data node
    BACKWARD = 2


@dataclass(frozen=True)
class SkipProblem:
    """See above. Nodes are numbered from 0; one that serves no stage is left out of everything.

    `transfer_seconds[x][y]` is what one micro-batch's activations take from x to y, infinite where there is no way; the
    two directions may differ. Micro-batch a starts at node `starts[a]`, not before `release_seconds[a]`: by default the
    k-th of a data node waits for the forwards of those before it. Raises GrainlineError for what can't be solved.
    """

    stages: tuple[tuple[int, ...], ...]  # nodes that serve each
    forward_seconds: Seconds  # of a stage on each node
    transfer_seconds: tuple[Seconds, ...]
    starts: tuple[int, ...]
    path_length: int
    slots: int = 3
    backward_ratio: float = 1.5  # a backward over a forward: the authors' accounting, without recomputation
    loss_share: float = 0.25  # head and loss, both ways, over a forward
    max_jump: int = 4
    max_back: int = 2
    max_swaps: int = 2
    release_seconds: Seconds = ()

    def __post_init__(self) -> None:
        if not self.release_seconds:
            before: Counter[int] = Counter()
            found = []
            for node in self.starts:
                found.append(before[node] * self.forward_seconds[node] if node < len(self.forward_seconds) else 0.0)
                before[node] += 1
            object.__setattr__(self, "release_seconds", tuple(found))
        for problem in _problems(self):
            raise GrainlineError(problem)

    @property
    def agents(self) -> int:
        """How many micro-batches are planned for at once."""
        return len(self.starts)

    @property
    def nodes(self) -> int:
        """How many there are."""
        return len(self.forward_seconds)

    @property
    def head(self) -> int:
        """The number of the stage that has head and loss, at every data node."""
        return len(self.stages)

    @cached_property
    def stage_of(self) -> tuple[int, ...]:
        """By node; −1 where it serves none."""
        found = [-1] * self.nodes
        for stage, nodes in enumerate(self.stages):
            for node in nodes:
                found[node] = stage
        return tuple(found)

    def capacity(self, stage: int) -> int:
        """Micro-batches that a stage can take."""
        return len(self.stages[stage]) * self.slots

    def seconds(self, node: int, what: What) -> float:
        """Of a visit."""
        return self.forward_seconds[node] * (1.0, self.loss_share, self.backward_ratio)[what]

    def next_stages(self, visited: Sequence[int]) -> tuple[int, ...]:
        """Stages that CC2 lets a micro-batch visit next, after those it has visited in this order."""
        limits = len(self.stages), self.max_jump, self.max_back, self.max_swaps
        return _next_stages(tuple(visited), *limits)

    def stage_orders(self) -> tuple[tuple[int, ...], ...]:
        """Every order of stages that a path may have, CC1 to CC3, in lexicographic order."""
        found: list[tuple[int, ...]] = [(0,)]
        for _ in range(self.path_length - 1):
            found = [(*order, stage) for order in found for stage in self.next_stages(order)]
        return tuple(found)


@lru_cache(maxsize=1 << 16)
def _next_stages(
    visited: tuple[int, ...], stages: int, max_jump: int, max_back: int, max_swaps: int
) -> tuple[int, ...]:
    frontier, swaps = 0, 0
    for stage in visited:
        swaps += stage < frontier
        frontier = max(frontier, stage)
    ahead = tuple(range(frontier + 1, min(stages, frontier + max_jump + 1)))
    behind = frontier - 1
    # Each swap goes one stage back, so that as many stages as swaps are gone back in all.
    may_swap = behind > 0 and behind not in visited and swaps < min(max_swaps, max_back)
    return ((behind,) if may_swap else ()) + ahead


def _problems(p: SkipProblem) -> list[str]:
    """What is wrong, the first thing first; the later checks need the earlier ones to hold."""
    for check in (_of_numbers, _of_stages, _of_costs, _of_capacity):
        found = check(p)
        if found:
            return found
    return []


def _of_numbers(p: SkipProblem) -> list[str]:
    found = []
    if not 2 <= p.path_length <= len(p.stages):
        found.append(
            f"path_length is {p.path_length}: with {len(p.stages)} stages it must lie between 2 and {len(p.stages)}, "
            "the data nodes' stage included"
        )
    if p.slots < 1:
        found.append(f"slots is {p.slots}: a node must be able to hold 1 micro-batch or more")
    for name, value in (("max_jump", p.max_jump - 1), ("max_back", p.max_back), ("max_swaps", p.max_swaps)):
        if value < 0:
            found.append(f"{name} must be {1 if name == 'max_jump' else 0} or more")
    for name, number in (("backward_ratio", p.backward_ratio), ("loss_share", p.loss_share)):
        if not 0 <= number < math.inf:
            found.append(f"{name} is {number}: must be 0 or more")
    if not p.starts:
        found.append("there is no micro-batch: starts is empty")
    return found


def _of_stages(p: SkipProblem) -> list[str]:
    found = [f"stage {stage} is served by no node" for stage, nodes in enumerate(p.stages) if not nodes]
    served = Counter(node for nodes in p.stages for node in nodes)
    found += [f"node {node} serves {count} stages or is named twice" for node, count in served.items() if count > 1]
    found += [f"there is no node {node}: {p.nodes} have forward_seconds" for node in served if not 0 <= node < p.nodes]
    for agent, node in enumerate(p.starts):
        if node not in p.stages[0]:
            found.append(
                f"micro-batch {agent} starts at node {node}, which doesn't serve stage 0 (its nodes: "
                f"{', '.join(map(str, p.stages[0]))})"
            )
    return found


def _of_costs(p: SkipProblem) -> list[str]:
    found = []
    for node, seconds in enumerate(p.forward_seconds):
        if not 0 < seconds < math.inf:
            found.append(f"forward_seconds of node {node} is {seconds}: must be above 0")
    if len(p.release_seconds) != p.agents or any(not 0 <= s < math.inf for s in p.release_seconds):
        found.append("release_seconds must have a number of seconds, 0 or more, for each micro-batch")
    if len(p.transfer_seconds) != p.nodes or any(len(row) != p.nodes for row in p.transfer_seconds):
        return [*found, f"transfer_seconds must have {p.nodes} rows of {p.nodes}, one for each node"]
    for x, row in enumerate(p.transfer_seconds):
        for y, seconds in enumerate(row):
            if not seconds >= 0:  # also for what is no number
                found.append(f"transfer_seconds from node {x} to {y} is {seconds}: must be 0 or more, or infinite")
    return found


def _of_capacity(p: SkipProblem) -> list[str]:
    found = []
    for node, count in Counter(p.starts).items():
        if count > p.slots:
            found.append(f"{count} micro-batches start at node {node}, which has {p.slots} slots")
    if p.agents > p.capacity(0):
        found.append(f"stage 0 takes {p.capacity(0)} micro-batches, not {p.agents}")
    room = [min(p.capacity(stage), p.agents) for stage in range(1, len(p.stages))]
    wanted = p.agents * (p.path_length - 1)
    if sum(room) < wanted:
        least = min(range(1, len(p.stages)), key=p.capacity)
        found.append(
            f"{p.agents} micro-batches with paths of {p.path_length} stages make {wanted} visits beyond stage 0, and "
            f"the stages take {sum(room)}; least has stage {least}, with {p.capacity(least)} (nodes × slots). Add "
            "nodes or slots there, shorten the paths, or plan for fewer micro-batches"
        )
    return found
