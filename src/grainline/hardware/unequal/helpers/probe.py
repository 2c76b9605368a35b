"""Measures a way between two places: the round trip of a byte, and how fast many bytes come over."""

from __future__ import annotations

import socket
import threading
import time

from . import owner

BUFFER = 1 << 20
WORD = 8
FEW_TRIPS, TRIPS_SECONDS = 7, 0.3  # on a long way, no more than these


def main() -> None:
    """Settings: listen (host) at the far end; else connect (host, port), trips, seconds, bytes_per_second (a guess)."""
    wanted = owner.settings()
    owner.leave_with(wanted["owner"])
    try:
        if "listen" in wanted:
            _answer(wanted["listen"])
        else:
            with socket.create_connection(tuple(wanted["connect"]), timeout=30) as line:
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                owner.tell(**_measure(line, wanted["trips"], wanted["seconds"], wanted["bytes_per_second"]))
    except OSError as error:
        owner.tell(error=str(error))
    threading.Event().wait()  # for the owner


def _answer(host: str) -> None:
    with socket.create_server((host, 0)) as server:
        owner.tell(ok=True, address=server.getsockname()[:2])
        line, _ = server.accept()
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = bytearray(BUFFER)
        while len(head := line.recv(WORD, socket.MSG_WAITALL)) == WORD:
            left = int.from_bytes(head, "big")
            while left:
                got = line.recv_into(buffer, min(left, BUFFER))
                if not got:
                    return
                left -= got
            line.sendall(b"k")


def _measure(line: socket.socket, trips: int, seconds: float, guess: float | None) -> dict[str, float]:
    """Half of the median round trip; and the rate by the difference of two transfers, so that latency drops out."""
    _send(line, 0)
    times: list[float] = []
    while len(times) < trips and (len(times) < FEW_TRIPS or sum(times) < TRIPS_SECONDS):
        times.append(_send(line, 0))
    found = {"latency_seconds": sorted(times)[len(times) // 2] / 2}
    if seconds:
        if guess is None:
            count = 1 << 20
            while (spent := _send(line, count)) < seconds / 8 and count < 1 << 30:
                count *= 2
            guess = count / spent
        large = max(1 << 16, int(guess * seconds * 0.8))
        small = large // 4
        _send(line, small)  # opens TCP's window
        rates = []
        for _ in range(3):
            time.sleep(0.02)  # so that each begins with the same credit
            first = _send(line, small)
            time.sleep(0.02)
            rates.append((large - small) / max(1e-9, _send(line, large) - first))
        found["bytes_per_second"] = sorted(rates)[1]
    return found


def _send(line: socket.socket, count: int) -> float:
    start = time.perf_counter()
    line.sendall(count.to_bytes(WORD, "big"))
    left = count
    block = bytes(min(count, BUFFER))
    while left:
        line.sendall(block[:left])
        left -= min(left, BUFFER)
    if line.recv(1) != b"k":
        raise OSError("the far end has gone")
    return time.perf_counter() - start
