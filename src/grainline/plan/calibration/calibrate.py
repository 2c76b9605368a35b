"""A cluster's rates corrected by a run: each device type is as fast as its ranks were."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from grainline.documents import Cluster, GrainlineError
from grainline.documents.cluster import DeviceType, MemoryTier, Origin
from grainline.plan.calibration.compare import Compared
from grainline.plan.cost import BANDWIDTH_REACHED, REACHED


def calibrate(
    cluster: Cluster, compared: Compared, devices: Sequence[str], dtype: str, reference: str
) -> tuple[Cluster, Mapping[str, float]]:
    """The cluster with rates under which its passes take in all what they took, and by which factor each type was off.

    `devices[rank]` is the device type of a rank, `dtype` what the run computed in. Rates of products and memory change
    by one factor, as a run can't tell them apart; what is calibrated is taken whole from then on. Links stay as they
    are. Raises GrainlineError for a rank on a device that the cluster hasn't, as in a run on another machine.
    """
    known = {device.name for device in cluster.device_types}
    predicted: dict[str, float] = defaultdict(float)
    real: dict[str, float] = defaultdict(float)
    for one in compared.passes:
        name = devices[one.rank]
        if name not in known:
            raise GrainlineError(
                f"The run was on another machine: rank {one.rank} sat on '{name}', and the cluster has "
                f"{', '.join(sorted(known))}. Calibrate the cluster that it ran on."
            )
        predicted[name] += one.count * one.predicted_seconds
        real[name] += one.count * one.real_seconds
    factors = {name: predicted[name] / real[name] for name in predicted if real[name] > 0}
    if not factors:
        raise GrainlineError("The run has no passes to calibrate by.")
    kinds = tuple(
        _scaled(device, dtype, factors[device.name], reference) if device.name in factors else device
        for device in cluster.device_types
    )
    return cluster.model_copy(update={"device_types": kinds}), factors


def _scaled(device: DeviceType, dtype: str, factor: float, reference: str) -> DeviceType:
    """As it was reached in the prediction, times the factor."""
    origin = Origin(source="calibrated", reference=reference)
    sources = {kind: device.origin(f"flops_per_second.{kind}").source for kind in device.flops_per_second}
    rates = {kind: rate * REACHED[sources[kind]] * factor for kind, rate in device.flops_per_second.items()}
    memory = device.memory
    # Other dtypes are taken to be off by as much, so that the fastest stays the fastest.
    other = Origin(source="calibrated", reference=f"{reference}, in {dtype}")
    origins = device.origins | {f"flops_per_second.{kind}": origin if kind == dtype else other for kind in rates}
    if memory and memory[0].bytes_per_second is not None:
        moved = memory[0].bytes_per_second * BANDWIDTH_REACHED[device.origin("memory").source] * factor
        memory = (MemoryTier(**{**memory[0].model_dump(), "bytes_per_second": moved}), *memory[1:])
        origins["memory"] = origin
    return device.model_copy(update={"flops_per_second": rates, "memory": memory, "origins": origins})
