"""Scores over HTTP against scores in memory; the server here speaks OpenAI's completions API and nothing more."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch

from grainline.documents import GrainlineError
from grainline.eval import endpoint
from grainline.eval.endpoint import EndpointScorer
from grainline.eval.likelihood import Query
from grainline.eval.model_scorer import ModelScorer

from .tiny import BOS, ByteTokenizer, tiny_model, uniform_model

TEXT = "abc cab bca, then cabbage back. " * 3


@dataclass
class Server:
    """What the fake server does, and what it was asked."""

    model: Any
    tokenizer: ByteTokenizer
    url: str = ""
    separator: str | None = ""  # how its separator token is told; None: prompts start without one
    failures: list[tuple[int, str]] = field(default_factory=list)
    broken: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    def complete(self, prompt: str) -> dict[str, Any]:
        ids = self.tokenizer.encode(prompt)
        names = [bytes([i]).decode("latin-1") if i < 256 else "ab" for i in ids]
        if self.separator is not None:
            ids, names = [BOS, *ids], [self.separator, *names]
        logs_SV = self.model(torch.tensor([ids]))[0].double().log_softmax(-1)
        costs = [None, *(logs_SV[i, id].item() for i, id in enumerate(ids[1:]))]
        starts = [sum(map(len, names[:i])) for i in range(len(names))]
        if self.broken:
            starts = [0] * len(names)
        told = {"tokens": names, "token_logprobs": costs, "text_offset": starts, "top_logprobs": None}
        return {"choices": [{"text": prompt, "index": 0, "logprobs": told, "finish_reason": "length"}]}


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server(tiny_model(max_positions=128), ByteTokenizer(pairs=[b"ab"]))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer({"data": [{"id": "tiny"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            state.bodies.append(body)
            state.keys.append(self.headers.get("authorization"))
            if state.failures:
                code, text = state.failures.pop(0)
                self.answer({"error": {"message": text}}, code)
            else:
                self.answer(state.complete(body["prompt"]))

        def answer(self, value: Any, code: int = 200) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_port}/v1"
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield state
    http.shutdown()
    http.server_close()


def in_memory(server: Server, queries: list[Query]) -> list[Any]:
    return ModelScorer(server.model, server.tokenizer).score(queries)


@pytest.mark.parametrize("separator", ["", "<s>"])
def test_equals_the_model_in_memory(server: Server, separator: str) -> None:
    server.separator = separator
    queries = [Query(TEXT), Query("bage", context="cab"), Query("bage", context="ca"), Query("")]
    with EndpointScorer(server.url) as scorer:
        told: list[int] = []
        answers = scorer.score(queries, told.append)
    for answer, expected in zip(answers, in_memory(server, queries), strict=True):
        assert answer.bits == pytest.approx(expected.bits, rel=1e-5)
        assert (answer.bytes, answer.tokens) == (expected.bytes, expected.tokens)
    assert sum(told) == 4
    body = server.bodies[0]
    assert (body["model"], body["max_tokens"], body["echo"], body["logprobs"]) == ("tiny", 0, True, 0)


def test_long_text_is_joined_from_windows(server: Server) -> None:
    server.model = uniform_model(max_positions=128)
    with EndpointScorer(server.url, "tiny", window=20) as scorer:
        whole, after = scorer.score([Query(TEXT), Query(TEXT[41:], context=TEXT[:41])])
    # A uniform model's bits count tokens: each exactly once, however the windows cut them.
    assert whole.tokens == len(server.tokenizer.encode(TEXT))
    assert whole.bits == pytest.approx(whole.tokens * math.log2(300))
    assert whole.bytes == len(TEXT)
    assert after.tokens == len(server.tokenizer.encode(TEXT[41:]))
    assert max(len(body["prompt"]) for body in server.bodies) == 20


def test_windows_keep_half_a_window_of_context(server: Server) -> None:
    with EndpointScorer(server.url, "tiny", window=60) as scorer:
        (windowed,) = scorer.score([Query(TEXT)])
    with EndpointScorer(server.url, "tiny", window=8) as scorer:
        (starved,) = scorer.score([Query(TEXT)])
    (whole,) = in_memory(server, [Query(TEXT)])
    assert windowed.tokens == starved.tokens == whole.tokens
    assert abs(windowed.bits - whole.bits) < 0.5 * abs(starved.bits - whole.bits)


def test_a_token_that_nothing_predicts_is_left_out(server: Server) -> None:
    server.separator = None
    server.model = uniform_model(max_positions=128)
    with EndpointScorer(server.url, "tiny") as scorer:
        first_of_two, after = scorer.score([Query("abca"), Query("ca", context="cb")])
    assert (first_of_two.bytes, first_of_two.tokens) == (2, 2)  # "ab" is one token, and the first
    assert (after.bytes, after.tokens) == (2, 2)


def test_a_busy_server_is_asked_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server.failures = [(503, "starting"), (429, "busy")]
    with EndpointScorer(server.url, "tiny") as scorer:
        assert scorer.score([Query("abc")])[0].tokens == 2
    assert server.keys == ["Bearer secret"] * 3


def test_what_a_server_refuses_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint.time, "sleep", lambda seconds: None)
    server.failures = [(400, "too long for the context"), (401, "no key"), (404, "no such model")]
    with EndpointScorer(server.url, "tiny", window=20) as scorer:
        with pytest.raises(GrainlineError, match=r"status 400.*too long for the context.*lower --window \(20"):
            scorer.score([Query("abc")])
        with pytest.raises(GrainlineError, match=r"status 401: no key.* into OPENAI_API_KEY\.$"):
            scorer.score([Query("abc")])
        with pytest.raises(GrainlineError, match=r"status 404: .*no such model[^-]*$"):
            scorer.score([Query("abc")])
        server.broken = True
        with pytest.raises(GrainlineError, match="share no token boundary"):
            scorer.score([Query(TEXT)])
        monkeypatch.setattr(server, "complete", lambda prompt: {"choices": [{"text": prompt, "logprobs": None}]})
        with pytest.raises(GrainlineError, match="'echo' together with 'logprobs'"):
            scorer.score([Query("abc")])
    with pytest.raises(GrainlineError, match="Is the server running"):
        EndpointScorer("http://127.0.0.1:9/v1")
