"""`grainline plan skip`: what is printed, written and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grainline.cli import main
from grainline.documents import Plan, Recipe
from grainline.train.simulate import read_cluster, simulated_step

CLUSTER = "4x(1xA10G)@1GbE + 4x(1xT4)@1GbE"
SHAPE = ("--stages", "4", "--path-length", "3", "--slots", "2", "--budget", "1")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    tables = {
        "model": {"depth": 8},
        "data": {"sequence_length": 64, "vocab_size": 300},
        "training": {"steps": 10, "batch_tokens": 64 * 32},
        "learning_rate": {"peak": 1e-3},
        "precision": {"compute": "float32"},
    }
    Recipe.parse(tables).save(tmp_path / "recipe.toml")
    return tmp_path / "recipe.toml"


def test_a_plan_in_words_and_as_a_document(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan.toml"
    assert main(["plan", "skip", str(recipe), "--cluster", CLUSTER, *SHAPE, "--save-plan", str(out)]) == 0
    said = capsys.readouterr()
    assert f"The plan is in {out}." in said.err
    assert "4 micro-batches in" in said.out
    assert said.out.count("stage ") == 4
    assert said.out.count(" → ") == 4 * 2
    pipeline = Plan.load(out).pipeline
    assert pipeline is not None
    assert pipeline.paths is not None
    assert {len(path) for path in pipeline.paths} == {4}  # three stages, and the head's
    step = simulated_step(Plan.load(out), {}, recipe, read_cluster(CLUSTER))
    assert step.resolved.bare.paths == tuple(tuple(map(tuple, path)) for path in pipeline.paths)


def test_methods_are_compared(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "skip", str(recipe), "--cluster", CLUSTER, *SHAPE, "--compare"]
    assert main([*arguments, "--json"]) == 0
    found = {each["method"]: each for each in json.loads(capsys.readouterr().out)}
    assert list(found) == ["full", "random", "unaware", "aware"]
    assert {len(path) for path in found["full"]["paths"]} == {4}
    assert found["aware"]["seconds"] <= found["unaware"]["seconds"]
    assert found["aware"]["bound_seconds"] <= found["aware"]["longest_seconds"] + 1e-12
    assert main(arguments) == 0
    assert "100%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--nodes-per-stage", "4", "4"), "--nodes-per-stage names 2 stages, and --stages says 4"),
        (("--path-length", "9"), "path_length is 9"),
        (("--stages", "9"), "8 blocks, too few for 9 stages"),
        (("--compare", "--no-tc2"), "leave out --save-plan and --no-tc2"),
        (("--microbatches", "0"), "microbatches is 0"),
    ],
)
def test_what_cant_be_is_refused(
    recipe: Path, more: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "skip", str(recipe), "--cluster", CLUSTER, *SHAPE, *more]) == 2
    assert words in capsys.readouterr().err
