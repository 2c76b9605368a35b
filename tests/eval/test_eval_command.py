"""`grainline eval` on a model folder: what it prints, keeps, and answers to mistakes."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from grainline.cli import main
from grainline.data.tokenizer import Tokenizer
from grainline.documents import Attention, ModelConfig
from grainline.eval.bits_per_byte import bits_per_byte
from grainline.models.build import build

Capture = pytest.CaptureFixture[str]
WORDS = {
    "en": ["the", "cat", "sat", "on", "a", "mat", "and", "ate"],
    "de": ["der", "Hund", "saß", "auf", "dem", "Stuhl", "und", "aß"],
}


def lines(part: str, seed: int, words: int = 200) -> str:
    return " ".join(random.Random(f"{part}{seed}").choices(WORDS[part], k=words))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder and some text."""
    folder = tmp_path_factory.mktemp("eval")
    for split, seeds in (("train", range(100, 130)), ("test", range(6))):
        rows = [{"text": lines(part, seed), "part": part} for part in WORDS for seed in seeds]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokenizer = Tokenizer.train([lines(part, 0) for part in WORDS], 300)
    config = ModelConfig(
        family="llama",
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        layers=1,
        ffn_hidden=32,
        max_positions=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        attention=Attention(heads=2, head_dim=8),
    )
    build(config).save(folder / "model", tokenizer)
    return folder


def test_bits_per_byte_by_part_and_total(place: Path, capsys: Capture) -> None:
    assert main(["eval", str(place / "model"), "--text", str(place / "test.jsonl"), "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    parts = {row["part"]: row for row in table["bits_per_byte"]["parts"]}
    assert list(parts) == ["de", "en"]
    assert parts["en"]["documents"] == 6
    assert parts["en"]["bytes"] == sum(len(lines("en", seed).encode()) for seed in range(6))

    from grainline.data.readers import read_text
    from grainline.models.loading import load

    scores = bits_per_byte(*load(place / "model"), read_text([str(place / "test.jsonl")]))
    assert table["bits_per_byte"] == json.loads(json.dumps(scores.table()))


def test_baselines_and_tasks_beside_the_model(place: Path, tmp_path: Path, capsys: Capture) -> None:
    text, train = str(place / "test.jsonl"), str(place / "train.jsonl")
    task = tmp_path / "quiz.jsonl"
    task.write_text('{"context": "the cat", "choices": [" sat", " xyz"], "answer": 0}\n', encoding="utf-8")
    arguments = ["eval", str(place / "model"), "--text", text, "--against", train, "--out", str(tmp_path / "out")]
    assert main([*arguments, "--task", str(task), "true-continuation"]) == 0
    out = capsys.readouterr().out
    for word in ("order-5 n-gram", "xz -9", "total", "quiz", "true-continuation", "accuracy", "chance 0.250"):
        assert word in out
    table = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    model = table["bits_per_byte"]["total"]["bits_per_byte"]
    ngram, xz = (table["baselines"][name]["total"]["bits_per_byte"] for name in ("order-5 n-gram", "xz -9"))
    assert 0 < ngram < xz < model  # the model was never trained
    samples = (tmp_path / "out" / "true-continuation.samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(samples) == table["tasks"][1]["samples"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to measure"),
        (["--task", "quiz.jsonl", "--against", "x"], "name that too"),
        (["--task", "true-continuation"], "4 documents or more"),
        (["--task", "quizz"], "neither a .jsonl file nor a known task"),
        (["--task", "missing.jsonl"], "no such file"),
        (["--text", "missing.txt"], "missing.txt"),
        (["--text", "missing.txt", "--out", __file__], "no folder can be made there"),
    ],
)
def test_mistakes_are_answered(place: Path, arguments: list[str], said: str, capsys: Capture) -> None:
    assert main(["eval", str(place / "model"), *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def served(place: Path) -> Iterator[str]:
    """The base URL of `grainline serve` with the same model."""
    import uvicorn

    from grainline.serve.app import build_app
    from grainline.serve.loading import open_model
    from grainline.serve.server import address_of, bind

    model = open_model(str(place / "model"), name="tiny")
    with bind("127.0.0.1", 0) as listener:
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(build_app(model), log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"{address_of(listener)}/v1"
        server.should_exit = True
        thread.join(timeout=30)


def test_our_own_server_gives_the_figures_of_the_model_in_memory(place: Path, served: str, capsys: Capture) -> None:
    text = place / "short.jsonl"
    rows = [{"text": lines(part, 50, words=12), "part": part} for part in WORDS]
    text.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["eval", str(place / "model"), "--text", str(text), "--json"]) == 0
    here = json.loads(capsys.readouterr().out)["bits_per_byte"]
    assert main(["eval", "tiny", "--endpoint", served, "--text", str(text), "--json"]) == 0
    there = json.loads(capsys.readouterr().out)["bits_per_byte"]
    assert here["total"]["tokens"] == there["total"]["tokens"]
    assert here["total"]["bytes"] == there["total"]["bytes"]
    assert there["total"]["bits_per_byte"] == pytest.approx(here["total"]["bits_per_byte"], rel=1e-5)
    assert main(["eval", "tiny", "--endpoint", served, "--text", str(place / "test.jsonl")]) == 2
    assert "--window" in capsys.readouterr().err  # a document of 200 words is beyond the context of 64 tokens
    assert main(["eval", "tiny", "--endpoint", served, "--text", str(place / "test.jsonl"), "--window", "60"]) == 0
