"""`grainline plan memory`: what is printed, written and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grainline.cli import main

CLUSTER = str(Path(__file__).parents[2] / "examples" / "clusters" / "fenghuang.toml")
ARGUMENTS = ["plan", "memory", "Qwen3-235B-A22B", "--cluster", CLUSTER]


def test_a_pool_against_links(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    more = ["--against", "8xH200", "--ideal", "--through", "--all-reduce-us", "9.1", "--html", str(page)]
    assert main([*ARGUMENTS, *more]) == 0
    said = capsys.readouterr().out
    assert "7.1% of its local memory" in said
    assert "Both take as long per token where an all-reduce" in said
    assert page.read_text().count("<svg") == 2
    assert main([*ARGUMENTS, *more[:6], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    first, other = found["clusters"].values()
    assert list(found["clusters"]) == ["fenghuang", "8xH200"]
    assert first["token"]["stall_seconds"] > 0 == other["token"]["stall_seconds"]
    parity = found["parity_all_reduce_seconds"]
    waits = other["token"]["all_reduce_seconds"]
    assert other["tpot_seconds"] - waits + 188 * parity == pytest.approx(first["tpot_seconds"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--batch", "100000"], "fenghuang.toml: weights of"),
        (["--lookahead", "-1"], "--lookahead -1: can't be negative"),
        (["--against", "1xH200"], "1xH200: weights of"),
        (["--all-reduce-us", "0"], "--all-reduce-us 0: must be positive"),
        (["--dtype", "float32"], "no rate for float32 is told"),
    ],
)
def test_what_cant_be_is_refused(more: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, *more]) == 2
    assert words in capsys.readouterr().err
