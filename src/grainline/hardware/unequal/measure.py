"""The latency and rate of a way, by ping-pong and transfer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grainline.hardware.unequal.process import helper


@dataclass(frozen=True)
class Way:
    """Measured with TCP: half of a byte's median round trip, and the rate of large transfers (None: not asked for)."""

    latency_seconds: float
    bytes_per_second: float | None


def measure_way(
    near: Sequence[str] = (),
    far: Sequence[str] = (),
    *,
    host: str = "127.0.0.1",
    through: tuple[str, int] | None = None,
    seconds: float = 0.6,
    trips: int = 40,
    bytes_per_second: float | None = None,
) -> Way:
    """From the process that the command `near` would start to the one that `far` would, which listens on `host`.

    `seconds` is about the time for transfers (0: latency alone), `bytes_per_second` what to expect of the rate.
    """
    with helper("probe", {"listen": host}, prefix=far) as server:
        address = through or tuple(server.found["address"])
        settings = {"connect": address, "trips": trips, "seconds": seconds, "bytes_per_second": bytes_per_second}
        with helper("probe", settings, prefix=near) as client:
            found = client.found
    return Way(found["latency_seconds"], found.get("bytes_per_second"))
