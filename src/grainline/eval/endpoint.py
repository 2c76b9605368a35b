"""Likelihoods from any server of the OpenAI completions API that can echo a prompt with its log-probabilities."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from grainline.documents import GrainlineError
from grainline.eval.likelihood import BITS_PER_NAT, Likelihood, Query

ATTEMPTS = 3
DEFAULT_WINDOW = 4000  # characters: about 1,000 tokens of English
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class ScoredToken:
    """One token of an echoed prompt: where it starts in the prompt, in characters, and its cost in bits.

    The cost is None for the first token of a prompt that the server starts without a separator: nothing predicts it.
    """

    start: int
    bits: float | None


class EndpointScorer:
    """A `Scorer` over ``POST {url}/completions`` with ``echo`` and ``logprobs``, as vLLM and `grainline serve` have it.

    Text longer than `window` characters is sent in windows that overlap by half. Two windows are joined where both have
    a token boundary, as late as possible, so that each token is predicted once and from half a window or more.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        window: int = DEFAULT_WINDOW,
        requests: int = 4,
        timeout_seconds: float = 300,
    ) -> None:
        """`url` up to and with its /v1; `model` as the server names it (default: the first it lists).

        The key is taken from OPENAI_API_KEY. `requests` are sent at the same time.
        """
        key = os.environ.get("OPENAI_API_KEY")
        self.url, self.window, self.requests = url.rstrip("/"), window, requests
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout_seconds, connect=10),
        )
        self.model = model if model is not None else self._first_model()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def score(self, queries: Sequence[Query], progress: Callable[[int], None] | None = None) -> list[Likelihood]:
        """See `likelihood.Scorer`. Bytes that the server can't predict, a first token, are left out of `bytes`."""
        answers = []
        with ThreadPoolExecutor(self.requests) as pool:
            for answer in pool.map(self._score, queries):
                answers.append(answer)
                if progress is not None:
                    progress(1)
        return answers

    def _score(self, query: Query) -> Likelihood:
        if not query.text:
            return Likelihood(0.0, 0, 0)
        whole, border = query.context + query.text, len(query.context)
        tokens = self._joined(whole, border)
        scored = [token.bits for token in tokens if token.bits is not None]
        begin = max(border, next((token.start for token in tokens if token.bits is not None), len(whole)))
        return Likelihood(sum(scored), len(whole[begin:].encode("utf-8")), len(scored))

    def _joined(self, text: str, border: int) -> list[ScoredToken]:
        """The tokens from the one that holds character `border` on, each from the window that gives it most context."""
        half = max(1, self.window // 2)
        stop = min(len(text), max(self.window, border + half))
        window = self._echoed(text, max(0, stop - self.window), stop)
        begin = max((token.start for token in window if token.start <= border), default=0)
        joined: list[ScoredToken] = []
        while stop < len(text):
            stop = min(len(text), stop + half)
            following = self._echoed(text, max(0, stop - self.window), stop)
            # The last token of the window before may be cut short, and the first of this one has nothing before it.
            common = {token.start for token in window[:-1]} & {token.start for token in following[1:]}
            end = max(common, default=0)
            if end <= begin:
                raise GrainlineError(f"{self.url}: two windows of {self.window} characters share no token boundary.")
            joined += [token for token in window if begin <= token.start < end]
            window, begin = following, end
        return joined + [token for token in window if token.start >= begin]

    def _echoed(self, text: str, start: int, stop: int) -> list[ScoredToken]:
        """Tokens of text[start:stop], their places counted in `text`."""
        prompt = text[start:stop]
        body = {"model": self.model, "prompt": prompt, "max_tokens": 0, "echo": True, "logprobs": 0, "temperature": 0}
        try:
            told = self._asked("POST", "/completions", body)["choices"][0]["logprobs"]
            names, costs, offsets = told["tokens"], told["token_logprobs"], told["text_offset"]
        except (KeyError, IndexError, TypeError):
            raise GrainlineError(
                f"{self.url}/completions gave no log-probabilities of the prompt. The server must support "
                "'echo' together with 'logprobs', as `grainline serve` and vLLM do."
            ) from None
        # Some servers count their separator token's name among the characters, though it isn't in the prompt.
        named = len(names) > 1 and costs[0] is None and not prompt.startswith(names[0]) and offsets[1] == len(names[0])
        shift = start - (offsets[1] if named else 0)
        tokens = [
            ScoredToken(shift + offset, None if cost is None else -cost * BITS_PER_NAT)
            for offset, cost in zip(offsets, costs, strict=True)
        ]
        return tokens[1:] if named else tokens

    def _first_model(self) -> str:
        try:
            return str(self._asked("GET", "/models")["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise GrainlineError(f"{self.url}/models lists no model; name one.") from None

    def _mend(self, status: int) -> str:
        if status in (401, 403):
            return " Put the server's key into OPENAI_API_KEY."
        if status in (400, 413, 422):
            return f" If texts are too long for it, lower --window ({self.window} characters now)."
        return ""

    def _asked(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The server's JSON answer; a server that is busy or restarting is asked again."""
        for attempt in range(ATTEMPTS):
            try:
                response = self._client.request(method, self.url + path, json=body)
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if response.is_success:
                    return _json(response, self.url + path)
                problem = f"status {response.status_code}: {_message(response)}"
                if response.status_code not in TRANSIENT:
                    raise GrainlineError(f"{self.url + path} refused: {problem}{self._mend(response.status_code)}")
            if attempt + 1 < ATTEMPTS:
                time.sleep(2.0**attempt / 2)
        raise GrainlineError(f"{self.url + path} doesn't answer ({problem}). Is the server running at this address?")


def _message(response: httpx.Response) -> str:
    """What the server says is wrong; OpenAI's servers say it in error.message."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:300]


def _json(response: httpx.Response, where: str) -> Any:
    try:
        return response.json()
    except ValueError:
        raise GrainlineError(f"{where} answered, but not with JSON. Is this the address of an API?") from None
