"""Load: how much the busiest rank of an expert-parallel group has over the mean, from how unevenly tokens choose."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean

from grainline.documents import GrainlineError
from grainline.plan.layouts.work import Load

NORMAL = NormalDist()
PERCENTILE = 0.99


@dataclass(frozen=True)
class Imbalance:
    """Of a router: how much experts' long-run loads differ from one another, and how alike a sequence's tokens choose.

    `deviation` is the standard deviation of an expert's load over its mean. Assumed where no trace says more: balanced
    without a loss, the busiest expert has 4 % over the mean of a whole validation set, with one 72 % (MaxVio, arXiv
    2408.15664, table 2), which in 64 experts are deviations of 0.02 and 0.3; 0.1 lies between. `clump` tokens choose as
    one: assumed.
    """

    deviation: float = 0.1
    clump: float = 4.0

    def load(self, choices: float, experts: int, ranks: int) -> Load:
        """Of a micro-batch with so many choices in the whole group: what the busiest of `ranks` has over the mean.

        A rank's share is normal about its mean: experts' own differences average over its experts, and a multinomial
        draw's variance is its mean. The expected largest of n normals is at the quantile (n − 3/8)/(n + 1/4) (Blom
        1958), the 99th percentile of the largest at 0.99^(1/n).
        """
        if ranks == 1:
            return Load()
        rows = choices / ranks
        own = self.deviation**2 * ranks / experts * (1 - 1 / ranks)
        spread = math.sqrt(own + self.clump * (1 - 1 / ranks) / rows)
        usual = NORMAL.inv_cdf((ranks - 0.375) / (ranks + 0.25))
        rare = NORMAL.inv_cdf(PERCENTILE ** (1 / ranks))
        most = float(ranks)  # one rank has all
        return Load(min(most, 1 + usual * spread), min(most, 1 + rare * spread))


USUAL = Imbalance()
"""Where no trace says more."""


def of_counts(counts: Iterable[Sequence[float]], ranks: int) -> Load:
    """From a trace: each row has how often every expert was chosen in one layer and micro-batch.

    Experts lie on ranks in order. Raises GrainlineError where they can't be spread evenly, or nothing was chosen.
    """
    largest = []
    for row in counts:
        if len(row) % ranks:
            raise GrainlineError(f"{len(row)} experts can't be spread evenly over {ranks} ranks.")
        each = len(row) // ranks
        loads = [sum(row[i : i + each]) for i in range(0, len(row), each)]
        if sum(loads):
            largest.append(max(loads) * ranks / sum(loads))
    if not largest:
        raise GrainlineError("the trace has no choices of experts.")
    largest.sort()
    return Load(mean(largest), largest[min(len(largest) - 1, math.ceil(PERCENTILE * len(largest)) - 1)])
