"""From a request body to what the engine gets: text tokenised, lengths and ids held against the model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from grainline.models.generate import Sampling
from grainline.serve.choices import Draft, Echo, seed_of
from grainline.serve.engine import Engine, GenerationRequest
from grainline.serve.errors import ApiError, invalid, too_long
from grainline.serve.requests import ChatRequest, CompletionRequest, Message, SamplingBody
from grainline.serve.templates import ChatTemplate, TemplateRefusal, UnsafeTemplate
from grainline.serve.text import TextStream
from grainline.serve.tokens import TokenText, begins_with_bos

if TYPE_CHECKING:
    from grainline.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Served:
    """A model as it is served."""

    name: str
    engine: Engine
    tokenizer: Tokenizer
    tokens: TokenText
    template: ChatTemplate
    stop_ids: frozenset[int]
    created: int = field(default_factory=lambda: int(time.time()))

    def card(self) -> dict[str, Any]:
        """What /v1/models tells of it."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "grainline",
            "max_model_len": self.engine.context_tokens,
        }

    def check_name(self, asked: str | None) -> None:
        """Raises ApiError (404) if a client asks for another model."""
        if asked is not None and asked != self.name:
            raise ApiError(
                404,
                f"The model '{asked}' is not served here; this server has '{self.name}'.",
                param="model",
                code="model_not_found",
            )


def completion_drafts(body: CompletionRequest, served: Served) -> list[Draft]:
    """One draft per prompt and choice, in the order of the answer's indexes. Raises ApiError."""
    drafts: list[Draft] = []
    for prompt in body.prompts:
        ids = _completion_ids(prompt, served)
        request = _request(body, ids, body.max_tokens, body.logprobs or 0, served, "prompt")
        request = replace(request, score_prompt=body.echo and body.logprobs is not None)
        for _ in range(body.n):
            stream = TextStream(served.tokens.visible, body.stops)
            echo = Echo(*stream.prime(served.tokens.prompt(ids))) if body.echo else None
            drafts.append(Draft(replace(request, seed=seed_of(body.seed, len(drafts))), stream, echo))
    return drafts


def chat_drafts(body: ChatRequest, served: Served) -> list[Draft]:
    """One draft per choice. Raises ApiError."""
    messages = [_message(message) for message in body.messages]
    try:
        text = served.template.render(messages, body.chat_template_kwargs)
    except TemplateRefusal as error:
        raise invalid("messages", f"the model's chat template ({served.template.name}) refuses them: {error}") from None
    except UnsafeTemplate as error:
        raise ApiError(500, f"{error} It was stopped.", code="unsafe_template", kind="server_error") from None
    bos = served.template.adds_bos and begins_with_bos(served.tokenizer)
    ids = served.tokenizer.encode(text, bos=bos, special=True)
    if not ids:
        raise invalid("messages", f"the model's chat template ({served.template.name}) made nothing of them.")
    limit = served.engine.context_tokens if body.limit is None else body.limit
    request = _request(body, ids, limit, body.top_logprobs, served, "messages")
    stops = (*body.stops, *served.template.stops)
    return [
        Draft(replace(request, seed=seed_of(body.seed, choice)), TextStream(served.tokens.visible, stops))
        for choice in range(body.n)
    ]


def _message(message: Message) -> dict[str, str]:
    role = "system" if message.role == "developer" else message.role  # templates know the older word
    return {"role": role, "content": message.content} | ({"name": message.name} if message.name else {})


def _completion_ids(prompt: str | list[int], served: Served) -> list[int]:
    if isinstance(prompt, str):
        ids = served.tokenizer.encode(prompt, bos=begins_with_bos(served.tokenizer), special=True)
        if not ids:
            raise invalid("prompt", "is empty, and this model has no beginning-of-text token to start from.")
        return ids
    largest = max(prompt)
    if largest >= served.engine.vocab_size:
        raise invalid("prompt", f"token id {largest} is not below the vocabulary's size, {served.engine.vocab_size}.")
    return prompt


def _request(
    body: SamplingBody, ids: Sequence[int], limit: int, top_logprobs: int, served: Served, param: str
) -> GenerationRequest:
    context = served.engine.context_tokens
    if len(ids) > context or (len(ids) == context and limit > 0):
        raise too_long(len(ids), context, param)
    for id in (*body.biases, *body.stop_token_ids):
        if id >= served.engine.vocab_size:
            field = "logit_bias" if id in body.biases else "stop_token_ids"
            raise invalid(field, f"token id {id} is not below the vocabulary's size, {served.engine.vocab_size}.")
    ends = frozenset() if body.ignore_eos else served.stop_ids
    named = (served.tokens.special.get(stop) for stop in body.stops)  # a special token's name never shows in the text
    return GenerationRequest(
        prompt_ids=tuple(ids),
        max_new_tokens=min(limit, context - len(ids)),
        sampling=Sampling(
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=max(body.top_k, 0),
            min_p=body.min_p,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            repetition_penalty=body.repetition_penalty,
            logit_bias=body.biases,
        ),
        stop_ids=ends | frozenset(body.stop_token_ids) | {id for id in named if id is not None},
        top_logprobs=min(top_logprobs, served.engine.vocab_size),
    )
