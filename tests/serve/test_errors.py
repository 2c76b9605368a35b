"""Bad requests: the status, OpenAI's error object, and words that help."""

import asyncio
import json

import pytest

from grainline.serve.templates import ChatTemplate

from .scripted import END, ScriptedEngine, client_of, ids_of, serve

USER = [{"role": "user", "content": "hi"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def refused(response, status: int, param: str | None = None, code: str | None = None) -> str:
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    if code is not None:
        assert error["code"] == code
    return error["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", "0.5"),
        ("temperature", 2.5),
        ("temperature", True),
        ("top_p", 1.5),
        ("top_p", [1]),
        ("top_k", -2),
        ("min_p", -0.1),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("repetition_penalty", 0),
        ("repetition_penalty", 1e-320),
        ("repetition_penalty", 1e300),
        ("n", 0),
        ("n", 1.5),
        ("n", 1000),
        ("seed", "7"),
        ("seed", 2**63),
        ("max_tokens", -1),
        ("stop", [1]),
        ("stop", ""),
        ("stop", ["a"] * 17),
        ("stop", "a" * 257),
        ("stop_token_ids", 7),
        ("stop_token_ids", [10_000]),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"10000": 1}),
        ("logit_bias", {"1" * 5000: 1}),
        ("logit_bias", [1]),
        ("stream", "yes"),
        ("stream_options", {"include_usage": True}),  # without stream
        ("model", 7),
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_wrong_value_names_its_field(ask, path, field, value):
    body = {"messages": USER} if path == CHAT else {"prompt": "x"}
    message = refused(ask(path, body | {field: value}), 400, field)
    assert field in message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
        ({"prompt": "x", "logprobs": True}, "logprobs"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 1}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [[1], "a"]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10_000]}, "prompt"),
        ({"prompt": ["x"] * 100, "n": 100}, "prompt"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "best_of": 2}, "best_of"),
    ],
)
def test_wrong_completions(ask, body, param):
    refused(ask(COMPLETIONS, body), 400, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": USER[0]}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [*USER, {"role": "wizard", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "extra": 1}]}, "messages[0].extra"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"messages": USER, "tools": [{"type": "function"}]}, "tools"),
        ({"messages": USER, "tool_choice": "required"}, "tool_choice"),
        ({"messages": USER, "response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"messages": USER, "response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": USER, "modalities": ["audio"]}, "modalities"),
        ({"messages": USER, "reasoning_effort": "high"}, "reasoning_effort"),
        ({"messages": USER, "store": True}, "store"),
        ({"messages": USER, "top_logprobs": 2}, "top_logprobs"),
        ({"messages": USER, "logprobs": 2}, "logprobs"),
        ({"messages": USER, "max_tokens": 2, "max_completion_tokens": 3}, "max_tokens"),
        ({"messages": USER, "stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
    ],
)
def test_wrong_chats(ask, body, param):
    refused(ask(CHAT, body), 400, param)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (COMPLETIONS, {"prompt": "\ud800"}, "prompt"),
        (COMPLETIONS, {"prompt": ["x", "x\udfff"]}, "prompt[1]"),
        (COMPLETIONS, {"prompt": "x", "model": "\ud800"}, "model"),
        (COMPLETIONS, {"prompt": "x", "stop": "\ud800"}, "stop"),
        (COMPLETIONS, {"prompt": "x", "\ud800": 1}, "\\ud800"),
        (COMPLETIONS, {"prompt": "x", "logit_bias": {"\ud800": 1}}, "logit_bias.\\ud800"),
        (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}]}, None),
        (CHAT, {"messages": USER, "chat_template_kwargs": {"a": [{"b": "\ud800"}]}}, "chat_template_kwargs.a[0].b"),
    ],
)
def test_half_a_character_is_not_text(ask, path, body, param):
    message = refused(ask(path, content=json.dumps(body).encode()), 400, param or "messages[0].content[0].text")
    assert "not text" in message


