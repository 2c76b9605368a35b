"""A real server on a real port: OpenAI's own client, clients that leave, addresses that can't be had, stopping."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
import uvicorn

from grainline.documents import GrainlineError
from grainline.serve.app import build_app
from grainline.serve.server import address_of, bind

from .scripted import END, ScriptedEngine, ids_of, serve

USER = [{"role": "user", "content": "hi"}]


class Running:
    """A server on a thread of its own, around a scripted engine."""

    def __init__(self, script, **options) -> None:
        self.options = options
        self.script = script

    def __enter__(self):
        ready = threading.Event()

        async def main():
            self.engine = ScriptedEngine(self.script, context_tokens=100_000)
            app = build_app(serve(self.engine), **self.options)
            listener = bind("127.0.0.1", 0)
            listener.listen()
            self.url = address_of(listener)
            self.server = uvicorn.Server(uvicorn.Config(app, log_config=None))
            self.loop = asyncio.get_running_loop()
            ready.set()
            await self.server.serve(sockets=[listener])

        self.thread = threading.Thread(target=lambda: asyncio.run(main()))
        self.thread.start()
        assert ready.wait(20)
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join(20)

    def until(self, holds, seconds: float = 10.0) -> None:
        """Wait until something holds; fail if it never does."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "never came to hold"
            time.sleep(0.005)


def hello(_):
    return [*ids_of("Hello", " world"), END]


@pytest.fixture(scope="module")
def running():
    with Running(hello, api_key="secret") as server:
        yield server


@pytest.fixture(scope="module")
def client(running):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="secret", max_retries=0) as client:
        yield client


def test_openai_client_chat(client):
    answer = client.chat.completions.create(model="tiny", messages=USER, logprobs=True, top_logprobs=1, seed=1)
    assert answer.choices[0].message.content == "Hello world"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs.content[0].token == "Hello"
    assert answer.usage.completion_tokens == 3


def test_openai_client_chat_stream(client):
    stream = client.chat.completions.create(
        model="tiny", messages=USER, stream=True, stream_options={"include_usage": True}, n=2
    )
    *chunks, last = list(stream)
    assert last.usage.completion_tokens == 6
    for index in (0, 1):
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert "".join(choice.delta.content or "" for choice in mine) == "Hello world"
        assert mine[0].delta.role == "assistant"
        assert [choice.finish_reason for choice in mine][-1] == "stop"


def test_openai_client_completions(client):
    answer = client.completions.create(model="tiny", prompt=["a", "b"], logprobs=1, echo=True, extra_body={"top_k": 3})
    assert [choice.text for choice in answer.choices] == ["aHello world", "bHello world"]
    assert answer.choices[1].logprobs.tokens == ["<|endoftext|>", "b", "Hello", " world", "<|end|>"]
    stream = client.completions.create(model="tiny", prompt="a", stream=True)
    assert "".join(part.choices[0].text for part in stream) == "Hello world"


def test_openai_client_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def test_openai_client_errors(client, running):
    import openai

    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt", messages=USER)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="tiny", messages=USER, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]
        )
    assert caught.value.param == "tools"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="wrong", max_retries=0).models.list()


def endless(_):
    return [97] * 90_000


@contextlib.contextmanager
def raw_request(url: str, body: dict):
    """A connection that has sent its request and may be closed at any time."""
    host, port = url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    head = ["POST /v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json"]
    head += [f"Content-Length: {len(data)}", "", ""]
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall("\r\n".join(head).encode() + data)
        yield connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_generation(stream):
    body = {"prompt": "x", "max_tokens": 90_000, "stream": stream}
    with Running(endless) as server:
        with raw_request(server.url, body) as connection:
            server.until(lambda: server.engine.told and len(server.engine.told[0]) > 3)
            if stream:
                assert b"200 OK" in connection.recv(4096)
        server.until(lambda: server.engine.running == 0)
        assert server.engine.cancelled == 1
        assert len(server.engine.told[0]) < 90_000
        server.until(lambda: 'status="499"' in httpx.get(f"{server.url}/metrics").text)


