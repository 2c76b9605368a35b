"""The HTTP application: routes, from a checked body to an answer, whole or streamed.

A request's way: `gate` (key, size) → `requests` (schema) → `prepare` (token ids) → `choices` (engine, text) →
`answers` (OpenAI's objects).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from grainline import __version__
from grainline.serve.answers import Answer, ChatAnswer, CompletionAnswer, join, usage
from grainline.serve.choices import Choices, Draft
from grainline.serve.engine import EngineClosed
from grainline.serve.errors import ApiError, failed, from_validation, queue_full, stopping
from grainline.serve.gate import CLIENT_LEFT, Gate
from grainline.serve.metrics import Metrics
from grainline.serve.prepare import Served, chat_drafts, completion_drafts
from grainline.serve.requests import ChatRequest, CompletionRequest, SamplingBody
from grainline.serve.streaming import DONE, ClientLeft, EventStream, event, unless_left
from grainline.serve.text import Piece

DEFAULT_MAX_WAITING = 64
LAST_TOKEN_SECONDS = 10.0  # for what the engine computes when it is closed

Body = TypeVar("Body", bound=SamplingBody)


def build_app(served: Served, *, api_key: str | None = None, max_waiting: int = DEFAULT_MAX_WAITING) -> FastAPI:
    """The application around a served model.

    api_key: what clients must send under /v1; None: nothing. max_waiting: with so many sequences waiting, further
    requests are answered 429. The application closes the engine when it ends.
    """
    engine, metrics = served.engine, Metrics(served.engine)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close("the server is stopping")
        await asyncio.to_thread(engine.join, LAST_TOKEN_SECONDS)

    app = FastAPI(title="grainline", version=__version__, lifespan=lifespan)
    app.add_middleware(Gate, metrics=metrics, api_key=api_key)
    _answer_errors(app)

    async def complete(
        request: Request, body: Body, drafts_of: Callable[[Body, Served], list[Draft]], answer: Answer
    ) -> Response:
        served.check_name(body.model)
        drafts = await asyncio.to_thread(drafts_of, body, served)  # tokenising a long prompt takes a while
        if engine.waiting >= max_waiting:
            raise queue_full(engine.waiting)
        choices = Choices(engine, metrics, drafts)
        prompt_tokens = sum(len(draft.request.prompt_ids) for draft in drafts[:: body.n])
        metrics.prompt_tokens.inc(prompt_tokens)
        if body.stream:
            return EventStream(_events(choices, answer, prompt_tokens), on_end=choices.cancel)
        try:
            return _json(await unless_left(request.receive, _whole(choices, answer, prompt_tokens)))
        finally:
            choices.cancel()

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Go on from a prompt."""
        answer = CompletionAnswer(
            served.name, served.tokens.literal, logprobs=body.logprobs is not None, include_usage=body.include_usage
        )
        return await complete(request, body, completion_drafts, answer)

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Give the assistant's next message."""
        answer = ChatAnswer(
            served.name, served.tokens.literal, logprobs=body.logprobs, include_usage=body.include_usage
        )
        return await complete(request, body, chat_drafts, answer)

    @app.get("/v1/models")
    async def models() -> Response:
        """The models served here: one."""
        return _json({"object": "list", "data": [served.card()]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        """The served model, by name."""
        served.check_name(name)
        return _json(served.card())

    @app.get("/health")
    async def health() -> Response:
        """200 while the engine can generate, 503 once it can't."""
        state = {"status": engine.failure or "ok", "running": engine.running, "waiting": engine.waiting}
        return _json(state, 503 if engine.failure else 200)

    @app.get("/metrics")
    async def prometheus() -> Response:
        """Prometheus's page."""
        return Response(metrics.text(), media_type=metrics.content_type)

    return app


async def _whole(choices: Choices, answer: Answer, prompt_tokens: int) -> dict[str, Any]:
    pieces: list[list[Piece]] = [[] for _ in choices.all]
    async with aclosing(choices.pieces()) as arriving:
        async for choice, piece in arriving:
            pieces[choice.index].append(piece)
    told = [(join(mine), choice.finish_reason) for mine, choice in zip(pieces, choices.all, strict=True)]
    return answer.whole(told, usage(prompt_tokens, choices.generated))


async def _events(choices: Choices, answer: Answer, prompt_tokens: int) -> AsyncIterator[bytes]:
    for choice in choices.all:
        opening = answer.opening(choice.index)
        if opening is not None:
            yield event(opening)
    try:
        async with aclosing(choices.pieces()) as arriving:
            async for choice, piece in arriving:
                yield event(answer.chunk(choice.index, piece, choice.finish_reason))
    except Exception as error:  # the status is sent already, so the stream itself must say it
        yield event(_api_error(error).body())
        return
    closing = answer.closing(usage(prompt_tokens, choices.generated))
    if closing is not None:
        yield event(closing)
    yield DONE


def _api_error(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineClosed):
        return stopping(str(error))
    logging.getLogger(__name__).error("a request failed", exc_info=error)
    return failed(error)


def _answer_errors(app: FastAPI) -> None:
    """Every error in OpenAI's format, whoever raised it."""

    async def told(_: Request, error: Exception) -> Response:
        known = _api_error(error)
        return _json(known.body(), known.status, known.headers)

    async def refused_body(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        known = from_validation(error.errors(), error.body)
        return _json(known.body(), known.status)

    async def refused_request(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kinds = {
            400: "The body can't be read as JSON: it is not UTF-8, nested too deeply, or has an endless number.",
            404: f"There is no {request.url.path} here; GET /openapi.json lists what there is.",
            405: f"{request.url.path} doesn't take {request.method}.",
        }
        status = error.status_code
        code = "invalid_json" if status == 400 else None
        known = ApiError(status, kinds.get(status, str(error.detail)), code=code, headers=error.headers)
        return _json(known.body(), known.status, known.headers)

    async def left(_: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_LEFT)  # nobody reads it; it is counted

    app.add_exception_handler(ApiError, told)
    app.add_exception_handler(EngineClosed, told)
    app.add_exception_handler(Exception, told)
    app.add_exception_handler(RequestValidationError, refused_body)
    app.add_exception_handler(HTTPException, refused_request)
    app.add_exception_handler(ClientLeft, left)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, media_type="application/json")
