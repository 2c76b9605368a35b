"""Measured ops correct estimated ones: what a roofline misses varies smoothly with sizes, so near sizes tell of others.

For each family and dtype, the constants of the roofline are fitted first (robustly, in logarithms); what remains is
taken from the nearest measured ops, by a plane through their logarithms. Far from everything measured the constants
alone count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial import cKDTree

from grainline.documents import GrainlineError
from grainline.plan.serving.ops import Op
from grainline.plan.serving.speed import Reached, Speed

Key = tuple[str, str, str, int]
Floats = NDArray[np.float64]
NEIGHBOURS = 12
FEW = 4  # samples of a kind, below which only their common factor is taken
RIDGE = 0.3
REACH = 2.0  # in doublings of a size: half of the correction is left so far from the nearest sample
CONSTANTS_FROM = 500  # samples are enough for four constants


@dataclass(frozen=True)
class Sample:
    """An op, and the seconds that it took."""

    op: Op
    seconds: float


def key_of(op: Op) -> Key:
    """Ops of a kind: those whose sizes can be compared."""
    return op.family, op.dtype, op.weights, len(op.sizes)


@dataclass(frozen=True)
class Kind:
    """The samples of one kind: where they lie, and by what factor they took longer than the fitted constants say."""

    constants: Reached
    tree: cKDTree
    points_NF: Floats
    log_N: Floats

    def factor(self, op: Op) -> float:
        """exp of a plane through the nearest samples' logarithms, held back where they are few or far."""
        at = _point(op)
        count = min(NEIGHBOURS, len(self.log_N))
        found, near = self.tree.query(at, k=count)
        distance_K, near_K = np.atleast_1d(found), np.atleast_1d(near)
        if distance_K[0] < 1e-9:
            return float(np.exp(np.mean(self.log_N[near_K[distance_K < 1e-9]])))
        weight_K = 1 / (distance_K + 0.1) ** 2
        mean = float(np.average(self.log_N[near_K], weights=weight_K))
        value = mean
        if count > FEW:
            offset_KF = self.points_NF[near_K] - at
            design_KG = np.concatenate((np.ones((count, 1)), offset_KF), axis=1)
            normal_GG = design_KG.T * weight_K @ design_KG
            penalty_G = np.full(len(normal_GG), RIDGE * weight_K.sum())
            penalty_G[0] = 0.0
            right_G = design_KG.T * weight_K @ self.log_N[near_K]
            value = float(np.linalg.solve(normal_GG + np.diag(penalty_G), right_G)[0])
            low, high = self.log_N[near_K].min(), self.log_N[near_K].max()
            value = min(max(value, float(low)), float(high))
        return float(np.exp(value * 2.0 ** -max(0.0, (distance_K[0] - REACH) / REACH)))


def _point(op: Op) -> Floats:
    return np.log2(np.array(op.sizes, dtype=float) + 1e-3)


@dataclass(frozen=True)
class Nearest:
    """The correction of one device type."""

    speed: Speed
    kinds: dict[Key, Kind]
    reference: str
    samples: int

    def seconds(self, op: Op, estimate: float) -> float:
        """Of an op, whose estimate without any calibration is known."""
        kind = self.kinds.get(key_of(op))
        if kind is None:
            return estimate
        fitted = replace(self.speed, reached={**self.speed.reached, op.family: kind.constants})
        return fitted.uncorrected(op) * kind.factor(op)


def calibrated(speed: Speed, samples: Iterable[Sample], reference: str = "") -> Speed:
    """A speed that agrees with measured ops and with what lies between them.

    Raises GrainlineError where a sample's time isn't positive.
    """
    by_key: dict[Key, list[Sample]] = defaultdict(list)
    for sample in samples:
        if not 0 < sample.seconds < float("inf"):
            raise GrainlineError(f"a {sample.op.family} of {sample.op.sizes} took {sample.seconds} s: not a time.")
        by_key[key_of(sample.op)].append(sample)
    kinds = {key: _kind(speed, found) for key, found in by_key.items()}
    return replace(
        speed,
        correction=Nearest(speed, kinds, reference, sum(map(len, by_key.values()))),
        source="calibrated",
    )


def _kind(speed: Speed, samples: list[Sample]) -> Kind:
    constants = _constants(speed, samples) if len(samples) > FEW else speed.reached[samples[0].op.family]
    fitted = replace(speed, reached={**speed.reached, samples[0].op.family: constants}, correction=None)
    log_N = np.array([np.log(s.seconds / fitted.uncorrected(s.op)) for s in samples])
    points_NF = np.stack([_point(s.op) for s in samples])
    return Kind(constants, cKDTree(points_NF), points_NF, log_N)


def _constants(speed: Speed, samples: list[Sample]) -> Reached:
    """Shares, start and wave that miss the samples' logarithms least; shares may pass 1 where a data sheet is wrong."""
    some = samples[:: max(1, len(samples) // CONSTANTS_FROM)]
    base, family = speed.reached[some[0].op.family], some[0].op.family
    log_N = np.log([s.seconds for s in some])

    def of(x: Floats) -> Reached:
        flops, memory, start, wave = np.exp(x)
        return replace(
            base,
            flops=min(base.flops * flops, 1.5),
            memory=min(base.memory * memory, 4.0),
            start_seconds=base.start_seconds * start,
            wave_seconds=base.wave_seconds * wave,
            source="calibrated",
        )

    def missed(x: Floats) -> Floats:
        fitted = replace(speed, reached={**speed.reached, family: of(x)}, correction=None)
        return np.array([np.log(fitted.uncorrected(s.op)) for s in some]) - log_N

    found = least_squares(missed, np.zeros(4), loss="soft_l1", f_scale=0.1, bounds=(-3.0, 3.0), max_nfev=30)
    return of(found.x)