def test_pairs_of_surrogates_and_deep_values_are_taken(ask):
    assert ask(COMPLETIONS, content=b'{"prompt": "\\ud83d\\ude00"}').status_code == 200
    deep = b"[" * 900 + b"]" * 900
    body = b'{"messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": {"a": ' + deep + b"}}"
    assert ask(CHAT, content=body).status_code == 200


def test_an_unknown_field_is_told_the_nearest(ask):
    message = refused(ask(CHAT, {"messages": USER, "temprature": 1}), 400, "temprature", "unknown_parameter")
    assert "'temperature'" in message


def test_malformed_json_says_where(ask):
    message = refused(ask(COMPLETIONS, content=b'{"prompt": "a",\n "n": }'), 400, None, "invalid_json")
    assert "line 2, column 7" in message


@pytest.mark.parametrize("content", [b"\xff\xfe{", b"[" * 100_000, b'{"n": ' + b"1" * 5000 + b"}"])
def test_a_body_that_can_not_be_read(ask, content):
    refused(ask(COMPLETIONS, content=content), 400, None, "invalid_json")


@pytest.mark.parametrize("content", [b"", b"[1]", b'"x"', b"null"])
def test_a_body_that_is_no_object(ask, content):
    refused(ask(COMPLETIONS, content=content), 400)


def test_what_is_no_object_is_told_in_the_words_of_json(ask):
    assert refused(ask(CHAT, {"messages": ["hi"]}), 400, "messages[0]") == "messages[0]: should be an object, not 'hi'."


def test_not_a_number_is_no_temperature(ask):
    refused(ask(COMPLETIONS, content=b'{"prompt": "a", "temperature": NaN}'), 400, "temperature")


def test_a_body_that_is_not_said_to_be_json(ask):
    response = ask(COMPLETIONS, content=b'{"prompt": "a"}', headers={"content-type": "text/plain"})
    assert "Content-Type: application/json" in refused(response, 400)


def test_a_body_too_large(ask, monkeypatch):
    monkeypatch.setattr("grainline.serve.gate.MAX_BODY_BYTES", 1000)
    big = json.dumps({"prompt": "a" * 1000}).encode()
    refused(ask(COMPLETIONS, content=big), 413)

    async def in_chunks():
        yield big[:600]
        yield big[600:]

    refused(ask(COMPLETIONS, content=in_chunks()), 413)


def test_another_model(ask):
    message = refused(ask(CHAT, {"messages": USER, "model": "gpt"}), 404, "model", "model_not_found")
    assert "'gpt'" in message
    assert "'tiny'" in message


@pytest.mark.parametrize(("path", "param"), [(CHAT, "messages"), (COMPLETIONS, "prompt")])
def test_a_prompt_longer_than_the_context_tells_both_numbers(ask, path, param):
    text = "a" * 300
    body = {"messages": [{"role": "user", "content": text}]} if path == CHAT else {"prompt": text}
    response = ask(path, body)
    message = refused(response, 400, param, "context_length_exceeded")
    tokens = 1 + 300 + (len("user: \nassistant:") if path == CHAT else 0)
    assert "200" in message
    assert str(tokens) in message


def test_a_full_context_can_be_scored_but_not_continued(ask):
    full = {"prompt": [97] * 200, "echo": True, "logprobs": 0}
    assert ask(COMPLETIONS, full | {"max_tokens": 0}).status_code == 200
    refused(ask(COMPLETIONS, full | {"max_tokens": 1}), 400, "prompt", "context_length_exceeded")


