"""`grainline train` on the command line, and the recipes that ship as examples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grainline.cli import main
from grainline.data import Tokenizer
from grainline.documents import GrainlineError, Plan, Recipe
from grainline.models import loading
from grainline.models.build import build
from grainline.models.dial import config_for_depth
from grainline.train import corpus, dry_run, train
from grainline.train.foresee import foreseen_model

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


def test_one_process_of_several_speaks(
    recipe_file: Path,
    plan_file: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Under torchrun, standard output has one JSON object, and a mistake that all meet is told once per machine."""
    monkeypatch.setenv("RANK", "1")
    command = ["train", str(recipe_file), "--plan", str(plan_file), "--data", str(data), "--out", str(tmp_path / "run")]
    assert main([*command, "--json"]) == 0
    assert (tmp_path / "run" / "result.json").is_file()
    assert main([*command, "--json", "--dry-run"]) == 0
    assert capsys.readouterr().out == ""
    assert main([*command, "--set", "training.step=3"]) == 2
    assert "Did you mean 'steps'?" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main([*command, "--set", "training.step=3"]) == 2
    assert capsys.readouterr().err == ""


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


@pytest.fixture
def nothing_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*arguments: object, **options: object) -> None:
        raise AssertionError("text or weights were read")

    monkeypatch.setattr(corpus, "find_text", read)
    monkeypatch.setattr(loading, "load_model", read)


TOO_FEW_TOKENS = "tokenizer has 300 tokens, the model's vocab_size is 280"
TOO_SHORT = "sequence_length is 32, but the model's max_positions is 16"


@pytest.mark.usefixtures("nothing_read")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 280}, TOO_FEW_TOKENS),
        ({"max_positions": 16}, TOO_SHORT),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_text_is_read(
    tiny: MakeRecipe, one_thread: Plan, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """By the dry run and by the run itself, which then deletes nothing either."""
    config = config_for_depth(2, 300, 32).tables() | changes
    recipe = tiny(model={"depth": None, "config": config})
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("")
    with pytest.raises(GrainlineError, match=message):
        dry_run(recipe, one_thread, out=tmp_path)
    with pytest.raises(GrainlineError, match=message):
        train(recipe, one_thread, out=tmp_path, resume=False)
    assert metrics.exists()


@pytest.mark.parametrize(("changes", "message"), [({"vocab_size": 280}, TOO_FEW_TOKENS), ({}, TOO_SHORT)])
def test_so_is_a_pretrained_one_before_its_weights_are(
    tiny: MakeRecipe,
    one_thread: Plan,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
    request: pytest.FixtureRequest,
) -> None:
    tokenizer = Tokenizer.train(["abc " * 200], 300)
    assert tokenizer.vocab_size < 280
    build(config_for_depth(2, 300, 16).model_copy(update=changes)).save(tmp_path / "model", tokenizer)
    Tokenizer.train(["".join(map(chr, range(0x4E00, 0x4E00 + 3000)))], 300).save(tmp_path / "large")
    data = {"tokenizer": str(tmp_path / "large")} if changes else {}
    recipe = tiny(model={"depth": None, "pretrained": str(tmp_path / "model")}, data=data)
    request.getfixturevalue("nothing_read")
    for start in (dry_run, train):
        with pytest.raises(GrainlineError, match=message):
            start(recipe, one_thread, out=tmp_path / "run")


@pytest.mark.usefixtures("nothing_read")
@pytest.mark.parametrize(
    ("batch_tokens", "message"), [(32, "1 sequences can't be shared by 2 ranks"), (96, "that 2 ranks share evenly")]
)
def test_a_batch_that_its_ranks_cannot_share_is_refused_by_the_dry_run(
    tiny: MakeRecipe, tmp_path: Path, batch_tokens: int, message: str
) -> None:
    plan = Plan.parse({"layout": {"data_parallel": 2, "shard": "full"}})
    with pytest.raises(GrainlineError, match=message):
        dry_run(tiny(training={"batch_tokens": batch_tokens}), plan, out=tmp_path)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_example_recipes_can_be_run(path: Path) -> None:
    recipe = Recipe.load(path)
    if recipe.model.pretrained is None:
        assert foreseen_model(recipe).max_positions >= recipe.data.sequence_length
    assert f"grainline train examples/recipes/{path.name}" in path.read_text()
