"""One answer in this process, by the same way that the HTTP API takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from grainline.documents import GrainlineError
from grainline.serve.answers import usage
from grainline.serve.choices import Choices, FinishReason
from grainline.serve.errors import ApiError
from grainline.serve.metrics import Metrics
from grainline.serve.prepare import Served, chat_drafts, completion_drafts
from grainline.serve.requests import ChatRequest, CompletionRequest, parse


@dataclass(frozen=True)
class LocalAnswer:
    """What was generated, and what it took."""

    model: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    seed: int

    def tables(self) -> dict[str, Any]:
        """For JSON, with the API's names."""
        return {
            "model": self.model,
            "text": self.text,
            "finish_reason": self.finish_reason,
            "usage": usage(self.prompt_tokens, self.completion_tokens),
            "seed": self.seed,
        }


def answer(
    served: Served, prompt: str, fields: Mapping[str, Any], *, chat: bool, tell: Callable[[str], None]
) -> LocalAnswer:
    """Go on from a prompt, or answer it as a user's message. `tell` gets each piece of text as it becomes final.

    fields: more of the request's body, by the API's names. Raises GrainlineError for what the API would refuse.
    """
    try:
        if chat:
            messages = [{"role": "user", "content": prompt}]
            drafts = chat_drafts(parse(ChatRequest, {**fields, "messages": messages}), served)
        else:
            drafts = completion_drafts(parse(CompletionRequest, {**fields, "prompt": prompt}), served)
    except ApiError as error:
        raise GrainlineError(error.message) from None
    [draft] = drafts

    async def run() -> LocalAnswer:
        choices = Choices(served.engine, Metrics(served.engine), drafts)
        text, finish_reason = "", None
        try:
            async with aclosing(choices.pieces()) as pieces:
                async for choice, piece in pieces:
                    tell(piece.text)
                    text += piece.text
                    finish_reason = choice.finish_reason
        finally:
            choices.cancel()
        assert finish_reason is not None  # the last piece has it
        request = draft.request
        return LocalAnswer(served.name, text, finish_reason, len(request.prompt_ids), choices.generated, request.seed)

    return asyncio.run(run())
