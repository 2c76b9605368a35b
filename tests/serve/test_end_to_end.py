"""A real tokenizer and a tiny random model, from its folder to what HTTP and the command line tell."""

import asyncio
import codecs
import json
import logging
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import httpx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.cli import main
from grainline.data.tokenizer import Tokenizer
from grainline.documents import Attention, GrainlineError, ModelConfig, Moe
from grainline.models.build import build
from grainline.models.generate import GeneratedToken, Sampling, generate
from grainline.serve.loading import name_of, open_model
from grainline.serve.text import TextStream
from grainline.serve.tokens import TokenText

from .scripted import client_of

TEXTS = ["Once upon a time there was a cat. " * 20, "Grüße aus Köln, 5 € für 😀. " * 20, "猫が好きです。" * 20]
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, 400)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size + 7,  # padded, as published models are
        hidden_size=32,
        layers=2,
        ffn_hidden=64,
        max_positions=20_000,
        init_std=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        attention=Attention(heads=2, kv_heads=1, head_dim=16, qk_norm=True),
        moe=Moe(experts=4, top_k=2, expert_hidden=32, shared_experts=1, dense_layers=(0,)),
    )
    folder = tmp_path_factory.mktemp("run") / "model"
    build(config, seed=5).save(folder, tokenizer=tokenizer)
    return folder


@pytest.fixture(scope="module")
def served(folder):
    served = open_model(str(folder))
    yield served
    served.engine.close("the test is over")
    assert served.engine.join(10)


def post(served, path: str, *bodies: dict) -> list[httpx.Response]:
    """All at once, through the application."""

    async def run():
        async with client_of(served) as client:
            return await asyncio.gather(*(client.post(path, json=body, timeout=60) for body in bodies))

    return asyncio.run(run())


def text_of(response: httpx.Response) -> str:
    if not response.headers["content-type"].startswith("text/event-stream"):
        return response.json()["choices"][0]["text"]
    events = response.text.split("\n\n")[:-2]
    return "".join(json.loads(event.removeprefix("data: "))["choices"][0]["text"] for event in events)


def test_argmax_over_http_is_the_models_own(served, tokenizer):
    body = {"prompt": "Once upon", "temperature": 0, "max_tokens": 24, "ignore_eos": True}
    whole, stream = post(served, "/v1/completions", body, body | {"stream": True})
    prompt = tokenizer.encode("Once upon", bos=True)
    greedy = generate(served.engine._model, prompt, max_new_tokens=24, sampling=Sampling(temperature=0))
    ids = [token.id for token in greedy]
    assert text_of(whole) == text_of(stream) == decoded(tokenizer, ids)
    usage = whole.json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(prompt), 24)


def test_eight_requests_at_once_get_what_they_get_one_by_one(served):
    bodies = [{"prompt": f"Once {i}", "max_tokens": 20, "seed": i, "stream": bool(i % 2)} for i in range(8)]
    together = [text_of(response) for response in post(served, "/v1/completions", *bodies)]
    alone = [text_of(post(served, "/v1/completions", body)[0]) for body in bodies]
    assert together == alone
    assert len(set(alone)) == 8


def test_choices_differ_and_come_again_with_the_same_seed(served):
    body = {"messages": [{"role": "user", "content": "Grüße"}], "n": 3, "seed": 7, "max_tokens": 16}
    first, again = post(served, "/v1/chat/completions", body, body)
    texts = [choice["message"]["content"] for choice in first.json()["choices"]]
    assert texts == [choice["message"]["content"] for choice in again.json()["choices"]]
    assert len(set(texts)) == 3


def test_echoed_logprobs_are_the_teacher_forced(served, tokenizer):
    """What evaluation harnesses ask for: a prompt as ids, scored, with one token more."""
    ids = tokenizer.encode("Grüße aus Köln", bos=True)
    body = {"prompt": ids, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}
    columns = post(served, "/v1/completions", body)[0].json()["choices"][0]["logprobs"]
    with torch.inference_mode():
        logprob_SV = served.engine._model(torch.tensor([ids]))[0].log_softmax(-1)
    forced = [float(row[id]) for row, id in zip(logprob_SV, ids[1:], strict=False)] + [float(logprob_SV[-1].max())]
    assert columns["token_logprobs"][0] is None
    assert columns["token_logprobs"][1:] == pytest.approx(forced, abs=1e-4)
    assert [max(top.values()) for top in columns["top_logprobs"][1:]] == pytest.approx(
        [float(row.max()) for row in logprob_SV], abs=1e-4
    )


def test_special_tokens_of_a_prompt_are_tokens(served, tokenizer):
    body = {"prompt": "a<|end|>", "echo": True, "logprobs": 0, "max_tokens": 0}
    columns = post(served, "/v1/completions", body)[0].json()["choices"][0]["logprobs"]
    assert columns["tokens"] == ["<|endoftext|>", "a", "<|end|>"]


