"""The quickstart's own claims: that minutes on two cores give a model worth more than counting or compressing.

Every figure comes from whole quickstarts, as a person would start them, on the built-in corpus.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, Scale
from grainline.exhibits.harness import estimate, ratio

SEEDS = (0, 1, 2)
MINUTES, QUICK_MINUTES = 5.0, 0.5  # a quick run of all three claims is one quickstart, with time to spare in a minute

SPARSE = Claim(
    name="quickstart.sparse",
    text="At the quickstart's scale too, a sparse model beats a dense one of the same active parameters.",
    quantity="held-out bits per byte of the sparse model / the dense one, after the same steps over the same tokens",
    expected=1.0,
    margin=0.0,
    better="lower",
    baseline="the dense model that the same quickstart trains",
    seeds=SEEDS,
    how="real",
)
CLASSICAL = Claim(
    name="quickstart.classical",
    text="In five minutes on two cores the model predicts held-out text better than the classical methods do.",
    quantity="held-out bits per byte of the sparse model / the better of an order-5 n-gram model and xz -9",
    expected=1.0,
    margin=0.0,
    better="lower",
    baseline="both given the very bytes that the model learned from",
    seeds=SEEDS,
    how="real",
)
ON_TIME = Claim(
    name="quickstart.on-time",
    text="`--minutes` is about how long it takes, from start to report.",
    quantity="seconds taken / seconds asked for",
    expected=1.0,
    margin=0.15,
    better="lower",
    baseline="the time asked for",
    seeds=SEEDS,
    how="real",
)


@dataclass(frozen=True)
class Finished:
    """One quickstart: total bits per byte by model, and how long it took."""

    folder: Path
    bits_per_byte: Mapping[str, float]
    share_of_time: float


def quickstarts(scale: Scale) -> list[Finished]:
    """One quickstart for each seed, one after another; made once for all claims of a command."""
    from grainline.quickstart.options import Options, QuickstartFolder
    from grainline.quickstart.run import quickstart

    found = []
    for seed in scale.seeds:
        minutes = scale.pick(full=MINUTES, quick=QUICK_MINUTES)
        folder = QuickstartFolder(scale.folder / f"quickstart-{minutes:g}-{seed}")
        taken = folder.out / "seconds.json"
        if not taken.is_file():
            scale.tell(f"quickstart of {minutes:g} minutes, seed {seed}")
            start = time.perf_counter()
            quickstart(Options(minutes=minutes, seed=seed), folder.out, say=lambda _: None, quiet=True)
            taken.write_text(json.dumps(time.perf_counter() - start))
        scores = json.loads(folder.evaluation.read_text(encoding="utf-8"))["bits_per_byte"]
        totals = {name: parts["total"] for name, parts in scores.items()}
        found.append(Finished(folder.out, totals, json.loads(taken.read_text()) / (60 * minutes)))
    return found


def measure_sparse(scale: Scale) -> Measurement:
    """Against the dense baseline."""
    runs = quickstarts(scale)
    return _measurement(runs, [r.bits_per_byte["sparse"] for r in runs], [r.bits_per_byte["dense"] for r in runs])


def measure_classical(scale: Scale) -> Measurement:
    """Against the better of counting and compressing."""
    runs = quickstarts(scale)
    classical = [min(r.bits_per_byte["n-gram"], r.bits_per_byte["xz"]) for r in runs]
    return _measurement(runs, [r.bits_per_byte["sparse"] for r in runs], classical)


def measure_on_time(scale: Scale) -> Measurement:
    """Wall time of all of it."""
    runs = quickstarts(scale)
    found = estimate([r.share_of_time for r in runs])
    return Measurement(found.value, found.error_bar, None, {"share_of_time": [r.share_of_time for r in runs]})


def _measurement(runs: list[Finished], over: list[float], under: list[float]) -> Measurement:
    from grainline.quickstart.figures import overview_svg

    found = ratio(over, under)
    details = {"bits_per_byte": [dict(r.bits_per_byte) for r in runs]}
    return Measurement(found.value, found.error_bar, overview_svg(runs[0].folder), details)


MEASURES: dict[Claim, Measure] = {
    SPARSE: measure_sparse,
    CLASSICAL: measure_classical,
    ON_TIME: measure_on_time,
}
