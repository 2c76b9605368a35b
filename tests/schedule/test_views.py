"""Timelines drawn, exported and told in words, from timelines made by hand or at random."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.documents import GrainlineError
from grainline.schedule import Action, Kind, Timeline
from grainline.schedule.actions import COMPUTE
from grainline.schedule.timeline import MemorySeries
from grainline.schedule.views import perfetto
from grainline.schedule.views.causes import Causes
from grainline.schedule.views.draw import LEFT, RIGHT, compare, draw
from grainline.schedule.views.draw_colours import BOXES, EVERY, OF_STAGES, OF_TILES, PALETTE, SHADES
from grainline.schedule.views.summary import critical_path, rank_summaries, summary

F, B, SEND_F, SEND_B = Kind.F, Kind.B, Kind.SEND_F, Kind.SEND_B
Row = tuple[Action, int, int, float, float]  # action, rank, stream, start, end
WIDTH = 960.0


def timeline(rows: list[Row], *, name: str = "by hand", memory: tuple[MemorySeries, ...] = ()) -> Timeline:
    ranks = 1 + max(rank for _, rank, *_ in rows)
    streams = 1 + max(stream for _, _, stream, *_ in rows)
    columns = [np.array(column) for column in zip(*(row[1:] for row in rows), strict=True)]
    rank, stream = (column.astype(np.int32) for column in columns[:2])
    start, end = (column.astype(float) for column in columns[2:])
    names = tuple(f"stream {i}" for i in range(streams))
    return Timeline(name, "simulated", ranks, names, tuple(r[0] for r in rows), rank, stream, start, end, memory)


def two_ranks() -> Timeline:
    """Two micro-batches over two stages. F takes 1 s, B 2 s, a message 0.5 s; rank 0 computes F0.1 meanwhile."""
    memory = MemorySeries("rank 0", np.array([0.0, 0.0, 1.0, 7.0, 9.5]), np.array([1e9, 2e9, 3e9, 2e9, 1e9]), 4e9)
    return timeline(
        [
            (Action(F, 0, 0), 0, 0, 0.0, 1.0),
            (Action(F, 0, 1), 0, 0, 1.0, 2.0),
            (Action(SEND_F, 0, 0, 1, 1), 0, 2, 1.0, 1.5),
            (Action(SEND_F, 0, 1, 1, 1), 0, 2, 2.0, 2.5),
            (Action(F, 1, 0), 1, 1, 1.5, 2.5),
            (Action(B, 1, 0), 1, 1, 2.5, 4.5),
            (Action(SEND_B, 1, 0, 0, 0), 1, 3, 4.5, 5.0),
            (Action(F, 1, 1), 1, 1, 4.5, 5.5),
            (Action(B, 0, 0), 0, 0, 5.0, 7.0),
            (Action(B, 1, 1), 1, 1, 5.5, 7.5),
            (Action(SEND_B, 1, 1, 0, 0), 1, 3, 7.5, 8.0),
            (Action(B, 0, 1), 0, 0, 8.0, 10.0),
        ],
        memory=(memory,),
    )


@st.composite
def timelines(draw_from: st.DrawFn) -> Timeline:
    """Forwards and backwards with gaps on a few ranks, and messages in between."""
    ranks, microbatches = draw_from(st.integers(1, 4)), draw_from(st.integers(1, 4))
    seconds = st.floats(0.01, 3.0)
    rows: list[Row] = []
    free = [0.0] * ranks
    arrived: dict[int, float] = {}
    for kind, order in ((F, range(ranks)), (B, reversed(range(ranks)))):
        order = list(order)
        for m in range(microbatches):
            ready = arrived.get(m, 0.0)
            for i, rank in enumerate(order):
                start = max(free[rank], ready) + draw_from(st.sampled_from([0.0, 0.0, 0.7]))
                free[rank] = ready = start + draw_from(seconds)
                rows.append((Action(kind, rank, m), rank, rank, start, ready))
                if i + 1 < ranks and draw_from(st.booleans()):
                    after = order[i + 1]
                    send = SEND_F if kind is F else SEND_B
                    rows.append((Action(send, rank, m, after, after), rank, ranks + rank, ready, ready + 0.3))
                    ready += 0.3
            arrived[m] = ready
    return timeline(rows)


def large(ranks: int = 64, microbatches: int = 128) -> Timeline:
    """Forwards one after another, then backwards: as many boxes as 1F1B has."""
    rows: list[Row] = []
    for r in range(ranks):
        for m in range(microbatches):
            rows.append((Action(F, r, m), r, r, r + m, r + m + 1))
            start = ranks + microbatches + 2 * (ranks - 1 - r + m)
            rows.append((Action(B, r, m), r, r, start, start + 2))
    return timeline(rows)


def boxes(svg: str) -> dict[str, list[tuple[float, float, float]]]:
    """(y, left, right) of every bar, by colour; both ways in which bars are written."""
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for name, d in re.findall(r'<path class="(?:a )?([\w-]+)"[^>]* d="([^"]+)"', svg):
        x = y = 0.0
        for command, text in re.findall(r"([MmhvzLHV])([^MmhvzLHV]*)", d):
            numbers = [float(n) for n in re.findall(r"-?\d*\.?\d+", text)]
            if command == "M":
                x, y = numbers
            elif command == "m":
                x += numbers[0]
            elif command == "h" and numbers[0] > 0:
                found[name].append((y, x, x + numbers[0]))
                x += numbers[0]
            elif command == "z" or command in "LHV":
                break
    return found


def luminance(colour: str) -> float:
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def linear(colour: str) -> np.ndarray:
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Machado, Oliveira, Fernandes 2009, table 1, severity 1: what is left of linear RGB.
VISIONS = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.mark.parametrize("boxes", [BOXES, OF_TILES], ids=["of steps", "of layers"])
@pytest.mark.parametrize("vision", VISIONS)
def test_kinds_look_different_to_everybody(vision: str, boxes: Mapping[str, str]) -> None:
    seen = {name: lab(np.array(VISIONS[vision]) @ linear(colour)) for name, colour in boxes.items()}
    for a, b in combinations(seen, 2):
        assert np.linalg.norm(seen[a] - seen[b]) > 10, (a, b)


def test_numbers_read_in_every_box() -> None:
    ink = luminance(PALETTE["box-ink"][0])
    names = [*EVERY, *(f"{name}-{i}" for name in OF_STAGES for i in range(SHADES))]
    for name in names:
        for colour in PALETTE[name]:
            assert (luminance(colour) + 0.05) / (ink + 0.05) >= 4.5, name


def test_a_drawing_says_what_it_shows() -> None:
    svg = draw(two_ranks())
    root = ElementTree.fromstring(svg)
    texts = ["".join(t.itertext()) for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "by hand" in texts
    assert "simulated: 10 s, bubble 40\N{NO-BREAK SPACE}%, peak memory 3 GB (rank 0)" in texts
    assert {"rank 0", "rank 1", "60\N{NO-BREAK SPACE}%", "forward", "backward", "s"} <= set(texts)
    assert texts.count("0") == 1 + 4  # on the axis, and in F and B of both ranks
    assert "rank 1: B1.0, 2 s from 2.5 s on" in svg
    assert root.get("aria-label", "").startswith("Timeline of by hand, simulated: 10 s")
    assert draw(two_ranks()) == svg


@settings(deadline=None, max_examples=30)
@given(timelines())
def test_boxes_lie_where_the_work_was(made: Timeline) -> None:
    scale = (WIDTH - LEFT - RIGHT) / made.makespan
    drawn = boxes(draw(made, width=WIDTH))
    for kind in (F, B):
        tasks = [i for i, a in enumerate(made.actions) if a.kind is kind]
        wanted = sorted((made.rank[i], LEFT + made.start[i] * scale, LEFT + made.end[i] * scale) for i in tasks)
        _, *found = sorted(drawn[kind.value])
        rows = sorted({y for y, *_ in found})
        assert len(found) == len(tasks)
        for (rank, left, right), (y, x, end) in zip(wanted, found, strict=True):
            assert y == rows[sorted({w[0] for w in wanted}).index(rank)]
            assert x == pytest.approx(left, abs=0.11)
            assert end == pytest.approx(right, abs=0.9)  # neighbours keep a gap


def test_many_boxes_stay_small_and_have_no_numbers() -> None:
    made = large()
    svg = draw(made)
    assert len(svg) < 400_000
    assert "<title>" not in svg
    drawn = boxes(svg)
    assert len(drawn["F"]) == 1 + 64 * 128  # with the legend's
    texts = [t.text for t in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert len(texts) < 64 * 2 + 30
    scale = (WIDTH - LEFT - RIGHT) / made.makespan
    busy = sum(right - left for _, left, right in drawn["B"][1:])
    assert busy == pytest.approx(64 * 128 * 2 * scale, rel=0.3)


def test_shares_where_boxes_would_be_thinner_than_pixels() -> None:
    rows: list[Row] = []
    for m in range(5000):  # busy three quarters of the time: a quarter forward, half backward
        rows += [(Action(F, 0, m), 0, 0, 4.0 * m, 4.0 * m + 1), (Action(B, 0, m), 0, 0, 4.0 * m + 1, 4.0 * m + 3)]
    svg = draw(timeline(rows))
    assert "height: share of the time" in svg
    levels = {}
    for name in ("F", "B"):
        d = re.search(rf'<path class="a {name}" d="M[\d.]+ ([\d.]+)[^"]*V([\d.]+)H[\d.]+z"', svg)
        assert d is not None
        levels[name] = (float(d[2]) - float(d[1])) / 24
    assert levels["F"] == pytest.approx(0.25, abs=0.05)
    assert levels["B"] == pytest.approx(0.75, abs=0.05)  # stacked on the forwards
    assert len(svg) < 10_000


def test_later_stages_are_darker() -> None:
    rows = [(Action(F, stage, 0), 0, 0, float(stage), stage + 1.0) for stage in range(3)]
    svg = draw(timeline(rows))
    assert "darker: a rank" in svg
    names = [name for name in boxes(svg) if name.startswith("F-")]
    assert names == ["F-0", "F-2", "F-4"]
    assert [luminance(PALETTE[n][0]) for n in names] == sorted((luminance(PALETTE[n][0]) for n in names), reverse=True)


def test_small_passes_take_no_numbers_from_the_others() -> None:
    rows = [(Action(F, 0, m), 0, 0, float(m), m + 0.8) for m in range(4)]
    rows += [
        (Action(Kind.EMBED, -1, m % 4), 0, 0, m // 4 + 0.8 + m % 4 / 100, m // 4 + 0.81 + m % 4 / 100)
        for m in range(16)
    ]
    svg = draw(timeline(rows))
    assert len(re.findall(r'class="box-ink m"', svg)) == 4


def test_a_long_legend_goes_on_below() -> None:
    kinds = [k for k in Kind if k in COMPUTE]
    svg = draw(timeline([(Action(k, 0, 0), 0, 0, float(i), i + 1.0) for i, k in enumerate(kinds)]), width=500.0)
    places = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="muted">([a-z\' ]+)<', svg)
    assert {y for x, y, words in places if words in ("forward", "optimiser")} == {"14", "48"}


def test_messages_on_request() -> None:
    plain, with_messages = draw(two_ranks()), draw(two_ranks(), messages=True)
    assert "forward" not in boxes(plain)
    assert len(boxes(with_messages)["forward"]) == 1 + 2
    assert len(boxes(with_messages)["backward"]) == 1 + 2


def test_memory_follows_every_change() -> None:
    svg = draw(two_ranks())
    d = re.findall(r'<path class="memory" stroke-width="1.2" d="([^"]+)"', svg)
    assert len(d) == 1
    heights = [float(y) for y in re.findall(r"V([\d.]+)", d[0])]
    start = float(re.findall(r"M[\d.]+ ([\d.]+)", d[0])[0])
    levels = np.array([start, *heights])  # 2 GB at once, 3, 2, 1 GB
    assert np.diff(levels) / (start - heights[0]) == pytest.approx([-1, 1, 1], abs=0.02)
    assert "dashed the capacity" in svg
    assert 'stroke-dasharray="4 3"' in svg


def test_of_many_memories_a_few_are_drawn() -> None:
    memory = tuple(MemorySeries(f"rank {i}", np.array([0.0]), np.array([1e9 * (i + 1)])) for i in range(40))
    svg = draw(timeline([(Action(F, i, 0), i, i, 0.0, 1.0) for i in range(40)], memory=memory))
    assert "memory: 8 of 40" in svg
    assert len(re.findall(r'<path class="memory"', svg)) == 8
    assert ">40 GB<" in svg


def test_of_a_thousand_ranks_every_eighth_is_shown() -> None:
    svg = draw(timeline([(Action(F, i, 0), i, i, 0.0, 1.0) for i in range(1024)]))
    assert "128 of 1024 ranks are shown" in svg


def test_files(tmp_path: Path) -> None:
    svg = draw(two_ranks(), tmp_path / "new" / "a.svg")
    assert (tmp_path / "new" / "a.svg").read_text() == svg
    draw(two_ranks(), tmp_path / "a.png")
    png = (tmp_path / "a.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(png[16:20], "big") == 2 * WIDTH
    with pytest.raises(GrainlineError, match=r"a\.pdf: a timeline is drawn as \.svg or \.png"):
        draw(two_ranks(), tmp_path / "a.pdf")


def test_compared_on_one_axis() -> None:
    short, long = two_ranks(), timeline([(Action(F, 0, 0), 0, 0, 0.0, 20.0)], name="long")
    svg = compare([short, long])
    scale = (WIDTH - LEFT - RIGHT) / 20
    assert max(right for _, _, right in boxes(svg)["B"]) == pytest.approx(LEFT + 10 * scale, abs=0.9)
    assert "2.00 × the time of by hand" in svg
    with pytest.raises(ValueError, match="no timelines"):
        compare([])


def test_names_with_markup_are_escaped() -> None:
    named = timeline([(Action(F, 0, 0), 0, 0, 0.0, 1.0)], name='<b> & "c"')
    assert ElementTree.fromstring(draw(named)) is not None


@settings(deadline=None, max_examples=30)
@given(timelines())
def test_a_trace_has_every_task_and_no_thread_overlaps(made: Timeline) -> None:
    events = json.loads(json.dumps(perfetto.trace(made)))["traceEvents"]
    slices = [e for e in events if e["ph"] == "X"]
    assert len(slices) == len(made)
    for i, event in enumerate(slices):
        assert event["name"] == str(made.actions[i])
        assert event["pid"] == made.rank[i]
        assert event["ts"] == pytest.approx(made.start[i] * 1e6)
        assert event["dur"] == pytest.approx((made.end[i] - made.start[i]) * 1e6)
    threads = defaultdict(list)
    for event in slices:
        threads[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for spans in threads.values():
        for (_, end), (start, _) in pairwise(sorted(spans)):
            assert start >= end - 1e-3
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    assert named == set(threads)


def test_arrows_join_what_made_a_message_and_what_used_it() -> None:
    made = two_ranks()
    events = perfetto.trace(made)["traceEvents"]
    slices = [e for e in events if e["ph"] == "X"]
    arrows = defaultdict(list)
    for event in events:
        if event["ph"] in "stf":
            inside = [
                s["name"]
                for s in slices
                if (s["pid"], s["tid"]) == (event["pid"], event["tid"]) and s["ts"] <= event["ts"] < s["ts"] + s["dur"]
            ]
            arrows[event["id"]].append((event["ph"], *inside))
    assert arrows[2] == [("s", "F0.0"), ("t", "SEND_F0.0→1"), ("f", "F1.0")]
    assert arrows[10] == [("s", "B1.1"), ("t", "SEND_B1.1→0"), ("f", "B0.1")]
    assert len(arrows) == 4
    counters = [(e["ts"], e["args"]["bytes"]) for e in events if e["ph"] == "C"]
    assert counters == [(0, 1e9), (0, 2e9), (1e6, 3e9), (7e6, 2e9), (9.5e6, 1e9)]


def test_overlapping_tasks_get_lanes_of_their_own(tmp_path: Path) -> None:
    sends = [(Action(SEND_F, 0, m, 1, 1), 0, 0, float(m), m + 2.5) for m in range(4)]
    perfetto.save(timeline(sends), tmp_path / "t.json")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert [e["tid"] for e in events if e["ph"] == "X"] == [0, 1, 2, 0]
    assert "stream 0 (3)" in [e["args"]["name"] for e in events if e["name"] == "thread_name"]


@settings(deadline=None, max_examples=60)
@given(timelines())
def test_busy_and_waits_make_up_the_step(made: Timeline) -> None:
    for row in rank_summaries(made):
        waits = sum(wait.seconds for wait in row.waits)
        assert row.busy_fraction * made.makespan + waits == pytest.approx(made.makespan)
    assert sum(critical_path(made).values()) == pytest.approx(made.makespan)


@settings(deadline=None, max_examples=30)
@given(timelines())
def test_causes_end_before_their_effects(made: Timeline) -> None:
    causes = Causes.of(made)
    for task in range(len(made)):
        for cause in causes.inputs(task):
            assert made.end[cause] <= made.start[task] + 1e-6
        if (binding := causes.binding(task)) is not None:
            assert made.end[binding] <= made.start[task] + 1e-6


def test_what_binds_and_what_is_waited_for() -> None:
    made = two_ranks()
    # B0.1 ← message ← B1.1 ← F1.1 ← B1.0 ← F1.0 ← message ← F0.0
    path = {"computing on rank 1": 6.0, "computing on rank 0": 3.0, "messages 0→1": 0.5, "messages 1→0": 0.5}
    assert critical_path(made) == pytest.approx(path)
    waits = {(w.source, str(w.longest)): w.seconds for w in rank_summaries(made)[0].waits}
    assert waits == pytest.approx({("rank 1", "B0.0"): 2.5 + 0.5, ("messages from rank 1", "B0.1"): 0.5 + 0.5})
    waits = {w.source: w.seconds for w in rank_summaries(made)[1].waits}
    assert waits == pytest.approx({"end of the step": 2.5, "rank 0": 1.0, "messages from rank 0": 0.5})
    assert summary(made).replace("\N{NO-BREAK SPACE}", " ").splitlines() == [
        "by hand, simulated: 10 s, bubble 40 %",
        "What binds, along the critical path: "
        "90 % computing (most on rank 1, 60 %) and 10 % messages (most 1→0, 5.0 %).",
        "rank 0: busy 60 %, holds at most 3 GB of 4 GB; waits 30 % for rank 1 (longest before B0.0, 25 %), "
        "10 % for messages from rank 1",
        "rank 1: busy 60 %; waits 10 % for rank 0 (longest before F1.0), 5.0 % for messages from rank 0; "
        "done 25 % before the end",
    ]


def test_a_wait_that_nothing_explains_is_for_room_or_the_runtime() -> None:
    made = timeline([(Action(F, 0, 0), 0, 0, 0.0, 1.0), (Action(F, 0, 1), 0, 0, 3.0, 4.0)])
    assert [(w.source, w.seconds) for w in rank_summaries(made)[0].waits] == [("room or runtime", 2.0)]
    assert critical_path(made) == {"computing on rank 0": 2.0, "waiting": 2.0}


def test_waiting_for_a_collective_is_for_whom_it_waits() -> None:
    rows: list[Row] = [
        (Action(F, 0, 0), 0, 0, 0.0, 4.0),
        (Action(Kind.C0, -1, 0), 0, 2, 4.0, 5.0),
        (Action(Kind.EMBED, -1, 1), 1, 1, 0.0, 1.0),
        (Action(Kind.S, -1, 0), 1, 1, 5.0, 7.0),
    ]
    waits = {w.source: w.seconds for w in rank_summaries(timeline(rows))[1].waits}
    assert waits == {"rank 0": 3.0, "collective C0": 1.0}


def test_measured_collectives_are_each_ranks_own_and_clocks_differ_a_little() -> None:
    rows: list[Row] = [
        (Action(F, 0, 0), 0, 0, 0.0, 4.0),
        (Action(Kind.C0, -1, 0), 0, 2, 4.0, 9.0),
        (Action(Kind.S, -1, 0), 0, 0, 9.0, 9.5),
        (Action(Kind.C0, -1, 0), 1, 3, 3.999, 5.0),  # by its own clock before the forward's end
        (Action(Kind.S, -1, 0), 1, 1, 5.0, 10.0),
    ]
    made = replace(timeline(rows), how="measured")
    waits = {w.source: w.seconds for w in rank_summaries(made)[1].waits}
    assert waits == pytest.approx({"collective C0": 1.001, "rank 0": 3.999})
    assert critical_path(made) == pytest.approx(
        {"computing on rank 1": 5.0, "computing on rank 0": 3.999, "collective C0": 1.001}
    )


def test_of_many_ranks_the_least_busy_are_told() -> None:
    rows = [(Action(F, r, 0), r, r, 0.0, 1.0 + r) for r in range(40)]
    lines = summary(timeline(rows)).splitlines()
    assert lines[2] == "The 12 least busy of 40 ranks:"
    assert lines[3].startswith("rank 0: busy 2.5")
    assert len(lines) == 3 + 12


def test_vocabulary_passes_wait_for_their_collectives() -> None:
    rows: list[Row] = [
        (Action(F, 0, 0), 0, 0, 0.0, 1.0),
        (Action(Kind.C0, -1, 0), 0, 2, 1.0, 2.0),
        (Action(Kind.S, -1, 0), 0, 0, 2.0, 3.0),
        (Action(Kind.S, -1, 0), 1, 1, 2.0, 3.5),
        (Action(Kind.C1, -1, 0), 0, 2, 3.5, 4.0),
        (Action(Kind.T, -1, 0), 0, 0, 4.0, 5.0),
        (Action(B, 0, 0), 0, 0, 5.0, 7.0),
        (Action(Kind.UPDATE), 0, 0, 7.0, 8.0),
    ]
    made = timeline(rows)
    causes = Causes.of(made)
    assert [causes.binding(i) for i in range(8)] == [None, 0, 1, 1, 3, 4, 5, 6]
    path = {"computing on rank 0": 5.0, "computing on rank 1": 1.5, "collective C0": 1.0, "collective C1": 0.5}
    assert critical_path(made) == pytest.approx(path)
    assert all(kind in COMPUTE for kind in (Kind.S, Kind.T, Kind.UPDATE))


def test_nothing_was_done() -> None:
    nothing = np.zeros(0)
    empty = Timeline(
        "empty", "measured", 0, (), (), nothing.astype(np.int32), nothing.astype(np.int32), nothing, nothing
    )
    assert "empty" in draw(empty)
    assert summary(empty).startswith("empty, measured: 0 s")
    assert perfetto.trace(empty)["traceEvents"] == []


def test_the_page_shows_what_its_code_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "timelines.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    [told] = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["summary"](names["timeline"]).replace("\N{NO-BREAK SPACE}", " ").startswith(told)
    assert (tmp_path / "1f1b.svg").read_text() == (docs / "images" / "timeline.svg").read_text()
    assert json.loads((tmp_path / "1f1b.json").read_text())["otherData"]["name"] == "1f1b"
