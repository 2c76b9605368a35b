"""A TCP relay with latency: one thread that takes connections, and hands on what comes after a set time."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from dataclasses import dataclass, field

from . import owner
from .delay import Delay, soonest

CHUNK = 1 << 18


@dataclass
class Flow:
    """From one socket to another."""

    source: socket.socket
    target: socket.socket
    delay: Delay
    ended: bool = False  # the source has said that nothing more comes
    closed: bool = field(default=False)  # and so does the target know


def main() -> None:
    """Settings: target (host, port), listen (host), latency_seconds."""
    wanted = owner.settings()
    try:
        listener = socket.create_server((wanted["listen"], 0))
    except OSError as error:
        owner.tell(error=f"no relay can listen on {wanted['listen']}: {error.strerror}")
        return
    owner.be_punctual()
    owner.tell(ok=True, address=listener.getsockname()[:2])
    person = owner.Owner(wanted["owner"])
    ways: list[Flow] = []
    while True:
        reading = [way.source for way in ways if not way.ended and not way.delay.full]
        writing = [way.target for way in ways if way.delay.due() is not None]
        waits = soonest(*(way.delay.wait_seconds() for way in ways if way.target not in writing))
        watched: list[int | socket.socket] = [*person.files, listener, *reading]
        ready, free, _ = select.select(watched, writing, (), waits)
        if any(file in ready for file in person.files):
            if person.says(0) == "stop":
                return
            owner.tell(cpu_seconds=time.process_time())
        if listener in ready:
            ways += _accept(listener, tuple(wanted["target"]), wanted["latency_seconds"])
        for way in ways:
            if way.source in ready:
                _receive(way)
            if way.target in free:
                _send(way)
            if way.ended and not way.delay.pieces and not way.closed:
                _shut(way)
        ways = _open_ones(ways)


def _accept(listener: socket.socket, target: tuple[str, int], latency_seconds: float) -> list[Flow]:
    client, _ = listener.accept()
    try:
        server = socket.create_connection(target, timeout=10)
    except OSError:
        client.close()
        return []
    for end in (client, server):
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return [Flow(client, server, Delay(latency_seconds)), Flow(server, client, Delay(latency_seconds))]


def _receive(way: Flow) -> None:
    try:
        piece = way.source.recv(CHUNK)
    except BlockingIOError:
        return
    except OSError:
        piece = b""
    if piece:
        way.delay.put(piece)
    else:
        way.ended = True


def _send(way: Flow) -> None:
    """Everything that is due and that the socket takes."""
    try:
        while (piece := way.delay.due()) is not None:
            sent = way.target.send(piece)
            way.delay.take(sent)
            if sent < len(piece):
                return
    except BlockingIOError:
        pass
    except OSError:  # the other end is gone: what is left for it is nobody's
        way.delay.pieces.clear()
        way.ended = True


def _shut(way: Flow) -> None:
    way.closed = True
    with contextlib.suppress(OSError):
        way.target.shutdown(socket.SHUT_WR)


def _open_ones(ways: list[Flow]) -> list[Flow]:
    """Close the sockets of pairs of ways that have both ended."""
    found = []
    for there, back in zip(ways[::2], ways[1::2], strict=True):
        if there.closed and back.closed:
            there.source.close()
            there.target.close()
        else:
            found += [there, back]
    return found
