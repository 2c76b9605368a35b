"""What clients get, whole and streamed, from an engine that plays a script."""

import json
import math

import pytest

from .scripted import BOS, END, ids_of

USER = [{"role": "user", "content": "hi"}]


def hello(_) -> list[int]:
    return [*ids_of("Hello", " world"), END]


def events(response) -> list[dict]:
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = response.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def test_a_chat_answer(ask):
    response = ask("/v1/chat/completions", {"model": "tiny", "messages": USER}, hello)
    answer = response.json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "tiny"
    assert answer["id"].startswith("chatcmpl-")
    [choice] = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello world", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"] is None
    prompt = [BOS, *b"user: hi\nassistant:"]
    assert answer["usage"] == {"prompt_tokens": len(prompt), "completion_tokens": 3, "total_tokens": len(prompt) + 3}
    assert list(response.engine.requests[0].prompt_ids) == prompt


def test_a_chat_stream(ask):
    body = {"messages": USER, "stream": True, "stream_options": {"include_usage": True}}
    chunks = events(ask("/v1/chat/completions", body, hello))
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    *said, last = chunks
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3
    assert all(chunk["usage"] is None for chunk in said)
    deltas = [chunk["choices"][0]["delta"] for chunk in said]
    assert deltas == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hello"},
        {"content": " world"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in said] == [None, None, None, "stop"]


def test_usage_is_streamed_only_if_asked_for(ask):
    chunks = events(ask("/v1/chat/completions", {"messages": USER, "stream": True}, hello))
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)


def test_max_tokens_ends_with_length(ask):
    for body in ({"max_tokens": 1}, {"max_completion_tokens": 1}):
        [choice] = ask("/v1/chat/completions", {"messages": USER, **body}, hello).json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("Hello", "length")


def test_a_chat_may_go_on_to_the_end_of_the_context_and_no_further(ask):
    response = ask("/v1/chat/completions", {"messages": USER}, lambda r: [97] * 999, engine={"context_tokens": 50})
    answer = response.json()
    assert answer["usage"]["total_tokens"] == 50
    assert answer["choices"][0]["finish_reason"] == "length"


def test_completions_default_to_sixteen_tokens(ask):
    answer = ask("/v1/completions", {"prompt": "x"}, lambda r: [97] * 99).json()
    assert answer["choices"][0]["text"] == "a" * 16


def test_the_stop_string_is_not_part_of_the_text_and_ends_the_generation(ask):
    script = lambda r: ids_of("Hello", "STOP", "Hello", "Hello")  # noqa: E731
    for stop in ("loSTO", ["zzz", "loSTO"]):
        response = ask("/v1/completions", {"prompt": "x", "stop": stop}, script)
        answer = response.json()
        assert answer["choices"][0]["text"] == "Hel"
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] == 2
        assert response.engine.cancelled >= 1


