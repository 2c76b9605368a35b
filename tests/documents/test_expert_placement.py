"""[placement] of a plan: read, written, refused by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from grainline.documents import DocumentError, GrainlineError, Plan
from grainline.documents.expert_placement import ExpertPlacement
from grainline.parallel.features import refuse_unsupported

HOLDERS = {1: ((0,), (0, 1), (1,)), 3: ((1,), (0,), (0,))}


def test_comes_back_as_written(tmp_path: Path) -> None:
    plan = Plan(placement=ExpertPlacement.of(2, HOLDERS, router="abc"))
    plan.save(tmp_path / "plan.toml")
    assert '"1: 0 0+1 1",' in (tmp_path / "plan.toml").read_text()
    again = Plan.load(tmp_path / "plan.toml")
    assert again == plan
    assert again.placement is not None
    assert again.placement.layers == HOLDERS


def test_is_a_feature_that_training_names() -> None:
    plan = Plan(placement=ExpertPlacement.of(2, HOLDERS))
    assert plan.features == ("expert placement",)
    with pytest.raises(GrainlineError, match="The plan asks for expert placement, which this release"):
        refuse_unsupported(plan, SimpleNamespace(world=1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("experts", "words"),
    [
        (["0: 0 1", "1: 0 2"], "expert 1 of layer 1 is on rank 2, and the last is 1"),
        (["0: 0 1", "1: 0 1 1"], "layer 1 has 3 experts, layer 0 has 2"),
        (["0: 0 0+0"], "expert 1 of layer 0 is on one rank twice"),
        (["2: 0 1", "1: 0 1"], "layers 2, 1 must rise"),
        (["0 1 1"], "'0 1 1' isn't a layer and its experts' ranks, as in '3: 0 0 1 0+1'"),
        (["0: 0,1"], "isn't a layer"),
    ],
)
def test_nonsense_is_named(experts: list[str], words: str) -> None:
    with pytest.raises(DocumentError, match=words.replace("+", r"\+")):
        Plan.parse({"placement": {"ranks": 2, "experts": experts}})
