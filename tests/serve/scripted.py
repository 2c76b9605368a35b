"""A byte-level tokenizer and an engine that plays a script, so that HTTP can be tested without a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import ClassVar

import httpx

from grainline.models.generate import GeneratedToken
from grainline.serve.app import build_app
from grainline.serve.engine import EngineClosed, Generation, GenerationRequest
from grainline.serve.prepare import Served
from grainline.serve.templates import ChatTemplate
from grainline.serve.tokens import TokenText

BOS, END = 256, 257
SPECIAL = {"<|endoftext|>": BOS, "<|end|>": END}
PIECES = ["Hello", " world", "€", "STOP", "user", "\n"]  # ids 258 …
VOCABULARY = [bytes([i]) for i in range(256)] + [name.encode() for name in SPECIAL] + [p.encode() for p in PIECES]


def ids_of(*texts: str) -> list[int]:
    """Whole pieces by name, anything else byte by byte."""
    return [i for t in texts for i in ([258 + PIECES.index(t)] if t in PIECES else t.encode())]


class ByteTokenizer:
    """As much of a tokenizer as serving needs, one byte a token."""

    vocab_size = len(VOCABULARY)
    bos_token_id, eos_token_id = BOS, END
    special = SPECIAL
    config: ClassVar = {"bos_token": "<|endoftext|>"}

    def encode(self, text: str, bos: bool = False, special: bool = False) -> list[int]:
        assert special  # prompts are the client's own, chats are rendered
        ids = [BOS] if bos else []
        while text:
            name = next((name for name in SPECIAL if text.startswith(name)), None)
            ids += [SPECIAL[name]] if name else text[0].encode()
            text = text[len(name or "x") :]
        return ids

    def token_bytes(self, id: int) -> bytes:
        return VOCABULARY[id]


Script = Callable[[GenerationRequest], Iterable[int]]


class ScriptedEngine:
    """Says what its script says, a token whenever the event loop comes round, `slots` sequences at a time."""

    vocab_size = len(VOCABULARY) + 6  # rows that pad the vocabulary

    def __init__(self, script: Script, *, context_tokens: int = 200, slots: int = 1) -> None:
        self.script = script
        self.context_tokens = context_tokens
        self.failure: str | None = None
        self.requests: list[GenerationRequest] = []
        self.told: list[list[int]] = []
        self.cancelled = 0
        self.hold = asyncio.Event()  # cleared: nothing goes on
        self.hold.set()
        self._queue: list[Generation] = []
        self._active: list[Generation] = []
        self._slots = slots

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> int:
        return len(self._active)

    def submit(self, request: GenerationRequest) -> Generation:
        if self.failure:
            raise EngineClosed(self.failure)
        self.requests.append(request)
        generation = Generation(request, on_cancel=self._forget)
        self._queue.append(generation)
        self._start()
        return generation

    def close(self, reason: str) -> None:
        self.failure = reason
        for generation in [*self._queue, *self._active]:
            generation.put(EngineClosed(reason))
        self._queue.clear()

    def join(self, seconds: float) -> bool:
        return True

    def _forget(self, generation: Generation) -> None:
        self.cancelled += 1
        if generation in self._queue:
            self._queue.remove(generation)

    def _start(self) -> None:
        while self._queue and len(self._active) < self._slots:
            generation = self._queue.pop(0)
            self._active.append(generation)
            generation.task = asyncio.create_task(self._play(generation))

    async def _play(self, generation: Generation) -> None:
        request, told = generation.request, []
        self.told.append(told)
        try:
            if request.score_prompt:
                generation.prompt_scores = tuple(_token(id, request) for id in request.prompt_ids[1:])
            for id in list(self.script(request))[: request.max_new_tokens]:
                await self.hold.wait()
                await asyncio.sleep(0)
                if generation.cancelled or self.failure:
                    return
                told.append(id)
                generation.put(_token(id, request))
                if id in request.stop_ids:
                    break
            generation.put(StopAsyncIteration())
        except Exception as error:
            generation.put(error)
        finally:
            self._active.remove(generation)
            self._start()


def _token(id: int, request: GenerationRequest) -> GeneratedToken:
    """Log-probabilities that tell tokens apart: -id/100, and the ids after it as the others."""
    others = tuple((id + k, -(id + k) / 100) for k in range(request.top_logprobs))
    return GeneratedToken(id, -id / 100, others)


def serve(engine, tokenizer=None, template: ChatTemplate | None = None, name: str = "tiny") -> Served:
    tokenizer = tokenizer or ByteTokenizer()
    return Served(name, engine, tokenizer, TokenText(tokenizer), template or ChatTemplate.plain(), frozenset({END}))


@asynccontextmanager
async def client_of(served: Served, **options) -> AsyncIterator[httpx.AsyncClient]:
    app = build_app(served, **options)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