def test_no_part_of_a_stop_string_is_streamed(ask):
    script = lambda r: ids_of("a", "S", "T", "O", "b", "S", "T", "O", "P", "c")  # noqa: E731
    chunks = events(ask("/v1/completions", {"prompt": "x", "stop": "STOP", "stream": True}, script))
    texts = [chunk["choices"][0]["text"] for chunk in chunks]
    assert [text for text in texts if text] == ["a", "STOb"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_held_back_beginning_is_told_when_the_tokens_end(ask):
    chunks = events(
        ask("/v1/completions", {"prompt": "x", "stop": "STOP", "stream": True}, lambda r: ids_of("a", "STO"))
    )
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "aSTO"


def test_the_plain_template_ends_at_the_next_turn(ask):
    script = lambda r: ids_of("Hello", "\n", "user", ":", "x")  # noqa: E731
    [choice] = ask("/v1/chat/completions", {"messages": USER}, script).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hello", "stop")


def test_characters_are_streamed_whole(ask):
    script = lambda r: [*"€😀".encode(), *ids_of("a")]  # noqa: E731
    chunks = events(ask("/v1/completions", {"prompt": "x", "stream": True}, script))
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["€", "😀", "a", ""]


def test_an_unfinished_character_is_left_out(ask):
    [choice] = ask("/v1/completions", {"prompt": "x"}, lambda r: [97, *"😀".encode()[:3]]).json()["choices"]
    assert choice["text"] == "a"


def test_special_tokens_are_no_text_and_stop_where_asked(ask):
    script = lambda r: [97, BOS, 98, END, 99]  # noqa: E731
    assert ask("/v1/completions", {"prompt": "x"}, script).json()["choices"][0]["text"] == "ab"
    more = {"prompt": "x", "ignore_eos": True}
    assert ask("/v1/completions", more, script).json()["choices"][0]["text"] == "abc"
    assert ask("/v1/completions", more | {"stop_token_ids": [98]}, script).json()["choices"][0]["text"] == "ab"
    [choice] = ask("/v1/completions", more | {"stop": "<|endoftext|>"}, script).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("a", "stop")


def test_prompts_in_every_form_and_n_choices_of_each(ask):
    script = lambda r: [r.prompt_ids[-1], END]  # noqa: E731
    for prompt, texts in [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([97, 98], ["b"]),
        ([[97], [98, 99]], ["a", "c"]),
    ]:
        response = ask("/v1/completions", {"prompt": prompt, "n": 2}, script)
        choices = response.json()["choices"]
        assert [choice["text"] for choice in choices] == [text for text in texts for _ in range(2)]
        assert [choice["index"] for choice in choices] == list(range(2 * len(texts)))
        counted = {request.prompt_ids for request in response.engine.requests}
        assert response.json()["usage"]["prompt_tokens"] == sum(map(len, counted))
    assert response.engine.requests[0].prompt_ids == (97,)  # ids are taken as they are, without a bos


def test_a_streams_choices_are_told_apart_by_index(ask):
    script = lambda r: [r.prompt_ids[-1]] * 3  # noqa: E731
    body = {"prompt": ["a", "b"], "stream": True}
    chunks = events(ask("/v1/completions", body, script, engine={"slots": 2}))
    texts = {0: "", 1: ""}
    for chunk in chunks:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == {0: "aaa", 1: "bbb"}


def test_chat_logprobs(ask):
    body = {"messages": USER, "logprobs": True, "top_logprobs": 2}
    [choice] = ask("/v1/chat/completions", body, lambda r: [0xE2, 97, END]).json()["choices"]
    content = choice["logprobs"]["content"]
    assert [entry["bytes"] for entry in content] == [[0xE2], [97], list(b"<|end|>")]
    assert [entry["token"] for entry in content] == ["\ufffd", "a", "<|end|>"]
    assert [entry["logprob"] for entry in content] == [-2.26, -0.97, -2.57]
    assert [other["token"] for other in content[1]["top_logprobs"]] == ["a", "b"]
    plain = ask("/v1/chat/completions", {"messages": USER, "logprobs": True}, hello).json()["choices"][0]["logprobs"]
    assert [entry["top_logprobs"] for entry in plain["content"]] == [[], [], []]


def test_completion_logprobs(ask):
    body = {"prompt": "x", "logprobs": 2}
    [choice] = ask("/v1/completions", body, lambda r: [*"é".encode(), 97]).json()["choices"]
    assert choice["text"] == "éa"
    assert choice["logprobs"] == {
        "tokens": ["bytes:\\xc3", "bytes:\\xa9", "a"],
        "token_logprobs": [-1.95, -1.69, -0.97],
        "top_logprobs": [
            {"bytes:\\xc3": -1.95, "bytes:\\xc4": -1.96},
            {"bytes:\\xa9": -1.69, "bytes:\\xaa": -1.7},
            {"a": -0.97, "b": -0.98},
        ],
        "text_offset": [0, 0, 1],
    }


def test_streamed_logprobs_go_with_their_text(ask):
    body = {"prompt": "x", "logprobs": 0, "stop": "STOP"}
    script = lambda r: [*"€".encode(), *ids_of("S", "T", "a", "STOP")]  # noqa: E731
    whole = ask("/v1/completions", body, script).json()["choices"][0]["logprobs"]
    assert whole["tokens"][3:] == ["S", "T", "a"]
    chunks = events(ask("/v1/completions", body | {"stream": True}, script))
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    for column, values in whole.items():
        assert [value for part in parts for value in part[column]] == values
    assert [len(part["tokens"]) for part in parts] == [3, 3, 0]


def test_an_impossible_token_has_a_finite_logprob(ask, monkeypatch):
    from grainline.models.generate import GeneratedToken

    from . import scripted

    monkeypatch.setattr(scripted, "_token", lambda id, request: GeneratedToken(id, -math.inf))
    [choice] = ask("/v1/completions", {"prompt": "x", "logprobs": 0}, hello).json()["choices"]
    assert choice["logprobs"]["token_logprobs"] == [-9999.0] * 3


@pytest.mark.parametrize("stream", [False, True])
def test_echo_tells_the_prompt_and_its_logprobs(ask, stream):
    body = {"prompt": "hé<|end|>", "echo": True, "logprobs": 1, "max_tokens": 1, "stream": stream}
    response = ask("/v1/completions", body, hello)
    choices = [event["choices"][0] for event in events(response)] if stream else response.json()["choices"]
    assert "".join(choice["text"] for choice in choices) == "hé<|end|>Hello"
    columns = {key: [v for c in choices for v in c["logprobs"][key]] for key in choices[0]["logprobs"]}
    assert columns["tokens"] == ["<|endoftext|>", "h", "bytes:\\xc3", "bytes:\\xa9", "<|end|>", "Hello"]
    assert columns["token_logprobs"] == [None, -1.04, -1.95, -1.69, -2.57, -2.58]
    assert columns["top_logprobs"][0] is None
    assert columns["text_offset"] == [0, 0, 1, 1, 2, 9]


def test_echo_alone_generates_nothing(ask):
    body = {"prompt": [104, 105], "echo": True, "logprobs": 1, "max_tokens": 0}
    response = ask("/v1/completions", body, hello)
    [choice] = response.json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("hi", "length")
    assert choice["logprobs"]["token_logprobs"] == [None, -1.05]
    assert response.json()["usage"]["completion_tokens"] == 0


def test_sampling_reaches_the_engine(ask):
    body = {
        "messages": USER,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "presence_penalty": 0.2,
        "frequency_penalty": -0.3,
        "repetition_penalty": 1.1,
        "logit_bias": {"97": -100},
        "seed": -5,
        "n": 2,
    }
    first, second = ask("/v1/chat/completions", body, hello).engine.requests
    assert vars(first.sampling) == {k: v for k, v in body.items() if k in vars(first.sampling)} | {
        "logit_bias": {97: -100}
    }
    assert first.seed != second.seed
    again = ask("/v1/chat/completions", body, hello).engine.requests
    assert [request.seed for request in again] == [first.seed, second.seed]


def test_without_a_seed_each_request_has_its_own(ask):
    seeds = {ask("/v1/completions", {"prompt": "x"}).engine.requests[0].seed for _ in range(2)}
    assert len(seeds) == 2


def test_models(ask):
    [card] = ask("/v1/models").json()["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == ("tiny", "model", 200)
    assert ask("/v1/models/tiny").json()["id"] == "tiny"
    assert ask("/v1/models/org/other").status_code == 404


def test_what_changes_nothing_is_accepted(ask):
    body = {"messages": USER, "user": "me", "metadata": {"a": "b"}, "tools": [], "tool_choice": None, "store": False}
    assert ask("/v1/chat/completions", body | {"response_format": {"type": "text"}}, hello).status_code == 200


def test_an_answer_can_be_sent_back_as_it_came(ask):
    message = ask("/v1/chat/completions", {"messages": USER}, hello).json()["choices"][0]["message"]
    parts = {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]}
    again = [parts, *USER, message | {"tool_calls": None, "audio": None, "annotations": []}, *USER]
    response = ask("/v1/chat/completions", {"messages": again}, hello)
    prompt = bytes(response.engine.requests[0].prompt_ids[1:]).decode()
    assert prompt == "system: Be\nbrief.\nuser: hi\nassistant: Hello world\nuser: hi\nassistant:"
