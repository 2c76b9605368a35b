"""How fast two processes of this machine talk: over a pair of sockets, TCP on the loopback device, and gloo.

Run as a program it is the other process; the standard library is all it needs until gloo. See `routes`.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROUND_TRIPS, GLOO_ROUND_TRIPS = 2000, 500
CHUNK = 1 << 20
BYTES = 1 << 28  # of a one-way transfer
GLOO_BYTES = 1 << 26
TRIES = 3
SOCKETS = ("unix sockets", "TCP loopback")
GLOO = "gloo"
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Route:
    """A way between two processes: half a round trip of the smallest message, and bytes per second one way."""

    name: str
    latency_seconds: float
    bytes_per_second: float

    def table(self, node: str, device: str, reference: str) -> dict[str, Any]:
        """As a link of a Cluster, between devices of that type in a node."""
        return {
            "between": [node],
            "type": self.name,
            "joins": [device],
            "host": False,
            "latency_seconds": self.latency_seconds,
            "bytes_per_second": self.bytes_per_second,
            "source": "measured",
            "reference": reference,
        }


class ProbeError(Exception):
    """A route that can't be measured here; says why."""


def socket_route(name: str) -> Route:
    """By one of SOCKETS, between this process and another. Raises ProbeError."""
    here: socket.socket
    if name == SOCKETS[0]:
        here, there = socket.socketpair()
        child = _other("socket", str(there.fileno()), pass_fds=[there.fileno()])
        there.close()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(PATIENCE_SECONDS)
            child = _other("tcp", str(server.getsockname()[1]))
            try:
                here, _ = server.accept()
            except OSError as error:
                child.kill()
                child.communicate()
                raise ProbeError(f"{name}: the other process doesn't answer ({error})") from None
        here.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        with here:
            here.settimeout(PATIENCE_SECONDS)
            return _ask(here, name)
    except OSError as error:
        raise ProbeError(f"{name}: {error}") from None
    finally:
        child.kill()
        child.communicate()


def gloo_route() -> Route:
    """torch.distributed's sends between two other processes, one thread each. Raises ProbeError."""
    with tempfile.TemporaryDirectory(prefix="grainline-probe-") as folder:
        children = [_other("gloo", str(Path(folder) / "store"), str(rank)) for rank in range(2)]
        try:
            told, errors = children[0].communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise ProbeError(f"gloo: no answer within {PATIENCE_SECONDS:.0f} s") from None
        finally:
            for child in children:
                child.kill()
            for child in children:
                child.communicate()
    if not told:
        raise ProbeError(f"gloo: {errors.strip().splitlines()[-1] if errors.strip() else 'ended without a word'}")
    return Route(GLOO, **json.loads(told))


def _other(*words: str, pass_fds: Sequence[int] = ()) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": _loopback()}
    return subprocess.Popen(
        [sys.executable, "-P", __file__, *words],  # -P: the modules beside this one are no top-level ones
        env=environment,
        pass_fds=tuple(pass_fds),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _loopback() -> str:
    """The loopback device's name: "lo", "lo0"."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in ("lo", "lo0") if name in names), names[0] if names else "lo")


def _ask(here: socket.socket, name: str) -> Route:
    trips = []
    for _ in range(ROUND_TRIPS):
        start = time.perf_counter()
        here.sendall(b"?")
        _hear(here)
        trips.append(time.perf_counter() - start)
    data, transfers = memoryview(bytearray(CHUNK)), []
    for _ in range(TRIES):
        start = time.perf_counter()
        for _ in range(BYTES // CHUNK):
            here.sendall(data)
        _hear(here)
        transfers.append(time.perf_counter() - start)
    return Route(name, statistics.median(trips) / 2, BYTES / min(transfers))


def _hear(here: socket.socket) -> None:
    if not here.recv(1):
        raise OSError("the other process has ended")


def _answer(there: socket.socket) -> None:
    with there:
        for _ in range(ROUND_TRIPS):
            _hear(there)
            there.sendall(b"!")
        room = memoryview(bytearray(CHUNK))
        for _ in range(TRIES):
            left = BYTES
            while left:
                got = there.recv_into(room, min(left, CHUNK))
                if not got:
                    return
                left -= got
            there.sendall(b"!")


def _gloo(store: str, rank: int) -> None:
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    patience = timedelta(seconds=PATIENCE_SECONDS)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=patience)
    small, large = torch.zeros(1), torch.zeros(GLOO_BYTES // 4)

    def there_and_back(first: torch.Tensor, second: torch.Tensor) -> float:
        start = time.perf_counter()
        if rank == 0:
            dist.send(first, 1)
            dist.recv(second, 1)
        else:
            dist.recv(first, 0)
            dist.send(second, 0)
        return time.perf_counter() - start

    there_and_back(large, large)
    latency = statistics.median(there_and_back(small, small) for _ in range(GLOO_ROUND_TRIPS)) / 2
    seconds = min(there_and_back(large, small) for _ in range(TRIES)) - latency
    if rank == 0:
        print(json.dumps({"latency_seconds": latency, "bytes_per_second": GLOO_BYTES / seconds}))
    dist.destroy_process_group()


def main(words: Sequence[str]) -> None:
    """The other process."""
    kind, where, *rest = words
    if kind == "gloo":
        _gloo(where, int(rest[0]))
    elif kind == "tcp":
        there = socket.create_connection(("127.0.0.1", int(where)), timeout=PATIENCE_SECONDS)
        there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _answer(there)
    else:
        _answer(socket.socket(fileno=int(where)))


if __name__ == "__main__":
    main(sys.argv[1:])
