"""A longer way to a TCP server: a relay that needs no rights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from grainline.hardware.unequal.measure import measure_way
from grainline.hardware.unequal.process import Helper, helper


@dataclass(frozen=True)
class Relay:
    """A running relay. Connect to `address` in place of the server's."""

    address: tuple[str, int]
    latency_seconds: float  # wanted, each way
    measured_latency_seconds: float | None  # what it adds to a way through it; None if not measured
    process: Helper

    def cpu_seconds(self) -> float:
        """CPU time that the relay has used so far: it competes for the cores with what is measured through it."""
        return float(self.process.ask("cpu")["cpu_seconds"])


@contextmanager
def relay(
    target: tuple[str, int], latency_seconds: float, *, listen: str = "127.0.0.1", measure: bool = True
) -> Iterator[Relay]:
    """While the block runs, connections to `.address` reach `target` (host, port) and take so much longer each way.

    What is on its way isn't held up by what came before it: the bandwidth stays (up to 256 MiB under way at once).
    Raises NotAllowed where it can't listen. The relay ends with this process.
    """
    if latency_seconds < 0:
        raise ValueError(f"a latency of {latency_seconds} seconds: must be 0 or more")
    settings = {"target": target, "listen": listen, "latency_seconds": latency_seconds}
    added = _added(latency_seconds) if measure else None
    with helper("relay", settings) as running:
        host, port = running.found["address"]
        yield Relay((host, port), latency_seconds, added, running)


def _added(latency_seconds: float) -> float:
    """What such a relay adds to one way here, by ping-pong with an echo through it and without it."""
    straight = measure_way(seconds=0).latency_seconds
    with helper("probe", {"listen": "127.0.0.1"}) as echo:
        settings = {"target": echo.found["address"], "listen": "127.0.0.1", "latency_seconds": latency_seconds}
        with helper("relay", settings) as running:
            host, port = running.found["address"]
            wanted = {"connect": (host, port), "trips": 40, "seconds": 0, "bytes_per_second": None}
            with helper("probe", wanted) as client:
                return float(client.found["latency_seconds"]) - straight