def test_a_client_that_leaves_the_queue_is_forgotten():
    with Running(endless) as server:
        server.engine.hold.clear()
        with raw_request(server.url, {"prompt": "x"}):
            server.until(lambda: server.engine.running == 1)
            with raw_request(server.url, {"prompt": "y"}):
                server.until(lambda: server.engine.waiting == 1)
            server.until(lambda: server.engine.waiting == 0)
            assert server.engine.running == 1
        server.loop.call_soon_threadsafe(server.engine.hold.set)


def test_health_answers_while_a_text_is_made():
    with Running(endless) as server, raw_request(server.url, {"prompt": "x", "max_tokens": 90_000}):
        server.until(lambda: server.engine.running == 1)
        health = httpx.get(f"{server.url}/health")
        assert (health.status_code, health.json()["running"]) == (200, 1)


def test_metrics_count_what_happened():
    with Running(hello) as server, httpx.Client(base_url=server.url) as client:
        for body in ({"prompt": "abc"}, {"prompt": "abc", "stream": True}, {"prompt": 1}):
            client.post("/v1/completions", json=body)
        lines = dict(
            line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#")
        )
    assert lines['grainline_requests_total{path="/v1/completions",status="200"}'] == "2.0"
    assert lines['grainline_requests_total{path="/v1/completions",status="400"}'] == "1.0"
    assert lines["grainline_prompt_tokens_total"] == "8.0"
    assert lines["grainline_generated_tokens_total"] == "6.0"
    assert lines["grainline_time_to_first_token_seconds_count"] == "2.0"
    assert lines["grainline_time_per_output_token_seconds_count"] == "4.0"
    assert lines["grainline_waiting_sequences"] == "0.0"
    assert lines["grainline_running_sequences"] == "0.0"
    assert lines['grainline_request_seconds_count{path="/v1/completions"}'] == "3.0"


def test_a_port_in_use_is_said_plainly():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "grainline", "serve", "no/such-model", "--port", str(port)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert f"port {port} on 127.0.0.1 is in use" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
def test_an_address_that_is_not_this_machines(host):
    with pytest.raises(GrainlineError, match=f"--host {host}"):
        bind(host, 0)


def test_a_bound_port_refuses_until_it_is_served():
    with bind("127.0.0.1", 0) as listener, pytest.raises(ConnectionRefusedError):
        socket.create_connection(listener.getsockname())


SERVER = """
import asyncio, sys, time
from tests.serve.scripted import ScriptedEngine, serve
from grainline.serve.app import build_app
from grainline.serve.server import address_of, bind, run

class Slow(ScriptedEngine):
    async def _play(self, generation):
        print("begun", flush=True)
        await asyncio.sleep(float(sys.argv[1]))
        await super()._play(generation)

engine = Slow(lambda request: [97] * 5)
listener = bind("127.0.0.1", 0)
print(address_of(listener), flush=True)
try:
    run(build_app(serve(engine)), engine, listener, grace_seconds=float(sys.argv[2]))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("work", "grace", "signals", "status"), [(0.5, 30, 1, 200), (30, 0.5, 1, 503), (30, 30, 2, 503)]
)
def test_ctrl_c_lets_requests_finish_or_fails_them_in_words(work, grace, signals, status):
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", SERVER, str(work), str(grace)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as process:
        try:
            url = process.stdout.readline().strip()
            answers = []

            def post():
                transport = httpx.HTTPTransport(retries=5)
                with httpx.Client(transport=transport, timeout=30) as client:
                    answers.append(client.post(f"{url}/v1/completions", json={"prompt": "x"}))

            client = threading.Thread(target=post)
            client.start()
            assert process.stdout.readline() == "begun\n"
            for _ in range(signals):
                process.send_signal(signal.SIGINT)
                time.sleep(0.3)
            client.join(30)
            assert process.wait(30) == 130
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()
    [answer] = answers
    assert answer.status_code == status
    if status == 503:
        assert answer.json()["error"]["code"] == "server_stopping"
