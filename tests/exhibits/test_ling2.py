"""The Ling 2.0 exhibit compares like with like, and its code runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from grainline.documents import Recipe
from grainline.exhibits import ling2
from grainline.exhibits.frame import Claim, Scale
from grainline.exhibits.ling2 import RATES, recipe
from grainline.models.count import flops_per_token, parameters


@pytest.fixture
def full(tmp_path: Path) -> Scale:
    return Scale.of(ling2.SPARSE, False, tmp_path)


def test_sparse_and_dense_cost_the_same_per_token() -> None:
    sparse, dense = ling2.model(True), ling2.model(False)
    assert flops_per_token(sparse, ling2.SEQUENCE) == pytest.approx(flops_per_token(dense, ling2.SEQUENCE), rel=0.01)
    assert parameters(sparse).active == pytest.approx(parameters(dense).active, rel=0.01)
    assert parameters(sparse).total > 1.5 * parameters(dense).total
    assert (sparse.layers, sparse.hidden_size, sparse.attention) == (dense.layers, dense.hidden_size, dense.attention)


def test_what_the_laws_foresee_is_computed_for_the_very_run(full: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ling2.foreseen(full)
    steps, batch = ling2.length(full)
    assert found["flops"] == flops_per_token(ling2.model(True), ling2.SEQUENCE) * steps * batch
    assert found["fitted"] is False
    assert found["efficiency_leverage"] >= 1
    monkeypatch.setattr(ling2, "length", lambda scale: (10**9, 4096))  # at the papers' compute sparsity pays
    assert ling2.foreseen(full)["efficiency_leverage"] > 1.5


def test_both_have_the_same_recipe_but_for_the_model(full: Scale) -> None:
    sparse, dense = (recipe(full, 1, 2.0, sparse=kind).tables() for kind in (True, False))
    assert sparse["learning_rate"].pop("peak") == pytest.approx(dense["learning_rate"].pop("peak"), rel=0.01)
    for table in (sparse, dense):
        del table["name"], table["model"]
    assert sparse == dense


def test_ways_to_balance_differ_in_nothing_else(full: Scale) -> None:
    tables = {way: recipe(full, 0, 1.0, balance=way).tables() for way in ("bias", "none", "auxiliary loss")}
    assert [table["model"]["config"]["moe"].pop("bias_balanced") for table in tables.values()] == [True, False, False]
    assert [table["loss"].pop("balance_loss") for table in tables.values()] == [0, 0, ling2.AUXILIARY]
    for table in tables.values():
        del table["name"]
        assert table == tables["bias"]


def test_wsm_has_wsds_tokens_and_window(full: Scale) -> None:
    wsd, wsm = (recipe(full, 0, 1.0, schedule=kind).tables() for kind in ("wsd", "wsm"))
    assert (wsd["learning_rate"].pop("schedule"), wsm["learning_rate"].pop("schedule")) == ("wsd", "wsm")
    assert wsd.pop("name") != wsm.pop("name")
    assert wsd == wsm


def test_each_kind_gets_the_rate_with_its_lowest_loss(full: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Found:
        bits_per_byte: float

    def trained(recipes: list[Recipe], scale: Scale) -> list[Found]:
        wanted = [recipe(full, 0, RATES[2], sparse=True), recipe(full, 0, RATES[0], sparse=False)]
        return [Found(0.0 if each in wanted else 1.0) for each in recipes]

    monkeypatch.setattr(ling2, "trained", trained)
    assert ling2.best_rates(full, (True, False)) == [RATES[2], RATES[0]]
    assert ling2.best_rates(full, (False,)) == [RATES[0]]


@pytest.mark.slow
def test_every_claim_is_measured_by_real_runs(tmp_path: Path) -> None:
    """The quick run, end to end: runs that claims share are made once."""
    told: list[str] = []
    found = {}
    for claim, measure in ling2.MEASURES.items():
        assert isinstance(claim, Claim)
        found[claim.name] = measure(Scale.of(claim, True, tmp_path, told.append))
    assert len(told) == len(set(told)) == 6  # five runs, and what the laws foresee
    for measurement in found.values():
        assert measurement.figure is not None
        assert measurement.figure.startswith("<svg")
        json.dumps(measurement.details)
    details = found["ling2.merge"].details["bits_per_byte"]
    assert found["ling2.merge"].measured == details["merged"][0] / details["last checkpoint"][0]
    assert found["ling2.wsm"].details["bits_per_byte"]["wsm"] == details["merged"]
    loads = found["ling2.balance"].details["max_over_mean_load"]
    assert all(1 <= value <= 32 for values in loads.values() for value in values)
