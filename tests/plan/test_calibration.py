"""Runs against predictions, where the truth is a cluster whose rates are known."""

from __future__ import annotations

import pytest

from grainline.documents import Cluster, GrainlineError, ModelConfig, Plan
from grainline.hardware.shorthand import cluster_of
from grainline.models.catalogue import config_of
from grainline.plan.calibration import calibrate, compare
from grainline.schedule import Kind
from grainline.train.simulate import SimulatedStep, simulated_step

MODEL: ModelConfig = config_of("SmolLM2-135M")
PIPELINE = {"ranks": 2, "schedule": "1f1b", "microbatches": 8, "cut": [16, 16]}


def step(cluster: Cluster, **pipeline: object) -> SimulatedStep:
    """Of a small model, cut in the middle."""
    return simulated_step(Plan(), PIPELINE | pipeline, MODEL, cluster)


def slowed(cluster: Cluster, factors: dict[str, float]) -> Cluster:
    """Rates of products and memory times a factor, by device type."""
    kinds = []
    for device in cluster.device_types:
        factor = factors.get(device.name, 1.0)
        rates = {dtype: rate * factor for dtype, rate in device.flops_per_second.items()}
        tier = device.memory[0]
        assert tier.bytes_per_second is not None
        memory = (tier.model_copy(update={"bytes_per_second": tier.bytes_per_second * factor}), *device.memory[1:])
        kinds.append(device.model_copy(update={"flops_per_second": rates, "memory": memory}))
    return cluster.model_copy(update={"device_types": tuple(kinds)})


def test_calibration_finds_the_true_rates() -> None:
    """Two types of device, each off by a factor of its own: afterwards every pass is predicted as it was."""
    told = cluster_of("1xA100-80@NDR + 1xA10G@NDR")
    truth = {"A100-80": 0.6, "A10G": 1.3}
    predicted, real = step(told), step(slowed(told, truth)).timeline
    before = compare(predicted.timeline, real)
    assert before.median_error > 0.2
    names = [seat.device.type.name for seat in predicted.resolved.seats]
    corrected, factors = calibrate(told, before, names, predicted.resolved.batch.compute, "a run")
    assert factors == pytest.approx(truth)
    after = compare(step(corrected).timeline, real)
    assert after.median_error < 1e-9
    assert after.error == pytest.approx(0.0, abs=1e-9)
    for device in corrected.device_types:
        assert device.origin("memory").source == "calibrated"
        assert device.origin(f"flops_per_second.{predicted.resolved.batch.compute}").source == "calibrated"
    assert Cluster.parse(corrected.tables()) == corrected


def test_a_run_of_another_plan_is_refused() -> None:
    """Other micro-batches, another schedule."""
    told = cluster_of("2xA100-80")
    mine = step(told).timeline
    with pytest.raises(GrainlineError, match="4 micro-batches against 8"):
        compare(mine, step(told, microbatches=4).timeline)
    with pytest.raises(GrainlineError, match="another plan: only one of the two has B of stage 0 on rank 0"):
        compare(mine, step(told, schedule="zb-h1").timeline)


def test_a_run_on_another_machine_is_refused() -> None:
    """Its devices are named."""
    found = step(cluster_of("2xA100-80"))
    same = compare(found.timeline, found.timeline)
    assert same.median_error == 0.0
    assert {p.kind for p in same.passes} == {Kind.F, Kind.B}
    with pytest.raises(GrainlineError, match="rank 0 sat on 'A100-80', and the cluster has H100"):
        calibrate(cluster_of("2xH100"), same, ["A100-80"] * 2, "bfloat16", "a run")
