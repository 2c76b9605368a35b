"""The level-1 trigger of CMS as a classifier: scores sampled from turn-on curves and rates, as HEP-DAQ builds it.

Each of four objects (jet, muon, e/γ, tau) has an exponential energy spectrum, fitted so that its turn-on curve lets a
given share through. An irrelevant event has all four energies below the trigger's thresholds; a relevant one has those
above that one of twelve published combinations says. An event's score is the sum of the four efficiencies at its
energies (arXiv 2407.00123; parameters from the authors' spreadsheets). The reference fits all four spectra to the rate
of e/γ (`EGAMMA_FOR_ALL`), which is kept here because its stored results have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.interpolate import PchipInterpolator
from scipy.optimize import minimize_scalar

from grainline.documents import write_atomically

Column = NDArray[np.float64]
OBJECTS = ("jet", "muon", "e/gamma", "tau")
THRESHOLD_GEV = (320.0, 22.0, 30.0, 38.0)
RATES = (0.282, 0.364, 0.444, 0.18)
EGAMMA_FOR_ALL = (RATES[2],) * 4
LARGEST_DECAY = (0.4, 0.6, 0.4, 0.4)  # per GeV: bounds of the fit
# Share of relevant events that fire these objects, in the order of OBJECTS.
COMBINATIONS: tuple[tuple[float, tuple[int, int, int, int]], ...] = (
    (0.010, (1, 0, 0, 0)),
    (0.026, (1, 0, 0, 0)),
    (0.032, (1, 1, 0, 0)),
    (0.033, (0, 1, 1, 0)),
    (0.046, (1, 0, 1, 0)),
    (0.053, (1, 1, 1, 1)),
    (0.064, (0, 0, 1, 0)),
    (0.098, (0, 1, 0, 0)),
    (0.115, (1, 0, 0, 0)),
    (0.127, (0, 0, 0, 1)),
    (0.148, (0, 1, 0, 0)),
    (0.248, (0, 0, 1, 0)),
)
ROWS = 321  # of the curve that is written


def turn_on(path: Path) -> dict[str, PchipInterpolator]:
    """Efficiency by energy of each object, from level1_turn_on.csv."""
    lines = [line.split(",") for line in path.read_text().splitlines() if not line.startswith("#")][1:]
    found = {}
    for name in OBJECTS:
        points = np.array([(float(x), float(y)) for kind, x, y in lines if kind == name])
        found[name] = PchipInterpolator(points[:, 0], points[:, 1])
    return found


def decays(curves: Mapping[str, PchipInterpolator], rates: tuple[float, ...] = EGAMMA_FOR_ALL) -> Column:
    """Per GeV, of each object's exponential spectrum: what makes curve × spectrum come nearest to its rate."""
    found = []
    for name, rate, most in zip(OBJECTS, rates, LARGEST_DECAY, strict=True):
        curve = curves[name]

        def miss(decay: float, curve: PchipInterpolator = curve, rate: float = rate) -> float:
            ends = float(curve.x[0]), float(curve.x[-1])
            fires, _ = quad(lambda e: decay * np.exp(-decay * e) * float(curve(e)), *ends, limit=200)
            return abs(rate - fires)

        found.append(float(minimize_scalar(miss, bounds=(0.0, most), method="bounded").x))
    return np.array(found)


def samples(path: Path, events: int, seed: int = 0, rates: tuple[float, ...] = EGAMMA_FOR_ALL) -> tuple[Column, Column]:
    """Scores of so many irrelevant events, and of as many relevant ones."""
    generator = np.random.default_rng(seed)
    curves = turn_on(path)
    decay = decays(curves, rates)
    below = 1 - np.exp(-decay * np.array(THRESHOLD_GEV))  # share of objects under the threshold

    def score(quantile_N4: Column) -> Column:
        gev_N4 = -np.log1p(-quantile_N4) / decay
        efficiencies = [np.clip(curves[name](gev_N4[:, i]), 0, 1) for i, name in enumerate(OBJECTS)]
        return np.asarray(np.sum(efficiencies, axis=0))

    irrelevant = score(generator.random((events, 4)) * below)
    share = np.array([one for one, _ in COMBINATIONS])
    fires_N4 = np.array([fires for _, fires in COMBINATIONS])[
        generator.choice(len(share), events, p=share / share.sum())
    ]
    u_N4 = generator.random((events, 4))
    relevant = score(np.where(fires_N4 == 1, u_N4 * (1 - below) + below, u_N4 * below))
    return irrelevant, relevant


def write_curve(folder: Path, events: int = 1_000_000) -> None:
    """level1_scores.csv in the examples' folder, made of level1_turn_on.csv there."""
    irrelevant, relevant = samples(folder / "level1_turn_on.csv", events)
    score = np.linspace(0, float(max(irrelevant.max(), relevant.max())), ROWS)
    lines = [f"# Level-1 scores, {events:,} events of each kind: python -m grainline.exhibits.hep_daq_trigger"]
    lines += ["score,irrelevant_below,relevant_below"]
    ranks = [np.searchsorted(np.sort(one), score, side="right") / events for one in (irrelevant, relevant)]
    lines += [f"{s:.5g},{a:.6f},{b:.6f}" for s, a, b in zip(score, *ranks, strict=True)]
    write_atomically(folder / "level1_scores.csv", "\n".join(lines) + "\n")


if __name__ == "__main__":
    write_curve(Path("examples/filters"))
