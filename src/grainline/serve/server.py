"""A listening address, and uvicorn around the application: said plainly when it can't listen, stopped with care."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from grainline.documents import GrainlineError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from grainline.serve.engine import Engine

log = logging.getLogger(__name__)

GRACE_SECONDS = 30.0
POLL_SECONDS = 0.1
LAST_WORDS_SECONDS = 5  # after the grace: for error answers to reach their clients


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not listening yet: while the model loads, clients are refused, not left waiting.

    Raises GrainlineError if the address is in use, not this machine's, or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise GrainlineError(f"--host {host}: is no address of this machine; try 127.0.0.1.") from None
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        return listener
    except OSError as error:
        listener.close()
        raise _cannot_listen(error, host, port) from None


def _cannot_listen(error: OSError, host: str, port: int) -> GrainlineError:
    if error.errno == errno.EADDRINUSE:
        problem = "is in use by another program. Stop that one, or choose another port, as in --port "
        return GrainlineError(f"port {port} on {host} {problem}{port + 1 if port < 65535 else 8000}.")
    if error.errno == errno.EACCES:
        return GrainlineError(f"port {port} on {host} needs more rights than you have; choose one above 1023.")
    if error.errno == errno.EADDRNOTAVAIL:
        return GrainlineError(f"--host {host}: is no address of this machine; try 127.0.0.1.")
    return GrainlineError(f"can't listen on {host} port {port}: {error.strerror}.")


def address_of(listener: socket.socket) -> str:
    """The URL that clients use, such as ``http://127.0.0.1:8000``."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # "every address" is none to connect to
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """Uvicorn that, told to stop, lets requests finish for a while and then has the engine fail the rest."""

    def __init__(self, config: uvicorn.Config, engine: Engine, grace_seconds: float) -> None:
        super().__init__(config)
        self._engine = engine
        self._grace_seconds = grace_seconds
        self._hurried = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal stops, the second ends the grace, the third cuts lines."""
        if self.should_exit and not self._hurried:
            self._hurried = True
        else:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, drain, then close the engine, so that who still waits gets an error and not a dead line."""
        if self._engine.running or self._engine.waiting:
            log.info("Stopping; requests have %g s to finish. Ctrl-C again ends them.", self._grace_seconds)
        draining = asyncio.create_task(self._drain())
        try:
            await super().shutdown(sockets)
        finally:
            draining.cancel()

    async def _drain(self) -> None:
        end = time.monotonic() + self._grace_seconds
        while time.monotonic() < end and not self._hurried:
            await asyncio.sleep(POLL_SECONDS)
        self._engine.close("the server is stopping")


def run(app: FastAPI, engine: Engine, listener: socket.socket, grace_seconds: float = GRACE_SECONDS) -> None:
    """Serve until Ctrl-C or SIGTERM, then finish what is under way, for `grace_seconds` at most.

    A second Ctrl-C fails what is left at once. The signal is raised again at the end: Ctrl-C leaves this function as
    KeyboardInterrupt.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        timeout_graceful_shutdown=int(grace_seconds) + LAST_WORDS_SECONDS,
        server_header=False,
    )
    try:
        listener.listen(config.backlog)
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise _cannot_listen(error, host, port) from None
    try:
        _Server(config, engine, grace_seconds).run(sockets=[listener])
    finally:
        engine.close("the server has stopped")
        engine.join(LAST_WORDS_SECONDS)  # the interpreter must not end under a running computation
