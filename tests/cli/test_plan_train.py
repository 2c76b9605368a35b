"""`grainline plan train` and `plan export`, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grainline.cli import main
from grainline.documents import Plan

SMALL = ["plan", "train", "Qwen3-8B", "--cluster", "2x(4xA100-80)@HDR", "--batch-tokens", "1M", "--pin", "context=1"]


def test_from_model_to_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plan, page and JSON agree; the plan is exported for what it was made for."""
    plan, page = tmp_path / "plan.toml", tmp_path / "plan.html"
    assert main([*SMALL, "--tokens", "1T", "--json", "--save-plan", str(plan), "--html", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    seconds = [ranked["seconds"] for ranked in found["ranked"]]
    assert seconds == sorted(seconds)
    best = found["ranked"][0]
    assert best["interval"][0] < best["seconds"] < best["interval"][1]
    steps = 1e12 / 2**20
    assert best["bill"]["seconds"] == pytest.approx(steps * best["seconds"] * best["bill"]["stretch"], rel=1e-3)
    made = Plan.load(plan).made_for
    assert made is not None
    assert made.step_seconds == pytest.approx(best["seconds"])
    assert "<svg" in page.read_text()
    assert main(["plan", "export", str(plan)]) == 0
    script = capsys.readouterr().out
    assert f"--tensor-model-parallel-size {best['strategy']['tensor']}" in script
    assert "--global-batch-size 256" in script


def test_plans_are_held_against_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unlike keys by name; a plan and itself are alike."""
    plans = [tmp_path / "a.toml", tmp_path / "b.toml"]
    for plan, size in zip(plans, ("2", "4"), strict=True):
        assert main([*SMALL, "--pin", f"tensor={size}", "--search", "rules", "--save-plan", str(plan)]) == 0
    capsys.readouterr()
    assert main(["plan", "diff", *map(str, plans), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["unlike"]["layout.tensor_parallel"] == [2, 4]
    assert main(["plan", "diff", str(plans[0]), str(plans[0])]) == 0
    assert "alike" in capsys.readouterr().out


def test_a_plan_is_simulated_as_it_was_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where a person has edited it: into a worse cut, and into nonsense."""
    path = tmp_path / "plan.toml"
    model = ["plan", "train", "Ling-mini-2.0", "--cluster", "2x(4xA100-80)@HDR", "--batch-tokens", "1M"]
    assert (
        main(
            [
                *model,
                "--search",
                "rules",
                "--pin",
                "pipeline=2",
                "--pin",
                "schedule=1f1b",
                "--save-plan",
                str(path),
                "--json",
            ]
        )
        == 0
    )
    planned = json.loads(capsys.readouterr().out)["ranked"][0]
    assert main(["simulate", str(path), "--json", "--draw", str(tmp_path / "step.svg")]) == 0
    found = json.loads(capsys.readouterr().out)["ranked"][0]
    assert found["seconds"] == pytest.approx(planned["seconds"])
    assert found["cut"] == planned["cut"]
    plan = Plan.load(path)
    assert plan.pipeline is not None
    cut = plan.pipeline.cut
    assert isinstance(cut, tuple)
    worse = (cut[0] + 4, cut[1] - 4)
    plan.model_copy(update={"pipeline": plan.pipeline.model_copy(update={"cut": worse})}).save(path)
    main(["simulate", str(path), "--json"])
    assert json.loads(capsys.readouterr().out)["ranked"][0]["seconds"] > planned["seconds"]
    plan.model_copy(update={"pipeline": plan.pipeline.model_copy(update={"cut": (1, 2)})}).save(path)
    assert main(["simulate", str(path)]) == 2
    assert "pipeline.cut [1, 2] adds up to 3 cells" in capsys.readouterr().err
    moved = plan.layout.model_copy(update={"devices": ("z:0", *plan.layout.devices[1:])})
    plan.model_copy(update={"layout": moved}).save(path)
    assert main(["simulate", str(path)]) == 2
    assert "the cluster has no 'z:0'" in capsys.readouterr().err


def test_words_name_the_devices_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    """The table on the terminal."""
    assert main([*SMALL, "--search", "rules"]) == 0
    out = capsys.readouterr().out
    assert "of 8 devices" in out.splitlines()[0]
    assert "What binds the first is" in out
    assert "rates of matrix products: data sheet" in out


def test_cheapest_is_no_dearer_than_the_fastest(capsys: pytest.CaptureFixture[str]) -> None:
    """On a cluster with dear and cheap cards, and with fewer cards in stock."""
    mixed = ["plan", "train", "SmolLM2-1.7B", "--cluster", "2x(4xA100-80)@HDR + 2x(4xA10G)@25GbE"]
    mixed += ["--batch-tokens", "1M", "--tokens", "10B", "--pin", "context=1", "--json"]
    dollars = {}
    for objective in ("time", "cost"):
        assert main([*mixed, "--objective", objective]) == 0
        dollars[objective] = json.loads(capsys.readouterr().out)["ranked"][0]["bill"]["dollars"]
    assert dollars["cost"] <= dollars["time"] * 1.01
    assert main([*mixed, "--stock", "A100-80=0"]) == 0
    ranked = json.loads(capsys.readouterr().out)["ranked"][0]
    assert {device[0] for device in ranked["devices"]} == {"b"}


def test_a_search_goes_on_where_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In pieces it finds what it finds at once; a file of another search is refused."""
    kept = tmp_path / "search.json"
    assert main([*SMALL, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    pieces = 0
    while True:
        code = main([*SMALL, "--json", "--resume", str(kept), "--seconds", "0.01"])
        told = capsys.readouterr()
        pieces += 1
        if code == 0 and json.loads(told.out)["complete"]:
            break
        assert kept.exists() or code == 2
        assert pieces < 200
    found = json.loads(told.out)
    assert pieces > 1
    assert (found["evaluated"], found["too_large"]) == (whole["evaluated"], whole["too_large"])
    assert [r["strategy"] for r in found["ranked"]] == [r["strategy"] for r in whole["ranked"]]
    assert main([*SMALL, "--json", "--resume", str(kept), "--seconds", "0.01"]) in (0, 2)
    capsys.readouterr()
    if kept.exists():
        assert main([*SMALL, "--resume", str(kept), "--length", "2048"]) == 2
        assert "it is of another model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cluster", "8xH200", "--engine", "megatrn"], "Did you mean 'megatron'"),
        (["--cluster", "8xH200", "--batch-tokens", "lots"], "write a number"),
        (["--cluster", "8xH200", "--batch-tokens", "1k"], "holds a sequence of 4096"),
        (["--cluster", "8xH200", "--pin", "tensor"], "write NAME=VALUE"),
        (["--cluster", "8xH200", "--pin", "tensor=3"], "No layout divides"),
        (["--cluster", "8xH200", "--stock", "A100=8"], "no such devices"),
        (["--cluster", "8xH200", "--search", "magic"], "no such search"),
        (["--cluster", "2xA10G"], "None of"),
        (["--cluster", "8xH200", "--without", "z"], "no node of that name"),
        (["--cluster", "8xH200", "--failure-hours", "0", "--tokens", "1T"], "must be more than 0"),
        (["--cluster", "8xH200", "--search", "rules", "--resume", "x.json"], "keeps exhaustive searches"),
    ],
)
def test_mistakes_are_told(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In words that say what to do."""
    assert main(["plan", "train", "Qwen3-32B", "--batch-tokens", "1M", *arguments]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
