"""Conflict-based search over the routes of all micro-batches (Sharon et al. 2015; with times, Andreychuk et al. 2022).

What is optimised is the longest walk: the time at which the last micro-batch is back, each walking as early as it may,
subject to all constraints of `problem.py`. A node of the tree gives each micro-batch what it is forbidden, and its best
walk under that alone; the longest of them bounds every solution below the node. The first constraint that the walks
break together splits it (`violations.py`), and only the micro-batch that a choice concerns is planned again. A child
whose quotas can't be met any more, by a flow from micro-batches over stages to nodes, is dropped, and so is one with
the same prohibitions as another.

The tree is searched best first, each time down to a solution or a dead end, so that there is something at any time.
With time enough the end is exact: no solution within the constraints has a shorter longest walk.
"""

from __future__ import annotations

import heapq
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from grainline.plan.skip.problem import SkipProblem, What
from grainline.plan.skip.search import best_route
from grainline.plan.skip.violations import Choice, excess, first_violation
from grainline.plan.skip.walk import Walk

Walks = tuple[Walk, ...]
Closed = tuple[tuple[tuple[int, What], tuple[tuple[float, float], ...]], ...]  # Windows that can be hashed


@dataclass(frozen=True)
class Forbidden:
    """To one micro-batch."""

    nodes: frozenset[int] = frozenset()
    windows: Closed = ()

    def also(self, choice: Choice) -> Forbidden:
        """With a choice added."""
        if choice.instead is None:
            return replace(self, nodes=self.nodes | set(choice.nodes))
        visit, windows = choice.instead, dict(self.windows)
        here = windows.get((visit.node, visit.what), ())
        windows[visit.node, visit.what] = tuple(sorted((*here, (visit.start, choice.until))))
        return replace(self, windows=tuple(sorted(windows.items())))


@dataclass(frozen=True)
class Branch:
    """A node of the tree."""

    forbidden: tuple[Forbidden, ...]  # by agent
    walks: Walks
    excess: int

    @property
    def seconds(self) -> float:
        """No solution below has a shorter longest walk."""
        return max(one.seconds for one in self.walks)

    @property
    def key(self) -> tuple[float, int, float]:
        """What is looked at first."""
        return self.seconds, self.excess, sum(one.seconds for one in self.walks)


@dataclass(frozen=True)
class Found:
    """What a search came to. `solutions` obey all constraints asked for, each with a shorter longest walk than before.

    No solution has a longest walk below `bound_seconds`.
    """

    solutions: tuple[Walks, ...]
    bound_seconds: float
    expanded: int


def longest(walks: Sequence[Walk]) -> float:
    """When the last is back."""
    return max(one.seconds for one in walks)


def conflict_based_search(
    problem: SkipProblem,
    *,
    collisions: bool = True,
    look: Callable[[Walks], None] = lambda walks: None,
    enough: Callable[[int], bool] = lambda solutions: False,
    expansions: int = sys.maxsize,
    until: float = float("inf"),
) -> Found:
    """Search until the best is proven, or the number of solutions is `enough`, or so many branches have been looked at,
    or time.monotonic() says `until`.

    Without `collisions` TC2 is left out. All walks on the way that keep to their quotas are shown to `look`, whether
    they collide or not. Where nothing obeys the constraints there are no solutions, and `bound_seconds` is infinite.
    """
    search = _Search(problem, collisions, look)
    root = search.root()
    waiting: list[tuple[tuple[float, int, float], int, Branch]] = []
    if root is not None:
        heapq.heappush(waiting, (root.key, 0, root))
    ended = False
    while waiting and not ended:
        branch: Branch | None = heapq.heappop(waiting)[2]
        while branch is not None and branch.seconds < search.best:
            tired = search.expanded >= expansions or time.monotonic() > until
            if tired or enough(len(search.solutions)):
                heapq.heappush(waiting, (branch.key, search.next_number(), branch))
                ended = True
                break
            children = sorted(search.children(branch), key=lambda child: child.key)
            for child in children[1:]:
                heapq.heappush(waiting, (child.key, search.next_number(), child))
            branch = children[0] if children else None
    open_seconds = min((branch.seconds for _, _, branch in waiting), default=float("inf"))
    return Found(tuple(search.solutions), min(open_seconds, search.best), search.expanded)


