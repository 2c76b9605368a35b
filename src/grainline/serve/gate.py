"""In front of every route: the API key, a limit on body size, and the count of what was answered."""

from __future__ import annotations

import hmac
import json
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grainline.serve.errors import ApiError
from grainline.serve.metrics import Metrics

MAX_BODY_BYTES = 64 * 2**20
CLIENT_LEFT = 499  # nginx's status for a client that closed the connection first; it is only counted, never sent


class Gate:
    """ASGI middleware. Everything under /v1 needs the key, where there is one; /health and /metrics never do."""

    def __init__(self, app: ASGIApp, metrics: Metrics, api_key: str | None) -> None:
        self._app = app
        self._metrics = metrics
        self._api_key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, complete = time.perf_counter(), 500, False

        async def counted_send(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                complete = True
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is None:
                await self._app(scope, _limited(receive), counted_send)
            else:
                await _send_error(refusal, counted_send)
        finally:
            path = getattr(scope.get("route"), "path", "other")  # the route's, so that labels stay few
            self._metrics.requests.labels(path, str(status if complete else CLIENT_LEFT)).inc()
            self._metrics.request_seconds.labels(path).observe(time.perf_counter() - began)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = dict(scope["headers"])
        if self._api_key is not None and scope["path"].startswith("/v1") and scope["method"] != "OPTIONS":
            scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(key.strip(), self._api_key):
                problem = "Wrong API key" if key else "No API key"
                return ApiError(
                    401,
                    f"{problem}: send the server's in the header 'Authorization: Bearer KEY'.",
                    code="invalid_api_key",
                    kind="authentication_error",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            return ApiError(413, _too_large())
        return None


def _limited(receive: Receive) -> Receive:
    """The same, for bodies that come in chunks and don't say how long they are."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise HTTPException(413, _too_large())
        return message

    return limited


def _too_large() -> str:
    return f"The body is larger than {MAX_BODY_BYTES >> 20} MiB."


async def _send_error(error: ApiError, send: Send) -> None:
    headers = [(b"content-type", b"application/json")]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(error.body()).encode()})
