"""Bill: what a whole run takes in days, dollars and energy, failures and checkpoints included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from grainline.documents import GrainlineError
from grainline.documents.cluster import DeviceType

DEVICE_HOURS_PER_FAILURE = 50_700.0
"""16,384 H100s of Llama 3 405B had 419 unexpected interruptions in 54 days (arXiv 2407.21783, section 3.3.4)."""
IDLE_SHARE = 0.12
"""Of a device's power, that it draws when it waits: an A100 draws some 50 of 400 watts, an H100 70 of 700. Assumed."""
RESTART_SECONDS = 600.0
"""From a failure to the first step after it: detection, a spare node, reading the checkpoint. Assumed."""
WRITE_BYTES_PER_SECOND = 2e9
"""Of one node to the storage of checkpoints, that training waits for. Assumed."""


@dataclass(frozen=True)
class Reliability:
    """How often a run is interrupted, and what that costs."""

    failure_seconds: float  # mean time between failures of the whole machine
    save_seconds: float  # that a checkpoint holds training up
    restart_seconds: float = RESTART_SECONDS

    @classmethod
    def of(cls, devices: int, nodes: int, state_bytes: float, *, device_hours: float | None = None) -> Reliability:
        """Of so many devices, whose nodes write the state together."""
        hours = DEVICE_HOURS_PER_FAILURE if device_hours is None else device_hours
        if hours <= 0:
            raise GrainlineError(f"--failure-hours {hours:g}: must be more than 0.")
        return cls(hours * 3600 / devices, state_bytes / nodes / WRITE_BYTES_PER_SECOND)

    @property
    def save_every(self) -> float:
        """Seconds of work between checkpoints that lose least: √(2·save·M) (Young 1974)."""
        return math.sqrt(2 * self.save_seconds * self.failure_seconds)

    def stretch(self, every: float | None = None) -> float:
        """Expected time over time without failures (Daly 2006, equation 13), checkpoints `every` so many seconds.

        M·e^(R/M)·(e^((τ+δ)/M) − 1)/τ with failures at random at mean distance M.
        """
        tau, m = every or self.save_every, self.failure_seconds
        if (tau + self.save_seconds) / m > 50:
            return math.inf
        return m * math.exp(self.restart_seconds / m) * math.expm1((tau + self.save_seconds) / m) / tau


@dataclass(frozen=True)
class Bill:
    """Of a run."""

    steps: int
    seconds: float  # expected, with failures and checkpoints
    device_hours: float
    dollars: float | None  # None where a device has no price
    joules: float | None  # None where a device has no power
    failures: float
    save_every_seconds: float
    stretch: float

    @property
    def days(self) -> float:
        """Of wall clock."""
        return self.seconds / 86_400


def bill(
    devices: Sequence[DeviceType],
    nodes: int,
    step_seconds: float,
    busy_share: float,
    steps: int,
    state_bytes: float,
    *,
    device_hours_per_failure: float | None = None,
) -> Bill:
    """`busy_share` of a step its devices compute, on average; the rest they draw what they draw when idle."""
    reliability = Reliability.of(len(devices), nodes, state_bytes, device_hours=device_hours_per_failure)
    stretch = reliability.stretch()
    seconds = steps * step_seconds * stretch
    prices, powers = [d.price_per_hour for d in devices], [d.power_watts for d in devices]
    busy = busy_share / stretch
    watts = None
    if None not in powers:
        watts = sum(power * (IDLE_SHARE + (1 - IDLE_SHARE) * busy) for power in powers if power is not None)
    return Bill(
        steps=steps,
        seconds=seconds,
        device_hours=len(devices) * seconds / 3600,
        dollars=None if None in prices else sum(p for p in prices if p is not None) * seconds / 3600,
        joules=None if watts is None else watts * seconds,
        failures=seconds / reliability.failure_seconds,
        save_every_seconds=reliability.save_every,
        stretch=stretch,
    )