class _Search:
    def __init__(self, problem: SkipProblem, collisions: bool, look: Callable[[Walks], None]) -> None:
        self.problem, self.collisions, self.look = problem, collisions, look
        self.best = float("inf")
        self.solutions: list[Walks] = []
        self.seen: set[tuple[Forbidden, ...]] = set()
        self.expanded = self.numbered = 0

    def next_number(self) -> int:
        """Of equal branches the one that was made first is looked at first."""
        self.numbered += 1
        return self.numbered

    def root(self) -> Branch | None:
        walks = [best_route(self.problem, agent) for agent in range(self.problem.agents)]
        found = tuple(one for one in walks if one is not None)
        if len(found) < len(walks):
            return None
        return self._branch((Forbidden(),) * len(found), found)

    def children(self, branch: Branch) -> list[Branch]:
        """Those that may yet lead to something better. A branch that obeys everything is noted, and has none."""
        self.expanded += 1
        choices = first_violation(self.problem, branch.walks, self.collisions)
        if choices is None:
            self.solutions.append(branch.walks)
            self.best = branch.seconds
            return []
        found = [self._child(branch, choice) for choice in choices]
        return [child for child in found if child is not None]

    def _child(self, branch: Branch, choice: Choice) -> Branch | None:
        agent = choice.agent
        mine = branch.forbidden[agent].also(choice)
        forbidden = (*branch.forbidden[:agent], mine, *branch.forbidden[agent + 1 :])
        if forbidden in self.seen:
            return None
        self.seen.add(forbidden)
        if choice.nodes and not quotas_can_be_met(self.problem, [one.nodes for one in forbidden]):
            return None
        again = best_route(self.problem, agent, mine.nodes, dict(mine.windows))
        if again is None or again.seconds >= self.best:
            return None
        walks = (*branch.walks[:agent], again, *branch.walks[agent + 1 :])
        return self._branch(forbidden, walks)

    def _branch(self, forbidden: tuple[Forbidden, ...], walks: Walks) -> Branch:
        beyond = excess(self.problem, walks)
        if beyond == 0:
            self.look(walks)
        return Branch(forbidden, walks, beyond)


def quotas_can_be_met(problem: SkipProblem, forbidden: Sequence[frozenset[int]]) -> bool:
    """Whether every micro-batch can have as many different stages as it needs, with a slot for it at a node of each.

    Where all else is free that is what TC1 needs; the order of stages and missing links may ask for more. Vertices: a
    source, the micro-batches, each one's stages, nodes, a sink.
    """
    agents, stages, nodes = problem.agents, range(1, len(problem.stages)), problem.nodes
    per_agent = len(problem.stages)
    first_pair, first_node = 1 + agents, 1 + agents + agents * per_agent
    sink = first_node + nodes
    edges: list[tuple[int, int, int]] = []
    for agent in range(agents):
        edges.append((0, 1 + agent, problem.path_length - 1))
        for stage in stages:
            pair = first_pair + agent * per_agent + stage
            edges.append((1 + agent, pair, 1))
            edges += [(pair, first_node + n, 1) for n in problem.stages[stage] if n not in forbidden[agent]]
    edges += [(first_node + node, sink, problem.slots) for stage in stages for node in problem.stages[stage]]
    tail, head, room = (np.array(column, dtype=np.int32) for column in zip(*edges, strict=True))
    flow = maximum_flow(csr_array((room, (tail, head)), shape=(sink + 1, sink + 1)), 0, sink)
    return bool(flow.flow_value == agents * (problem.path_length - 1))