def test_no_such_path_or_method(ask):
    assert "/v1/nope" in refused(ask("/v1/nope", {}), 404)
    response = ask("/v1/completions")
    refused(response, 405)
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("sent", [None, "Bearer wrong", "Bearer", "Basic secret", "secret"])
def test_a_wrong_api_key(ask, sent):
    headers = {"authorization": sent} if sent else None
    response = ask(COMPLETIONS, {"prompt": "x"}, headers=headers, api_key="secret")
    refused(response, 401, None, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"
    assert not response.engine.requests


def test_the_right_api_key(ask):
    headers = {"authorization": "Bearer secret"}
    assert ask(COMPLETIONS, {"prompt": "x"}, headers=headers, api_key="secret").status_code == 200
    assert ask("/health", api_key="secret").status_code == 200
    refused(ask("/v1/models", api_key="secret"), 401)


def test_a_full_queue_asks_to_come_back():
    async def run():
        engine = ScriptedEngine(lambda r: [97, END])
        engine.hold.clear()
        async with client_of(serve(engine), max_waiting=2) as client:
            first = [asyncio.create_task(client.post(COMPLETIONS, json={"prompt": "x"})) for _ in range(3)]
            while engine.waiting < 2:
                await asyncio.sleep(0.001)
            response = await client.post(COMPLETIONS, json={"prompt": "x"})
            engine.hold.set()
            return response, [response.status_code for response in await asyncio.gather(*first)]

    response, others = asyncio.run(run())
    refused(response, 429, None, "queue_full")
    assert int(response.headers["retry-after"]) > 0
    assert others == [200, 200, 200]


def test_a_template_that_refuses(ask):
    template = ChatTemplate("{{ raise_exception('no system prompts here') }}", "chat.jinja")
    assert "no system prompts here" in refused(
        ask(CHAT, {"messages": USER}, served={"template": template}), 400, "messages"
    )
    silent = ChatTemplate("", "chat.jinja")
    refused(ask(CHAT, {"messages": USER}, served={"template": silent}), 400, "messages")


def test_a_template_that_tries_to_escape(ask):
    template = ChatTemplate("{{ ''.__class__.__mro__ }}", "chat.jinja")
    refused(ask(CHAT, {"messages": USER}, served={"template": template}), 500, None, "unsafe_template")


class Failing(ScriptedEngine):
    """Fails in the midst of each sequence."""

    async def _play(self, generation):
        from grainline.models.generate import GeneratedToken

        generation.put(GeneratedToken(97, 0.0))
        generation.put(RuntimeError("out of memory"))
        self._active.remove(generation)
        self._start()


def test_a_failure_of_the_engine_is_an_error_and_others_go_on(caplog):
    async def run():
        async with client_of(serve(Failing(lambda r: []))) as client:
            whole = [await client.post(COMPLETIONS, json={"prompt": "x"}) for _ in range(2)]
            return whole, await client.post(COMPLETIONS, json={"prompt": "x", "stream": True})

    whole, stream = asyncio.run(run())
    for response in whole:
        assert "RuntimeError" in refused(response, 500, None, "internal_error")
    assert "out of memory" in caplog.text
    last = stream.text.split("\n\n")[-2]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "internal_error"
    assert "[DONE]" not in stream.text


def test_a_stopping_server_fails_what_runs_and_refuses_more():
    async def run():
        engine = ScriptedEngine(lambda r: ids_of("Hello", "Hello"))
        engine.hold.clear()
        async with client_of(serve(engine)) as client:
            running = asyncio.create_task(client.post(COMPLETIONS, json={"prompt": "x"}))
            waiting = asyncio.create_task(client.post(COMPLETIONS, json={"prompt": "x", "stream": True}))
            while engine.waiting < 1:
                await asyncio.sleep(0.001)
            engine.close("the server is stopping")
            engine.hold.set()
            late = await client.post(COMPLETIONS, json={"prompt": "x"})
            return await running, await waiting, late, await client.get("/health")

    running, waiting, late, health = asyncio.run(run())
    refused(running, 503, None, "server_stopping")
    refused(late, 503, None, "server_stopping")
    assert '"server_stopping"' in waiting.text
    assert health.status_code == 503
