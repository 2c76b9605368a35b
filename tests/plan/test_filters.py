"""Filter pipelines: conservation, identities, hand-worked figures, draws, ties, splits and queues."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from grainline.documents import GrainlineError
from grainline.documents.filter_checks import assigned
from grainline.documents.filters import Filters
from grainline.plan.filters.alternatives import compare, elasticities, unbeaten
from grainline.plan.filters.draws import drawn
from grainline.plan.filters.flow import flow_of
from grainline.plan.filters.optimise import least_power, split_at
from grainline.plan.filters.queueing import queued
from grainline.plan.filters.scores import Curve, Gaussian, Rates
from grainline.plan.filters.units import units_of

EXAMPLES = Path(__file__).parents[2] / "examples" / "filters"


def chain(**keys: Any) -> Filters:
    """Two sources, two Gaussian stages; dotted keys (with __) set otherwise."""
    tables: dict[str, Any] = {
        "relevant_rate_hz": 10.0,
        "dollars_per_kwh": 0.1,
        "link": {"joules_per_bit": 1e-9},
        "sources": {
            "a": {"bytes": 1000, "rate_hz": 1000, "to": "early"},
            "b": {"bytes": 500, "rate_hz": 1000, "to": "early"},
        },
        "stages": {
            "early": {
                "to": "late",
                "adds_bytes": 250,
                "reduction": 10,
                "classifier": {"kind": "gaussian", "skill": 1.5, "sigma": 1.2},
                "work": {"per_bytes": 1000},
                "joules_per_unit": 2.0,
            },
            "late": {
                "to": "end",
                "reduction": 8,
                "classifier": {"kind": "gaussian", "skill": 3, "sigma": 1},
                "work": {"per_bytes": 10},
                "joules_per_unit": 3.0,
                "seconds_per_unit": 1e-3,
                "device_price_per_hour": 2.0,
            },
            "end": {},
        },
    }
    for key, value in keys.items():
        tables = assigned(tables, key.replace("__", "."), value)
    return Filters.parse(tables)


NOWHERE = Path("/nonexistent")


@settings(max_examples=40, deadline=None)
@given(
    r1=st.floats(1, 500),
    r2=st.floats(1, 500),
    skill=st.floats(-3, 12),
    sigma=st.floats(0.05, 5),
    p=st.floats(0.01, 999),
)
def test_messages_are_kept_count_of(r1: float, r2: float, skill: float, sigma: float, p: float) -> None:
    keys = {"stages__early__reduction": r1, "stages__late__reduction": r2, "relevant_rate_hz": p}
    filters = chain(**keys, stages__late__classifier={"kind": "gaussian", "skill": skill, "sigma": sigma})
    flow = flow_of(filters, NOWHERE)
    for name, reduction in (("early", r1), ("late", r2)):
        step = flow.steps[name]
        assert step.passed.total == pytest.approx(step.rates.total / reduction, rel=1e-8)
        assert 0 <= step.passed.relevant <= step.rates.relevant * (1 + 1e-12)
    of = flow.contingency
    assert of.passed.total + of.rejected.total == pytest.approx(1000)
    assert of.passed.relevant + of.rejected.relevant == pytest.approx(p)


def test_power_and_price_by_hand() -> None:
    flow = flow_of(chain(), NOWHERE)
    assert flow.steps["early"].bytes == 1750
    assert flow.steps["early"].watts == pytest.approx(1.75 * 2.0 * 1000)
    assert flow.steps["late"].watts == pytest.approx(175 * 3.0 * 100)
    links = 8e-9 * (1000 * 1500 + 100 * 1750 + 12.5 * 1750)
    assert flow.link_watts == pytest.approx(links)
    assert flow.steps["late"].devices == pytest.approx(17.5)
    (one,) = compare(chain(), NOWHERE, "x")
    assert one.dollars_per_hour == pytest.approx(35 + flow.watts / 1e3 * 0.1)
    assert flow.joules_per_message("end") == pytest.approx(3.5 + 525 + 8e-9 * (1500 + 1750 + 1750))
    assert flow.productivity == pytest.approx(flow.contingency.f1 * 10 / flow.watts)
    projected = flow_of(chain(technology={"year": 2026}), NOWHERE)
    assert flow.watts / projected.watts == pytest.approx(math.exp(0.18717 * 4))


def test_limits_of_skill_and_reduction() -> None:
    same = flow_of(chain(stages__early__reduction=1, stages__late__reduction=1), NOWHERE)
    assert same.contingency.rejected.total == 0
    assert same.contingency.precision == pytest.approx(10 / 1000)
    blind = {"kind": "gaussian", "skill": 0, "sigma": 1}
    flow = flow_of(chain(stages__early__classifier=blind, stages__late__classifier=blind), NOWHERE)
    assert flow.contingency.precision == pytest.approx(10 / 1000)
    sure = {"kind": "gaussian", "skill": 30, "sigma": 1}
    keys = {"stages__early__classifier": sure, "stages__late__classifier": sure, "relevant_rate_hz": 12.5}
    assert flow_of(chain(**keys), NOWHERE).contingency.f1 == pytest.approx(1)


def test_power_is_linear_in_rate() -> None:
    base = flow_of(chain(), NOWHERE)
    keys = {"sources__a__rate_hz": 3000, "sources__b__rate_hz": 3000, "relevant_rate_hz": 30.0}
    assert flow_of(chain(**keys), NOWHERE).watts == pytest.approx(3 * base.watts)


def test_messages_of_their_own_meet_by_sum() -> None:
    keys = {"stages__early__merge": "sum", "sources__b__rate_hz": 3000, "stages__early__adds_bytes": 0}
    flow = flow_of(chain(**keys), NOWHERE)
    assert flow.steps["early"].rates.total == pytest.approx(4000)
    assert flow.steps["early"].bytes == pytest.approx((1000 * 1000 + 3000 * 500) / 4000)
    slow = flow_of(chain(stages__early__merge="min", sources__b__rate_hz=3000), NOWHERE)
    assert slow.steps["early"].rates.total == pytest.approx(1000)


def test_a_weak_rejection_has_its_threshold_below_zero() -> None:
    cut = Gaussian(0.0, 1.0).cut(Rates(1.0, 0.0), 0.1)
    assert cut.threshold == pytest.approx(norm.ppf(0.1))
    assert cut.threshold is not None
    assert cut.threshold < 0


def test_a_gaussian_as_a_curve_cuts_alike() -> None:
    x = np.linspace(-8, 12, 8001)
    curve = Curve(x, norm.cdf(x), x, norm.cdf(x, loc=2.5, scale=1.3))
    for reject in (0.01, 0.5, 0.95, 0.999):
        one, other = (scores.cut(Rates(90.0, 10.0), reject) for scores in (curve, Gaussian(2.5, 1.3)))
        assert one == pytest.approx(other, abs=2e-6)


def test_what_is_drawn_is_what_flows() -> None:
    filters = chain(relevant_rate_hz=200.0)
    flow = flow_of(filters, NOWHERE)
    n = 400_000
    found = drawn(filters, NOWHERE, flow, n)
    for decision in ("passed", "rejected"):
        for truth in ("irrelevant", "relevant"):
            share = getattr(getattr(flow.contingency, decision), truth) / 1000
            assert getattr(getattr(found, decision), truth) == pytest.approx(
                n * share, abs=4 * math.sqrt(n * share * (1 - share))
            )


def samples(folder: Path, rows: list[tuple[float, int]]) -> dict[str, Any]:
    lines = ["score,relevant", *(f"{score},{relevant}" for score, relevant in rows)]
    (folder / "scores.csv").write_text("\n".join(lines))
    return {"kind": "empirical", "scores": "scores.csv"}


def test_ties_are_told_with_their_bracket_or_passed_at_random(tmp_path: Path) -> None:
    classifier = samples(tmp_path, [(0, 0)] * 50 + [(1, 0)] * 45 + [(2, 0)] * 5 + [(1, 1), (2, 1)])
    with pytest.raises(GrainlineError, match=r"x.toml: stages.early: 0.9 of .* thresholds reject 0.49\d+ or 0.94\d+"):
        flow_of(chain(stages__early__classifier=classifier), tmp_path, "x.toml")
    flow = flow_of(chain(stages__early__classifier={**classifier, "ties": "random"}), tmp_path)
    assert flow.steps["early"].passed.total == pytest.approx(100)


def test_measured_scores_and_their_boost(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = [(x, 0) for x in generator.normal(size=2000)] + [(x, 1) for x in generator.normal(2, 1, size=2000)]
    classifier = samples(tmp_path, rows)
    plain = flow_of(chain(stages__early__classifier=classifier), tmp_path).steps["early"].cut
    exact = Gaussian(2, 1).cut(Rates(990.0, 10.0), 0.9)
    assert plain.relevant == pytest.approx(exact.relevant, abs=0.03)
    boosted = flow_of(chain(stages__early__classifier={**classifier, "boost": 1.0}), tmp_path).steps["early"].cut
    assert boosted.relevant == pytest.approx(Gaussian(3, 1).cut(Rates(990.0, 10.0), 0.9).relevant, abs=0.02)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scores,relevant\n1,0\n", r"'score' isn't there. Did you mean 'scores'\?"),
        ("score,relevant\n1,maybe\n", "row 2, relevant: must be a number, not 'maybe'"),
        ("score,relevant\n1,0\n2,0\n", "relevant: must be 0 or 1, with rows of both"),
        ("score,relevant\n", "has no rows below its header"),
        ("score,irrelevant_below,relevant_below\n1,0.5,0\n2,0.4,1\n", "irrelevant_below: shares must rise"),
    ],
)
def test_files_that_dont_hold_are_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(GrainlineError, match=f"stages.early: {tmp_path}/scores.csv: .*{words}"):
        flow_of(chain(stages__early__classifier={"kind": "empirical", "scores": "scores.csv"}), tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(GrainlineError, match=r"none.csv: can't be read: No such file"):
        flow_of(chain(stages__early__work={"table": "none.csv"}), tmp_path)


def test_work_by_size(tmp_path: Path) -> None:
    size = np.array([1.0, 2, 3, 4])
    for name, units in (("cubic", 2 * size**3 - size), ("power", 5 * size**2.42), ("linear", 3 * size + 1)):
        (tmp_path / f"{name}.csv").write_text(
            "bytes,units\n" + "\n".join(f"{a},{b:.12g}" for a, b in zip(size, units, strict=True))
        )
        work = chain(stages__early__work={"table": f"{name}.csv", "fit": name, "times": 0.5}).stages["early"].work
        found = units_of(work, 8.0, tmp_path)
        assert found.units == pytest.approx(0.5 * {"cubic": 1016, "power": 5 * 8**2.42, "linear": 25}[name])
        assert found.beyond == 2.0
    between = chain(stages__early__work={"table": "linear.csv"}).stages["early"].work
    assert units_of(between, 2.5, tmp_path).units == pytest.approx(8.5)
    with pytest.raises(GrainlineError, match="has rows for 1 to 4 bytes, and messages have 8"):
        units_of(between, 8.0, tmp_path)


def test_unbeaten_alternatives() -> None:
    filters = chain(
        alternatives={
            "cheap": {"stages.late.joules_per_unit": 1.0},
            "sharp": {"stages.late.classifier.skill": 5.0},
            "dear": {"stages.late.joules_per_unit": 9.0},
        }
    )
    found = compare(filters, NOWHERE, "x")
    assert len(found) == 6  # cheap and dear set one key
    assert [one.title for one in unbeaten(found)] == ["cheap + sharp"]


def test_elasticities_of_what_is_known() -> None:
    found = elasticities(chain(link={"joules_per_bit": 1e-15}), NOWHERE, "x")
    flow = flow_of(chain(link={"joules_per_bit": 0.0}), NOWHERE)
    share = flow.steps["late"].watts / flow.watts
    assert found["stages.late.joules_per_unit"] == pytest.approx(-share, rel=1e-3)
    assert abs(found["link.joules_per_bit"]) < 1e-6
    assert list(map(abs, found.values())) == sorted(map(abs, found.values()), reverse=True)


def test_a_better_early_stage_saves_power_once_reductions_are_shared_out_anew() -> None:
    dull, sharp = (chain(stages__early__classifier={"kind": "gaussian", "skill": s, "sigma": 1}) for s in (1.5, 3))
    recall = flow_of(dull, NOWHERE).contingency.recall
    at_once = flow_of(sharp, NOWHERE).watts
    assert at_once == pytest.approx(flow_of(dull, NOWHERE).watts)
    one, other = (least_power(f, NOWHERE, "x", ("early", "late"), recall * 0.999) for f in (dull, sharp))
    assert other.flow.watts < one.flow.watts
    assert one.early * one.late == pytest.approx(80)
    assert other.flow.contingency.recall >= recall * 0.999
    finer = [split_at(sharp, NOWHERE, "x", ("early", "late"), e) for e in np.linspace(1, 80, 300)]
    brute = min((s for s in finer if s.flow.contingency.recall >= recall * 0.999), key=lambda s: s.flow.watts)
    assert other.flow.watts <= brute.flow.watts * (1 + 1e-6)


def test_splits_that_cant_be() -> None:
    with pytest.raises(GrainlineError, match=r"reaches a recall of 0.999; the most is 0\.\d+"):
        least_power(chain(), NOWHERE, "x", ("early", "late"), 0.999)
    with pytest.raises(GrainlineError, match=r"no stage 'erly'. Did you mean 'early'\?"):
        least_power(chain(), NOWHERE, "x", ("erly", "late"), 0.5)
    with pytest.raises(GrainlineError, match="of kind 'pass'"):
        least_power(chain(), NOWHERE, "x", ("early", "end"), 0.5)


def test_one_device_waits_as_theory_says() -> None:
    """M/D/1: mean wait ρ·s / 2(1 − ρ) (Pollaczek–Khinchine)."""
    keys = {"stages__late__seconds_per_unit": 0.6 / 100 / 175}
    filters = chain(**keys)
    found = queued(filters, flow_of(filters, NOWHERE), 60_000, ceiling=1.0)
    assert found.devices == {"late": 1}
    assert found.wait_seconds["late"] == pytest.approx(0.6 * 0.006 / (2 * 0.4), rel=0.05)
    with pytest.raises(GrainlineError, match="no stage takes time"):
        queued(
            chain(stages__late__seconds_per_unit=0.0), flow_of(chain(stages__late__seconds_per_unit=0.0), NOWHERE), 9
        )


def test_cms_by_hand() -> None:
    """Silicon of 2022: level 1 505.5 kW, links 124.6 kW, the HLT 446.0 J an event; work units of the brief."""
    filters = Filters.load(EXAMPLES / "cms.toml")
    flow = flow_of(filters, EXAMPLES)
    assert flow.steps["level1"].watts * flow.scale == pytest.approx(505.5e3, rel=1e-4)
    assert flow.link_watts * flow.scale == pytest.approx(124.6e3, rel=1e-3)
    assert flow.steps["hlt"].work.units == pytest.approx(27.878, rel=1e-4)
    assert flow.steps["level1"].bytes == 8.425e6
    assert flow.scale == pytest.approx(6.4996, rel=1e-4)
    pixels = flow_of(filters.overlaid(("smart_pixels", "gpu_hlt")), EXAMPLES)
    assert pixels.steps["hlt"].work.units == pytest.approx(11.028, rel=1e-4)
    worth = list(elasticities(filters, EXAMPLES, "cms.toml"))
    sizes = [key for key in worth if key.startswith("sources.") and key.endswith(".bytes")]
    assert sizes[0] == "sources.hgcal.bytes"
    assert "link.joules_per_bit" not in worth[:20]
