"""The calculator against the published tables (arXiv 2510.22115, table of sizes and hyper-parameters)."""

import pytest

from grainline.documents import GrainlineError
from grainline.plan import scaling_laws as laws

# active parameters without embeddings, layers, query heads; learning rate and batch (sequences of 4,096) as published
PUBLISHED = [
    (1.43e9 - 2 * 157_184 * 2048, 20, 16, 3.36e-4, 4_400),
    (6.15e9 - 2 * 157_184 * 4096, 32, 32, 2.61e-4, 8_352),
    (51.05e9 - 2 * 157_184 * 8192, 80, 64, 1.86e-4, 18_144),
]


@pytest.mark.parametrize(("active", "layers", "heads", "rate", "batch"), PUBLISHED)
def test_learning_rate_and_batch_are_those_of_the_report(active, layers, heads, rate, batch):
    flops = 3 * (2 * active + 4 * 4096 * heads * 128 * layers) * 20e12
    assert laws.learning_rate(flops) == pytest.approx(rate, rel=5e-3)
    assert laws.batch_tokens(flops) / 4096 == pytest.approx(batch, rel=0.035)
    assert not laws.is_fitted(flops)


def test_the_range_of_the_fit():
    assert laws.is_fitted(1e18)
    assert laws.is_fitted(1e20)
    assert not laws.is_fitted(1e13)
    assert not laws.is_fitted(1e21)


def test_leverage_is_over_seven_at_lings_sparsity_and_never_below_one():
    assert laws.efficiency_leverage(0.031, 12, 1e22) == pytest.approx(7.24, abs=0.01)
    assert laws.efficiency_leverage(1.0, 12, 1e22) == 1.0
    best = max(range(2, 40), key=lambda g: laws.efficiency_leverage(0.031, g, 1e22))
    assert 8 <= best <= 12


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf")])
def test_a_budget_must_be_positive_and_finite(bad):
    with pytest.raises(GrainlineError, match="positive number of FLOPs"):
        laws.learning_rate(bad)


def test_shares_outside_their_range_are_refused():
    with pytest.raises(GrainlineError, match=r"activation 1\.5"):
        laws.efficiency_leverage(1.5, 12, 1e20)
    with pytest.raises(GrainlineError, match="granularity 0"):
        laws.efficiency_leverage(0.1, 0, 1e20)
