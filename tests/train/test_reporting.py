"""What a run says: metrics.jsonl over interruptions, lines for people, and signals."""

from __future__ import annotations

import json
import os
import signal
import threading
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from grainline.train.metrics import MetricsLog, read_metrics
from grainline.train.progress import Reporter, describe, live_line
from grainline.train.signals import StopRequest


def test_lines_after_the_resumed_step_and_half_lines_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, resumed_at=0)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": step / 10})
    log.close()
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    log = MetricsLog(path, resumed_at=2)
    log.write({"step": 3, "loss": 7.0})
    log.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(path)] == [(1, 0.1), (2, 0.2), (3, 7.0)]
    assert all(json.loads(text) for text in path.read_text().splitlines())
    MetricsLog(path, resumed_at=0).close()
    assert read_metrics(path) == []
    assert read_metrics(tmp_path / "none.jsonl") == []


LINE = {
    "step": 3,
    "loss": 2.5,
    "bits_per_byte": 1.25,
    "tokens_per_second": 1234.5,
    "mfu": 0.31,
    "imbalance": [1.1, 1.4],
}


def test_a_step_in_words() -> None:
    assert describe(LINE) == "loss 2.500  1.250 bits/byte  1,234 tok/s  MFU 31%  imbalance 1.40"
    dense = {**LINE, "mfu": None, "imbalance": []}
    assert describe(dense) == "loss 2.500  1.250 bits/byte  1,234 tok/s"
    told = describe(LINE | {"costless": [0.2, 0.3], "idle": [0.0, 0.125]})
    assert told.endswith("imbalance 1.40  costless 25%  idle 12%")
    assert describe(LINE | {"idle": [0.0, 0.0]}) == describe(LINE)


@pytest.mark.parametrize(("width", "bar", "end"), [(120, 20, "1.40"), (90, 8, "1.40"), (60, 0, "…")])
def test_the_live_line_is_one_line_on_any_terminal(width: int, bar: int, end: str) -> None:
    console = Console(file=StringIO(), force_terminal=True, width=width, color_system=None)
    live = live_line(console)
    live.add_task("", total=20, completed=3, fields=f"9 s left  {describe(LINE)}")
    console.print(live.get_renderable())
    (said,) = console.file.getvalue().splitlines()
    assert said.index("3/20  9 s left  loss 2.500  1.250 bits/byte") == (bar + 1 if bar else 0)
    assert said.rstrip().endswith(end)


def test_without_a_terminal_there_are_plain_lines_and_a_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = Reporter(4, tmp_path / "log.txt")
    report.say("hello")
    for step in (1, 2, 3, 4):
        report.step({**LINE, "step": step}, 4 - step)
    report.close()
    said = capfd.readouterr().err.splitlines()
    assert said[0] == "hello"
    assert [line.split()[1] for line in said[1:]] == ["1/4", "4/4"]  # the first, then by time, and the last
    logged = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in logged] == said
    quiet = Reporter(4, quiet=True)
    quiet.say("hello")
    quiet.step(LINE, 1)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_is_python_s(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with StopRequest(announce=True) as stop:
        assert not stop.wanted
        os.kill(os.getpid(), number)
        assert stop.wanted
        assert "Stopping after this step" in capfd.readouterr().err
        assert signal.getsignal(number) == before
    assert signal.getsignal(number) == before


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def enter() -> None:
        with StopRequest(announce=False) as stop:
            seen.append((stop.wanted, signal.getsignal(signal.SIGINT) == before))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(False, True)]
