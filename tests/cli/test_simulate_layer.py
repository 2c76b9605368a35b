"""`grainline simulate layer`: figures, picture and trace of one MoE layer, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grainline.cli import main

MIXTRAL = ["simulate", "layer", "Mixtral-8x7B", "--device", "H100", "--link", "200e9"]


def test_every_overlap_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "layer.svg"
    assert main([*MIXTRAL, "--json", "--draw", str(picture)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["serial", "chunks", "tile", "fused"]
    assert found["tile"]["seconds"] < found["chunks"]["seconds"] < found["serial"]["seconds"]
    assert 0.85 < found["tile"]["hidden"] < 0.95
    assert "results go back" in picture.read_text()


def test_one_overlap_in_words_and_as_a_trace(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = tmp_path / "layer.json"
    assert main([*MIXTRAL, "--overlap", "tile", "--zipf", "0.5", "--tokens", "300", "--trace", str(trace)]) == 0
    assert "communication hidden" in capsys.readouterr().out
    names = {event["args"]["name"] for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "M"
             and event["name"] == "process_name"}  # fmt: skip
    assert {"worker 131", "link", "host"} <= names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--overlap", "tiles"], "--overlap tiles: there is none. Did you mean 'tile'"),
        (["--trace", "x.json"], "--trace is of one overlap"),
        (["--ranks", "3"], "the 8 experts can't be dealt evenly"),
        (["--tokens", "0"], "a rank has at least one"),
        (["--comm-workers", "132", "--overlap", "tile"], "132 of 132 workers communicate"),
        (["--groups", "0"], "groups = 0: must be 1 or more"),
    ],
)
def test_bad_input_is_named(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*MIXTRAL, *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_device_without_figures_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "layer", "Mixtral-8x7B", "--device", "L40S"]) == 2
    assert "no fabric of its own. Say --link" in capsys.readouterr().err
    assert main(["simulate", "layer", "Qwen3-0.6B", "--device", "H100"]) == 2