def decoded(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Everything at once; an unfinished character at the end, which is not told, taken off."""
    known = [id for id in ids if id < tokenizer.vocab_size]
    data = b"".join(b"" if id in tokenizer.special.values() else tokenizer.token_bytes(id) for id in known)
    text = tokenizer.decode(known)
    _, finished = codecs.utf_8_decode(data, "replace", False)
    return text if finished == len(data) else text[:-1]


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_streamed_tokens_make_the_text_that_decoding_makes(tokenizer, data):
    near = tokenizer.encode("Grüße 5 € 😀 猫")
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 6) | st.sampled_from(near), max_size=30))
    stream = TextStream(TokenText(tokenizer).visible)
    pieces = [stream.push(GeneratedToken(id, 0.0)) for id in ids]
    assert "".join(piece.text for piece in [*pieces, stream.finish()]) == decoded(tokenizer, ids)


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_text_streams_back_as_it_was(tokenizer, text):
    text = text.encode("utf-8", "ignore").decode()
    stream = TextStream(TokenText(tokenizer).visible)
    pieces = [stream.push(GeneratedToken(id, 0.0)).text for id in tokenizer.encode(text)]
    assert "".join([*pieces, stream.finish().text]) == text


def test_a_base_model_is_served_plain_with_a_warning(folder, caplog):
    with caplog.at_level(logging.WARNING):
        served = open_model(str(folder))
    served.engine.close("done")
    assert served.template.name == "plain"
    assert "no chat template" in caplog.text
    caplog.clear()
    open_model(str(folder), chat_template="plain").engine.close("done")
    assert caplog.text == ""


def test_the_models_own_template_is_used(folder, tokenizer, tmp_path):
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    for file in folder.iterdir():
        (tuned / file.name).write_bytes(file.read_bytes())
    (tuned / "chat_template.jinja").write_text(TEMPLATE)
    served = open_model(str(tuned))
    try:
        body = {"messages": [{"role": "system", "content": "é"}, {"role": "user", "content": "Once"}], "max_tokens": 1}
        usage = post(served, "/v1/chat/completions", body)[0].json()["usage"]
        ids = tokenizer.encode("<|system|>é<|end|><|user|>Once<|end|><|assistant|>", special=True)
        assert usage["prompt_tokens"] == len(ids)
        assert served.name == "tuned"
    finally:
        served.engine.close("done")


def test_bos_is_left_out_where_the_tokenizers_config_says_so(served, tokenizer):
    quiet = Tokenizer(tokenizer._definition, tokenizer.config | {"add_bos_token": False})
    body = {"prompt": "Once", "max_tokens": 1}
    [with_bos] = post(served, "/v1/completions", body)
    [without] = post(replace(served, tokenizer=quiet), "/v1/completions", body)
    assert with_bos.json()["usage"]["prompt_tokens"] == without.json()["usage"]["prompt_tokens"] + 1


def test_names(folder, tmp_path):
    assert name_of("org/name@main") == "org/name"
    assert name_of(str(folder)) == folder.parent.name
    assert name_of(str(tmp_path)) == tmp_path.name


# --- the command line ---


def test_generate_tells_the_same_text_streamed_and_as_json(folder, capsys, monkeypatch):
    command = ["generate", str(folder), "Once upon", "--max-tokens", "12", "--seed", "3"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert text.endswith("\n")
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["text"] + "\n" == text
    assert told["usage"]["completion_tokens"] == 12
    assert (told["finish_reason"], told["seed"]) == ("length", 3)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=SimpleNamespace(read=lambda: b"Once upon\n")))
    assert main(["generate", str(folder), "-", *command[3:]]) == 0
    assert capsys.readouterr().out == text


def test_generate_stops_and_chats(folder, capsys):
    command = ["generate", str(folder), "Once", "--temperature", "0", "--max-tokens", "20"]
    main(command)
    text = capsys.readouterr().out.rstrip("\n")
    assert main([*command, "--stop", text[3:6], "zzz"]) == 0
    assert capsys.readouterr().out == text[: text.index(text[3:6])] + "\n"
    assert main([*command, "--chat", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["usage"]["prompt_tokens"] > 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x", "--temperature", "-1"], "temperature"),
        (["x", "--max-tokens", "-5"], "max_tokens"),
        (["x " * 20_001], "20000"),
        (["\udcff"], "UTF-8"),
        (["x", "--chat-template", "plain"], "--chat"),
        (["x", "--chat", "--chat-template", "none.jinja"], "none.jinja"),
        (["x", "--dtype", "float33"], "float33"),
    ],
)
def test_generate_refuses_in_words(folder, capsys, arguments, said):
    assert main(["generate", str(folder), *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--port", "70000"], "70000"), (["--max-waiting", "0"], "--max-waiting"), (["--api-key", " "], "--api-key")],
)
def test_serve_refuses_in_words(folder, capsys, options, said):
    assert main(["serve", str(folder), *options]) == 2
    assert said in capsys.readouterr().err


def test_serve_from_the_command_line(folder):
    environment = os.environ | {"GRAINLINE_API_KEY": "secret"}
    command = [sys.executable, "-m", "grainline", "serve", str(folder), "--port", "0", "--name", "mine"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            lines = iter(process.stderr.readline, "")
            url = next(found[1] for line in lines if (found := re.search(r"'mine' at (http://[\d.:]+)/v1", line)))
            transport = httpx.HTTPTransport(retries=5)
            with httpx.Client(base_url=url, transport=transport, timeout=30) as client:
                body = {"model": "mine", "prompt": "Once", "max_tokens": 3}
                assert client.post("/v1/completions", json=body).status_code == 401
                answer = client.post("/v1/completions", json=body, headers={"authorization": "Bearer secret"})
                assert answer.json()["usage"]["completion_tokens"] <= 3
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
            rest = process.stderr.read()
        finally:
            process.kill()
    assert "Traceback" not in rest
    assert "secret" not in rest


def test_ctrl_c_ends_generate_with_130(folder):
    command = [sys.executable, "-m", "grainline", "generate", str(folder), "Once", "--max-tokens", "19000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout.read(1)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130
    assert b"Traceback" not in told


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(GrainlineError, match=r"config\.json"):
        open_model(str(tmp_path))
