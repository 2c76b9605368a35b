"""The ReXMoE exhibit compares like with like, and its code runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from grainline.exhibits import rexmoe
from grainline.exhibits.frame import Scale
from grainline.exhibits.training import Run
from grainline.models.count import flops_per_token, parameters


def test_kinds_differ_in_routers_alone_and_the_control_in_experts() -> None:
    plain, shared, own = (parameters(rexmoe.model(**kind)) for kind in ({}, {"reuse": 4}, {"experts": 32}))
    routers = rexmoe.LAYERS * 3 * rexmoe.EXPERTS * rexmoe.SIZE
    assert shared.total - plain.total == shared.active - plain.active == routers
    assert own.active == shared.active
    assert own.total > 3 * shared.total / 2
    flops = [flops_per_token(rexmoe.model(reuse=r), rexmoe.SEQUENCE) for r in (1, 4)]
    assert flops[1] - flops[0] == 6 * routers


def test_runs_have_the_same_recipe_but_for_model_and_routing(tmp_path: Path) -> None:
    scale = Scale.of(rexmoe.QUALITY, False, tmp_path)
    tables = [rexmoe.recipe(scale, 1, name, *kind).tables() for name, kind in rexmoe.KINDS.items()]
    for table in tables:
        del table["name"], table["model"], table["routing"]
    assert all(table == tables[0] for table in tables)


def test_loads_are_summed_over_the_layers_that_share() -> None:
    lines = [{"loads": [[9, 1], [1, 9]]}, {"loads": [[9, 1], [1, 9]]}]
    apart, together = (rexmoe.late_load(Run(1.0, 1.0, lines, Path()), reuse) for reuse in (1, 2))
    assert apart == {"max_over_mean": pytest.approx(1.8), "idle": 0.0}
    assert together == {"max_over_mean": pytest.approx(1.0), "idle": 0.0}
    idle = rexmoe.late_load(Run(1.0, 1.0, [{"loads": [[10, 0, 0, 10]]}], Path()), 1)
    assert idle == {"max_over_mean": 2.0, "idle": 0.5}


@pytest.mark.slow
def test_every_claim_runs_in_short(tmp_path: Path) -> None:
    for claim, measure in rexmoe.MEASURES.items():
        found = measure(Scale.of(claim, True, tmp_path))
        assert found.measured >= 0
        assert found.figure is not None
        assert "<svg" in found.figure
