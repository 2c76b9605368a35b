"""The engine's seam: token ids in, tokens out as they are made. HTTP, text and stop strings stay outside.

An `Engine` takes requests from the event loop and runs the model elsewhere. `Generation` is the wire between the two:
the engine pushes from its own thread, one reader awaits. `SequentialEngine` (sequential.py) decodes one sequence at a
time; an engine that batches takes its place behind the same protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Protocol

from grainline.models.generate import GeneratedToken, Sampling


@dataclass(frozen=True)
class GenerationRequest:
    """One sequence to generate. The same request gives the same tokens, whatever else the engine is doing."""

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop_ids: frozenset[int] = frozenset()
    seed: int = 0
    top_logprobs: int = 0
    score_prompt: bool = False
    """Also give each prompt token's log-probability given those before it."""


class EngineClosed(Exception):
    """The engine stops: nothing more is generated."""


class Generation(AsyncIterator[GeneratedToken]):
    """The tokens of one request, to be read once on the event loop that made it. The ending token is among them.

    Iteration raises what the engine failed with. `cancel` may be called at any time, from the event loop.
    """

    def __init__(self, request: GenerationRequest, on_cancel: Callable[[Generation], None] | None = None) -> None:
        self.request = request
        self.prompt_scores: tuple[GeneratedToken, ...] = ()
        """One per prompt token but the first, if asked for; there once the first token or the end has come."""
        self.cancelled = False
        self._on_cancel = on_cancel
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[GeneratedToken | BaseException] = asyncio.Queue()

    def put(self, event: GeneratedToken | BaseException) -> None:
        """Engine's side, any thread: a token, `StopAsyncIteration()` as the end, or the error that ended it."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def __anext__(self) -> GeneratedToken:
        event = await self._events.get()
        if isinstance(event, BaseException):
            self._events.put_nowait(event)  # an ended iterator stays ended
            raise event
        return event

    def cancel(self) -> None:
        """The tokens are no longer wanted: iteration ends, and the engine stops making them at the next one."""
        if not self.cancelled:
            self.cancelled = True
            self._events.put_nowait(StopAsyncIteration())
            if self._on_cancel is not None:
                self._on_cancel(self)


class Engine(Protocol):
    """Something that generates. Called from the event loop; all but `join` returns at once."""

    @property
    def context_tokens(self) -> int:
        """How many tokens a sequence may have, prompt and generated together."""

    @property
    def vocab_size(self) -> int:
        """Token ids lie below this."""

    @property
    def waiting(self) -> int:
        """Generations accepted and not begun."""

    @property
    def running(self) -> int:
        """Generations that are being made."""

    @property
    def failure(self) -> str | None:
        """Why the engine can't go on, or None while it can."""

    def submit(self, request: GenerationRequest) -> Generation:
        """Accept a request; it begins when its turn comes. Raises EngineClosed.

        The prompt has at least one id, all below `vocab_size`, and leaves room for a token in the context unless
        `max_new_tokens` is 0.
        """

    def close(self, reason: str) -> None:
        """Fail everything waiting and running with EngineClosed(reason), and accept no more."""

    def join(self, seconds: float) -> bool:
        """Wait, after `close`, until nothing is computed any more; whether that came in time. This one blocks."""
