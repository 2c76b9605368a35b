"""Traffic by published summaries: what was published is a mean or a median; that lengths are log-normal is assumed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Preset:
    """Tokens in and out of a request, and who published them."""

    input_tokens: float
    output_tokens: float
    figure: Literal["mean", "median"]
    reference: str
    sigma: tuple[float, float] = (1.0, 0.8)  # of the logarithms of tokens in and out: assumed

    LEAST: ClassVar[float] = 1e-4
    """Buckets with a smaller share are left out."""

    def inside(self, spans: Sequence[tuple[int, int]], *, of_output: bool) -> list[float]:
        """Shares of lengths in each span; the last takes what is longer."""
        level = self.output_tokens if of_output else self.input_tokens
        sigma = self.sigma[of_output]
        mu = math.log(level) - (sigma**2 / 2 if self.figure == "mean" else 0.0)
        normal = NormalDist(mu, sigma)
        ends = [0.0, *(normal.cdf(math.log(high)) for _, high in spans[:-1]), 1.0]
        return [b - a for a, b in pairwise(ends)]


PRESETS: Mapping[str, Preset] = {
    "chat": Preset(69.5, 214.5, "mean", "LMSYS-Chat-1M (arXiv 2309.11998), table 1: tokens per prompt and response"),
    "conversation": Preset(1020, 129, "median", "Azure conversations 2023 (Splitwise, arXiv 2311.18677, section 3)"),
    "code": Preset(1500, 13, "median", "Azure coding 2023 (Splitwise, arXiv 2311.18677, section 3)"),
    "documents": Preset(
        4021, 271, "mean", "PubMed articles and abstracts (arXiv 1804.05685): 3,016 and 203 words, 4/3 tokens each"
    ),
}
