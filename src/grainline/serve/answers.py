"""What clients get: OpenAI's completion objects, whole or chunk by chunk."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from grainline.models.generate import GeneratedToken
from grainline.serve.choices import FinishReason
from grainline.serve.text import Piece

Json = dict[str, Any]
TokenBytes = Callable[[int], bytes]


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """Token counts: each prompt once, and every generated token."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def join(pieces: Sequence[Piece]) -> Piece:
    """Several pieces of one choice as one."""
    return Piece(
        "".join(piece.text for piece in pieces),
        tuple(token for piece in pieces for token in piece.tokens),
        tuple(offset for piece in pieces for offset in piece.offsets),
    )


class Answer:
    """One answer's envelope (id, time, model), around choices that a subclass words."""

    prefix: ClassVar[str]
    whole_kind: ClassVar[str]
    chunk_kind: ClassVar[str]

    def __init__(self, model: str, token_bytes: TokenBytes, *, logprobs: bool, include_usage: bool = False) -> None:
        """`token_bytes` gives any token's own bytes, special tokens' names included."""
        self._id = f"{self.prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._token_bytes = token_bytes
        self._logprobs = logprobs
        self._include_usage = include_usage

    def whole(self, choices: Sequence[tuple[Piece, FinishReason | None]], used: Json) -> Json:
        """The answer to a request that doesn't stream."""
        told = [self._choice(index, piece, finish, whole=True) for index, (piece, finish) in enumerate(choices)]
        return {**self._envelope(self.whole_kind), "choices": told, "usage": used}

    def opening(self, index: int) -> Json | None:
        """The chunk before a choice's first, if there is one."""
        return None

    def chunk(self, index: int, piece: Piece, finish_reason: FinishReason | None) -> Json:
        """One chunk of a stream."""
        return self._chunk([self._choice(index, piece, finish_reason, whole=False)])

    def closing(self, used: Json) -> Json | None:
        """The chunk after the last: token counts, if the client wants them."""
        return {**self._envelope(self.chunk_kind), "choices": [], "usage": used} if self._include_usage else None

    def _envelope(self, kind: str) -> Json:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _chunk(self, choices: list[Json]) -> Json:
        chunk = {**self._envelope(self.chunk_kind), "choices": choices}
        return {**chunk, "usage": None} if self._include_usage else chunk

    def _choice(self, index: int, piece: Piece, finish: FinishReason | None, whole: bool) -> Json:
        raise NotImplementedError


class ChatAnswer(Answer):
    """``chat.completion`` and its chunks."""

    prefix, whole_kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self, index: int) -> Json:
        """A choice's stream begins with the role."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return self._chunk([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])

    def _choice(self, index: int, piece: Piece, finish: FinishReason | None, whole: bool) -> Json:
        if whole:
            said: Json = {"message": {"role": "assistant", "content": piece.text, "refusal": None}}
        else:
            said = {"delta": {"content": piece.text} if piece.text else {}}
        logprobs = {"content": [self._token(t) for t in piece.tokens], "refusal": None} if self._logprobs else None
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": finish}

    def _token(self, token: GeneratedToken) -> Json:
        others = [self._entry(id, logprob) for id, logprob in token.top_logprobs]
        return {**self._entry(token.id, token.logprob), "top_logprobs": others}

    def _entry(self, id: int, logprob: float) -> Json:
        data = self._token_bytes(id)
        return {"token": data.decode("utf-8", "replace"), "logprob": _finite(logprob), "bytes": list(data)}


class CompletionAnswer(Answer):
    """``text_completion``, whole or as a chunk: the same object."""

    prefix, whole_kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def _choice(self, index: int, piece: Piece, finish: FinishReason | None, whole: bool) -> Json:
        logprobs = self._columns(piece) if self._logprobs else None
        return {"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": finish}

    def _columns(self, piece: Piece) -> Json:
        return {
            "tokens": [self._name(token.id) for token in piece.tokens],
            "token_logprobs": [_finite(token.logprob) for token in piece.tokens],
            "top_logprobs": [self._others(token) for token in piece.tokens],
            "text_offset": list(piece.offsets),
        }

    def _others(self, token: GeneratedToken) -> dict[str, float | None] | None:
        if math.isnan(token.logprob):
            return None
        # With logprobs 0 the engine gives no others; the chosen token is told all the same, as OpenAI does.
        pairs = token.top_logprobs or ((token.id, token.logprob),)
        return {self._name(id): _finite(logprob) for id, logprob in pairs}

    def _name(self, id: int) -> str:
        # Names are dict keys here, so bytes that are no text by themselves are spelled out instead of becoming U+FFFD.
        data = self._token_bytes(id)
        if not data:
            return f"token_id:{id}"
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(logprob: float) -> float | None:
    """JSON has no infinities: null where nothing comes before a token, -9999 (OpenAI's) where one is impossible."""
    return None if math.isnan(logprob) else max(logprob, -9999.0)
