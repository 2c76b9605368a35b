"""A whole run on a CUDA GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import grainline
from grainline.documents import Plan, Recipe
from grainline.train import read_metrics

MakeRecipe = Callable[..., Recipe]
DEVICE = "cuda"

pytestmark = pytest.mark.gpu


def _trained(recipe: Recipe, out: Path, data: Path, compile: str = "off") -> list[float]:
    plan = Plan.parse({"execution": {"device": DEVICE, "compile": compile}})
    grainline.train(recipe, plan, out=out, data=data, quiet=True)
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl")]


def test_a_run_on_a_gpu_learns_in_bfloat16(tiny: MakeRecipe, data: Path, tmp_path: Path) -> None:
    losses = _trained(tiny(training={"steps": 40}, precision={"compute": "bfloat16"}), tmp_path, data)
    assert losses[-1] < losses[0] - 1
    decided = json.loads((tmp_path / "run.json").read_text())
    assert (decided["device"], decided["compute"]) == (DEVICE, "bfloat16")
    assert all(line["memory_bytes"] > 0 for line in read_metrics(tmp_path / "metrics.jsonl"))
    model, tokenizer = grainline.load(tmp_path, device=DEVICE)
    ids = tokenizer.encode("the", bos=True)
    assert len(list(model.generate(ids, max_new_tokens=4))) == 4


def test_a_run_on_a_gpu_starts_as_on_the_cpu(tiny: MakeRecipe, data: Path, tmp_path: Path, one_thread: Plan) -> None:
    """In float32; the weights that a run begins with are drawn alike on every device."""
    recipe = tiny(training={"steps": 3})
    losses = _trained(recipe, tmp_path / "gpu", data)
    grainline.train(recipe, one_thread, out=tmp_path / "cpu", data=data, quiet=True)
    on_cpu = [line["loss"] for line in read_metrics(tmp_path / "cpu" / "metrics.jsonl")]
    assert losses == pytest.approx(on_cpu, rel=1e-3)


@pytest.mark.slow
def test_a_compiled_run_learns_alike(tiny: MakeRecipe, data: Path, tmp_path: Path) -> None:
    recipe = tiny(training={"steps": 12}, precision={"compute": "bfloat16"})
    plain = _trained(recipe, tmp_path / "plain", data)
    assert _trained(recipe, tmp_path / "compiled", data, compile="on") == pytest.approx(plain, rel=0.02)
