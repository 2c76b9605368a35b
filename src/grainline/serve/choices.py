"""The choices of one HTTP request: each a generation whose tokens become text, read together, cancelled together."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal

from grainline.models.generate import GeneratedToken
from grainline.serve.engine import Engine, Generation, GenerationRequest
from grainline.serve.metrics import Metrics
from grainline.serve.text import Piece, TextStream

FinishReason = Literal["stop", "length"]
_SEED_STEP = 0x9E3779B97F4A7C15  # the golden ratio's bits: seeds of choices lie far from those of nearby requests


def seed_of(seed: int | None, choice: int) -> int:
    """The seed of one choice: the request's own for the first, then others derived from it; drawn if none is given."""
    base = secrets.randbits(63) if seed is None else seed
    return (base + choice * _SEED_STEP) % 2**63


@dataclass(frozen=True)
class Echo:
    """The prompt, to be told before the completion: its text, and the character at which each of its tokens begins."""

    text: str
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class Draft:
    """A choice before an engine has accepted it."""

    request: GenerationRequest
    text: TextStream
    echo: Echo | None = None


class Choice:
    """One sequence of the answer. `finish_reason` is set by the time its last piece comes."""

    def __init__(self, index: int, draft: Draft, generation: Generation, metrics: Metrics) -> None:
        self.index = index
        self.finish_reason: FinishReason | None = None
        self.generated = 0
        self._draft = draft
        self._generation = generation
        self._metrics = metrics

    async def pieces(self) -> AsyncIterator[Piece]:
        """The echo if there is one, then the text as it becomes final; the last piece, perhaps empty, ends it."""
        text, echo, last = self._draft.text, self._draft.echo, None
        before = time.perf_counter()
        async for token in self._generation:
            before = self._measure(before)
            if last is None and echo is not None:
                yield self._told(echo)
            last = token
            piece = text.push(token)
            if text.stopped:
                self._generation.cancel()
                self.finish_reason = "stop"
                yield piece
                return
            if piece.text or piece.tokens:
                yield piece
        if last is None and echo is not None:
            yield self._told(echo)
        self.finish_reason = "stop" if last is not None and last.id in self._draft.request.stop_ids else "length"
        yield text.finish()

    def cancel(self) -> None:
        """Nobody wants the rest."""
        self._generation.cancel()

    def _measure(self, before: float) -> float:
        now = time.perf_counter()
        seconds = self._metrics.token_seconds if self.generated else self._metrics.first_token_seconds
        seconds.observe(now - before)
        self._metrics.generated_tokens.inc()
        self.generated += 1
        return now

    def _told(self, echo: Echo) -> Piece:
        if not self._draft.request.score_prompt:
            return Piece(echo.text, (), ())
        first = GeneratedToken(self._draft.request.prompt_ids[0], math.nan)  # nothing comes before it
        return Piece(echo.text, (first, *self._generation.prompt_scores), echo.offsets)


class Choices:
    """All choices of one request, in the engine."""

    def __init__(self, engine: Engine, metrics: Metrics, drafts: Sequence[Draft]) -> None:
        """Hand all to the engine, in order. Raises what the engine raises, and then leaves none of them behind."""
        self.all: list[Choice] = []
        try:
            for index, draft in enumerate(drafts):
                self.all.append(Choice(index, draft, engine.submit(draft.request), metrics))
        except BaseException:
            self.cancel()
            raise

    @property
    def generated(self) -> int:
        """Tokens made so far, ending tokens and those of stop strings included."""
        return sum(choice.generated for choice in self.all)

    def cancel(self) -> None:
        """Stop them all."""
        for choice in self.all:
            choice.cancel()

    async def pieces(self) -> AsyncGenerator[tuple[Choice, Piece], None]:
        """The pieces of all choices, as they come. Raises the first failure; cancels the rest however it ends."""
        arrived: asyncio.Queue[tuple[Choice, Piece] | Exception | None] = asyncio.Queue()

        async def pump(choice: Choice) -> None:
            try:
                async for piece in choice.pieces():
                    arrived.put_nowait((choice, piece))
                arrived.put_nowait(None)
            except Exception as error:
                arrived.put_nowait(error)

        pumps = [asyncio.create_task(pump(choice)) for choice in self.all]
        try:
            ended = 0
            while ended < len(pumps):
                event = await arrived.get()
                if isinstance(event, Exception):
                    raise event
                if event is None:
                    ended += 1
                else:
                    yield event
        finally:
            for task in pumps:
                task.cancel()
            self.cancel()
