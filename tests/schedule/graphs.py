"""Task graphs for tests: built by hand in few words, and random ones from Hypothesis."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from grainline.schedule import Action, Kind, TaskGraph
from grainline.schedule.simulator.graph import Interference, Link, Memory, Ragged, Tier


@dataclass(frozen=True)
class T:
    """A task: its stream, seconds, what it needs, its bytes and links, and what it does to memory, by tier."""

    stream: int = 0
    seconds: float = 0.0
    needs: tuple[int, ...] = ()
    bytes: float = 0.0
    links: tuple[int, ...] = ()
    memory: tuple[tuple[int, float, float], ...] = ()  # tier, bytes at its start, at its end


def graph_of(
    tasks: Sequence[T],
    links: Sequence[float] = (),
    tiers: Sequence[float | None] = (),
    interference: Sequence[tuple[int, str, float]] = (),
    base: Sequence[float] | None = None,
) -> TaskGraph:
    """Streams are "s0" …, links (given by their rates) "l0" …, tiers (by their capacities) "t0" …."""
    rows = [(i, *row) for i, task in enumerate(tasks) for row in task.memory]
    columns = np.array(rows, dtype=np.float64).reshape(-1, 4)
    streams = 1 + max((task.stream for task in tasks), default=0)
    return TaskGraph(
        streams=tuple(f"s{i}" for i in range(streams)),
        links=tuple(Link(f"l{i}", rate) for i, rate in enumerate(links)),
        tiers=tuple(Tier(f"t{i}", capacity) for i, capacity in enumerate(tiers)),
        base_bytes=np.array(base if base is not None else [0.0] * len(tiers), dtype=np.float64),
        stream=np.array([task.stream for task in tasks], np.int32),
        seconds=np.array([task.seconds for task in tasks], np.float64),
        bytes=np.array([task.bytes for task in tasks], np.float64),
        crosses=Ragged.of([task.links for task in tasks]),
        needs=Ragged.of([task.needs for task in tasks]),
        memory=Memory(
            columns[:, 0].astype(np.int32), columns[:, 1].astype(np.int32), columns[:, 2].copy(), columns[:, 3].copy()
        ),
        actions=tuple(Action(Kind.F, 0, i) for i in range(len(tasks))),
        rank=np.array([task.stream for task in tasks], np.int32),
        interference=tuple(Interference(*one) for one in interference),
    )


NUMBERS = st.one_of(st.integers(0, 4).map(float), st.floats(0, 3, allow_subnormal=False).map(lambda x: round(x, 6)))


@st.composite
def graphs(draw: st.DrawFn, links: int = 3, tiers: int = 2, interference: int = 2) -> TaskGraph:
    """Any graph without cycles, with at most so many links, tiers and interferences; tiers may be too small for it."""
    streams = draw(st.integers(1, 4))
    rates = draw(st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.7]), max_size=links))
    capacities = draw(st.lists(st.sampled_from([None, 4.0, 9.0]), max_size=tiers))
    tasks = []
    for i in range(draw(st.integers(1, 14))):
        memory = [
            (tier, draw(st.sampled_from([0.0, 1.0, 2.0, 0.3])), -draw(st.sampled_from([0.0, 0.0, 1.0, 2.0])))
            for tier in range(len(capacities))
            if draw(st.booleans())
        ]
        crossed = draw(st.lists(st.integers(0, len(rates) - 1), max_size=3)) if rates else []
        tasks.append(
            T(
                stream=draw(st.integers(0, streams - 1)),
                seconds=draw(NUMBERS),
                needs=tuple(draw(st.sets(st.integers(0, i - 1), max_size=3))) if i else (),
                bytes=draw(NUMBERS) if crossed else 0.0,
                links=tuple(crossed),
                memory=tuple(memory),
            )
        )
    names = [f"s{i}" for i in range(1 + max(task.stream for task in tasks))] + [f"l{i}" for i in range(len(rates))]
    slowed = [
        (draw(st.integers(0, max(task.stream for task in tasks))), draw(st.sampled_from(names)), speed)
        for speed in draw(st.lists(st.sampled_from([0.5, 0.8, 1.5]), max_size=interference))
    ]
    return graph_of(tasks, rates, capacities, slowed)
