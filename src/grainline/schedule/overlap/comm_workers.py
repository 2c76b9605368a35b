"""How many workers should communicate: a balance in closed form, and the best number with whole waves of tiles.

COMET (arXiv 2502.19811, section 3.2) profiles this per shape; the closed form is ours. Workers taken from the products
may cost a whole further wave: 512 tiles are four waves on 132 workers and five on 124.
"""

from __future__ import annotations

from dataclasses import dataclass

from grainline.documents import GrainlineError


@dataclass(frozen=True)
class Balance:
    """One product whose results workers send as it goes on. `wave_seconds`: of one tile on each worker."""

    tiles: int
    workers: int
    wave_seconds: float
    bytes: float
    push_bytes_per_second: float  # of one communicating worker
    link_bytes_per_second: float

    def __post_init__(self) -> None:
        """Raises GrainlineError where nobody is left to compute."""
        if self.workers < 2:
            raise GrainlineError(f"{self.workers} workers can't share compute and communication: 2 or more, please.")

    def compute_seconds(self, n: int) -> float:
        """With n workers that communicate, in whole waves."""
        return self.waves(n) * self.wave_seconds

    def waves(self, n: int) -> int:
        """Of tiles, on the others."""
        return -(-self.tiles // (self.workers - n))

    def send_seconds(self, n: int) -> float:
        """By n workers."""
        return self.bytes / min(n * self.push_bytes_per_second, self.link_bytes_per_second)

    def seconds(self, n: int) -> float:
        """Of both, side by side."""
        return max(self.compute_seconds(n), self.send_seconds(n))

    @property
    def balanced(self) -> float:
        """n where C·W/(W − n) = V/(n·b), or where n·b fills the link if that is less; C without rounding to waves."""
        compute = self.tiles / self.workers * self.wave_seconds
        n = self.bytes * self.workers / (compute * self.workers * self.push_bytes_per_second + self.bytes)
        return min(n, self.link_bytes_per_second / self.push_bytes_per_second)

    @property
    def best(self) -> int:
        """The number with the least time, the smallest of equals: it adds a wave only where that is worth it."""
        return min(range(1, self.workers), key=self.seconds)
