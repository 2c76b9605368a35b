"""Server-sent events, and noticing that the client has left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import orjson
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

Result = TypeVar("Result")
DONE = b"data: [DONE]\n\n"


class ClientLeft(Exception):
    """The client closed the connection before its answer was ready."""


def event(value: Any) -> bytes:
    """One JSON value as a server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


class EventStream(StreamingResponse):
    """A response of events. However it ends, by its last event or by the client leaving, `on_end` is called."""

    def __init__(self, events: AsyncIterator[bytes], on_end: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies must not hold events back
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, and stop when the client leaves.

        Starlette's own watch cancels only a task that waits, so a stream whose next event is always there goes on.
        """
        try:
            await unless_left(receive, self.stream_response(send))
        except (ClientLeft, OSError):
            pass  # nobody is there to be told
        finally:
            self._on_end()


async def unless_left(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`, but cancel it and raise ClientLeft when the client closes the connection first."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_left(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
