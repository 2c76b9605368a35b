"""The exhibits of expert placement: exact claims hold, and what they build is what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grainline.exhibits import exflow, moetuner
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Scale, verdict
from grainline.exhibits.placement_cases import chain, model, skewed_chain
from grainline.plan.placement import Statistics


@pytest.mark.parametrize(
    ("table", "claim"),
    [(exflow.MEASURES, exflow.MOVES), (exflow.MEASURES, exflow.SWEEPS), (moetuner.MEASURES, moetuner.EXACT)],
    ids=lambda of: of.name if isinstance(of, Claim) else "",
)
def test_exact_claims_hold(table: dict[Claim, Measure], claim: Claim, tmp_path: Path) -> None:
    measured = table[claim](Scale.of(claim, True, tmp_path))
    assert verdict(claim, measured, quick=True) == "holds"


def test_chains_have_the_loads_that_they_were_given() -> None:
    for found in (chain(5, 8, 0), skewed_chain(5, 8, moetuner.SKEW, 0)):
        assert found.load_LE.sum(1) == pytest.approx(np.ones(5))
        assert found.flow_LEE.sum(2) == pytest.approx(found.load_LE[:-1])
        assert found.flow_LEE.sum(1) == pytest.approx(found.load_LE[1:], abs=1e-6)


def test_the_skew_is_that_of_the_figure_it_is_held_against() -> None:
    """1.28 times the mean with experts in their order: an input, not a result."""
    loads = np.random.default_rng(0).dirichlet(np.full(8, moetuner.SKEW), size=20_000)
    ranks = loads.reshape(-1, 4, 2).sum(2)
    assert (4 * ranks.max(1)).mean() == pytest.approx(1.28, abs=0.01)


def test_tokens_are_drawn_from_the_chain() -> None:
    statistics = skewed_chain(3, 8, moetuner.SKEW, 0)
    drawn = Statistics.of(moetuner.mixtral_trace(statistics, 0, 20_000))
    assert drawn.load_LE == pytest.approx(statistics.load_LE, abs=0.01)
    assert drawn.flow_LEE == pytest.approx(statistics.flow_LEE, abs=0.01)


def test_trained_models_are_sparse_throughout() -> None:
    assert model(1).sparse_layers == tuple(range(6))
    assert model(2).moe.top_k == 2  # type: ignore[union-attr]
