"""A recipe that goes on from a plain model with experts that layers share: it starts where that one stood."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "models"))
from expert_cases import routed

import grainline
from grainline.cli import main
from grainline.documents import DocumentError, GrainlineError, Plan, Recipe
from grainline.train import read_metrics, train

MakeRecipe = Callable[..., Recipe]
ONE = Plan.parse({"execution": {"threads": 1}})
TABLES = {
    "data": {"text": ["builtin"], "vocab_size": 300, "sequence_length": 32, "max_bytes": 60_000},
    "learning_rate": {"peak": 0.01},
    "training": {"steps": 3, "batch_tokens": 128},
}
ROUTING = {"opening": "linear", "draw": "local-first", "closed": "logit"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of four sparse layers, MTP's among them, after three steps."""
    config = routed("softmax-topk", (), vocab_size=300, layers=3)
    tables = TABLES | {"model": {"config": config.tables()}}
    out = tmp_path_factory.mktemp("plain")
    train(Recipe.parse(tables), ONE, out=out, quiet=True)
    return out


def shared(plain: Path, tiny: MakeRecipe, **tables: object) -> Recipe:
    model = {"depth": None, "pretrained": str(plain), "reuse": 2}
    return tiny(model=model, training={"steps": 4}, learning_rate={"peak": 1e-9, "warmup_steps": 0}, **tables)


def test_it_starts_from_the_plain_models_loss_and_opens_up(
    plain: Path, tiny: MakeRecipe, data: Path, tmp_path: Path
) -> None:
    again = tiny(
        model={"depth": None, "pretrained": str(plain)},
        training={"steps": 4},
        learning_rate={"peak": 1e-9, "warmup_steps": 0},
    )
    train(again, ONE, out=tmp_path / "plain", quiet=True)
    train(shared(plain, tiny, routing=ROUTING), ONE, out=tmp_path / "shared", quiet=True)
    ours, theirs = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("shared", "plain"))
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], rel=1e-6)
    assert ours[0]["mtp_loss"] == pytest.approx(theirs[0]["mtp_loss"], rel=1e-6)
    assert len(ours[0]["loads"][0]) == 16
    assert ours[-1]["loss"] != pytest.approx(theirs[-1]["loss"], rel=1e-6)  # neighbours' are open by now
    model, _ = grainline.load(tmp_path / "shared")
    assert model.config.moe is not None
    assert model.config.moe.reuse == 2
    assert list(model.banks) == ["0", "2"]


def test_the_dry_run_knows_of_the_banks(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Recipe.parse(TABLES | {"model": {"depth": 2}}).save(tmp_path / "recipe.toml")
    command = ["train", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "run"), "--dry-run"]
    chosen = ["--set", f"model={{pretrained='{plain}', reuse=2}}"]
    assert main([*command, *chosen]) == 0
    capsys.readouterr()
    assert main([*command, "--set", f"model={{pretrained='{plain}', reuse=3}}"]) == 2
    assert "doesn't divide the 4 sparse layers" in capsys.readouterr().err


def test_what_cannot_share_is_refused(plain: Path, tiny: MakeRecipe, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="reuse goes with pretrained"):
        tiny(model={"reuse": 2})
    with pytest.raises(DocumentError, match="greater than or equal to 2"):
        tiny(model={"depth": None, "pretrained": str(plain), "reuse": 1})
    train(shared(plain, tiny, routing=ROUTING), ONE, out=tmp_path / "shared", quiet=True)
    with pytest.raises(GrainlineError, match="doesn't share them yet"):
        train(shared(tmp_path / "shared", tiny), ONE, out=tmp_path / "again", quiet=True)
