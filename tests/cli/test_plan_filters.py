"""`grainline plan filters`: what is printed, written and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grainline.cli import main

CMS = str(Path(__file__).parents[2] / "examples" / "filters" / "cms.toml")


def test_alternatives_compared_in_words_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "cms.html"
    arguments = ["plan", "filters", CMS, "--alternative", "gpu_hlt", "level1_boost", "--compare"]
    assert main([*arguments, "--html", str(page)]) == 0
    said = capsys.readouterr().out
    assert "It takes 51.6 MW" in said
    assert "gpu_hlt + level1_boost" in said.replace("\n", " ") or "level1_boost" in said
    assert page.read_text().count("<svg") == 3
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["alternatives"] for one in found["compared"]] == [
        [],
        ["gpu_hlt"],
        ["level1_boost"],
        ["gpu_hlt", "level1_boost"],
    ]
    best = [one["alternatives"] for one in found["compared"] if one["unbeaten"]]
    assert best == [["gpu_hlt", "level1_boost"]]
    assert found["stages"]["hlt"]["threshold"] == pytest.approx(2.54, abs=0.01)


def test_one_pipeline_shared_out_anew(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--alternative", "level1_boost", "--optimise", "level1", "hlt", "--recall", "0.446", "--json"]
    assert main(["plan", "filters", CMS, *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["optimised"]["watts"] < 0.1 * found["watts"]
    assert found["optimised"]["recall"] >= 0.446


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--alternative", "gpu"], "cms.toml: there is no alternative 'gpu'."),
        (["--recall", "0.5"], "--recall: goes with --optimise"),
        (["--optimise", "level1", "hlt", "--recall", "2"], "--recall 2: must lie between 0 and 1"),
        (["--compare", "--optimise", "level1", "hlt"], "--optimise: goes with one pipeline"),
        (["--messages", "100"], "too many to draw message by message"),
        (["--html", "page.txt"], "name a file that ends in .html"),
    ],
)
def test_what_cant_be_is_refused(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "filters", CMS, *arguments]) == 2
    assert words in capsys.readouterr().err
