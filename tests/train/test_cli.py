"""`grainline train` on the command line, and the recipes that ship as examples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from grainline.cli import main
from grainline.documents import Plan, Recipe
from grainline.models import formats
from grainline.train.forecast import foreseen_config

MakeRecipe = Callable[..., Recipe]
EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "recipes").glob("*.toml"))


@pytest.fixture
def recipe_file(tiny: MakeRecipe, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    tiny(training={"steps": 4}).save(path)
    return path


@pytest.fixture
def plan_file(one_thread: Plan, tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    one_thread.save(path)
    return path


def test_a_run_by_command_line(
    recipe_file: Path, plan_file: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(recipe_file), "--plan", str(plan_file), "--data", str(data), "--out", str(tmp_path / "run")]
    assert main([*command, "--set", "training.steps=3", "--set", "name=mine", "--json"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result["steps"] == 3
    assert Path(result["model"], "model.safetensors").is_file()
    assert "step 3/3" in said.err
    assert Recipe.load(tmp_path / "run" / "recipe.toml").name == "mine"
    assert main(command) == 2
    assert "training.steps: 3 -> 4" in capsys.readouterr().err
    assert main([*command, "--no-resume"]) == 0


def test_a_dry_run_starts_nothing(
    recipe_file: Path, plan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(recipe_file), "--plan", str(plan_file), "--out", str(tmp_path / "run"), "--dry-run"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == 4 * 128
    assert found["speed_is_measured"]
    assert found["seconds"] == pytest.approx(found["tokens"] / found["tokens_per_second"])
    parts = ("parameters", "gradients", "optimizer", "activations", "working")
    assert found["memory"]["total"] == sum(found["memory"][part] for part in parts)
    assert found["plan"]["execution"]["micro_batch_sequences"] == 4
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "memory per rank" in shown
    assert "tokens/s, measured" in shown
    assert not (tmp_path / "run").exists()


def test_a_run_that_does_not_fit_is_said_so(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = ["--set", "model.depth=400", "--set", "data.vocab_size=200000"]
    assert main(["train", str(recipe_file), "--out", str(tmp_path / "run"), "--dry-run", *huge]) == 1
    assert "not enough memory" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.step=3", "training.step: unknown key. Did you mean 'steps'?"),
        ("learning_rate.schedule=wsdd", "learning_rate.schedule"),
        ('data.text=["/no/such/file.txt"]', "/no/such/file.txt: no such file or folder"),
        ("model.depth=0", "model.depth"),
    ],
)
def test_mistakes_are_answered(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, message: str
) -> None:
    assert main(["train", str(recipe_file), "--out", str(tmp_path / "run"), "--set", setting]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_example_recipes_can_be_run(path: Path) -> None:
    recipe = Recipe.load(path)
    if recipe.model.pretrained is None:
        formats.config_to_hf(foreseen_config(recipe))
    assert f"grainline train examples/recipes/{path.name}" in path.read_text()
