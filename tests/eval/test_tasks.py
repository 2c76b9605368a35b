"""Tasks: what they score, from files and from text; intervals; what is kept."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from grainline.documents import DocumentError, GrainlineError
from grainline.eval.bootstrap import ratio_interval
from grainline.eval.harness import report, save
from grainline.eval.likelihood import Likelihood, Query
from grainline.eval.model_scorer import ModelScorer
from grainline.eval.tasks import find_task, read_task, true_continuation
from grainline.eval.tasks.continuation import Continuation, Passage
from grainline.eval.tasks.multiple_choice import MultipleChoice, Question

from .tiny import ByteTokenizer, tiny_model


@dataclass(frozen=True)
class Document:
    text: str
    part: str
    source: str = "memory"


class Table:
    """A scorer that knows the bits of some texts; the others cost 8 bits per byte."""

    def __init__(self, bits: dict[str, float]) -> None:
        self.bits = bits

    def score(self, queries: Sequence[Query], progress: Callable[[int], None] | None = None) -> list[Likelihood]:
        lengths = [len(q.text.encode()) for q in queries]
        return [Likelihood(self.bits.get(q.text, 8.0 * n), n, n) for q, n in zip(queries, lengths, strict=True)]


def test_multiple_choice_by_likelihood_and_per_byte() -> None:
    task = MultipleChoice(
        "t",
        (
            Question("a", ("xx", "yyyy"), answer=1),  # 6 < 8 bits, but 3 > 2 per byte
            Question("b", ("p", "q", "r"), answer=2, about={"part": "en"}),
        ),
    )
    result = task.run(Table({"xx": 6, "yyyy": 8, "p": 3, "q": 2, "r": 1}))
    assert [s.scores["accuracy"] for s in result.samples] == [(0, 1), (1, 1)]
    assert [s.scores["accuracy_per_byte"] for s in result.samples] == [(1, 1), (1, 1)]
    assert result.samples[1].record["part"] == "en"
    assert result.samples[0].record["bits"] == [6, 8]
    assert result.chance["accuracy"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert result.table()["scores"]["accuracy"]["value"] == 0.5
    assert task.size == 5


def test_continuation_weighs_by_bytes() -> None:
    task = Continuation("t", (Passage("a", "xx"), Passage("b", "yyyyyy")))
    scores = task.run(Table({"xx": 2, "yyyyyy": 30})).intervals()
    assert scores["bits_per_byte"].value == pytest.approx(32 / 8)
    assert scores["bits_per_byte"].low == pytest.approx(1)
    assert scores["bits_per_byte"].high == pytest.approx(5)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        hits = (rng.random(150) < 0.4).astype(float)
        interval = ratio_interval(hits, np.ones(150), resamples=400)
        assert interval.value == pytest.approx(hits.mean())
        assert interval.low <= interval.value <= interval.high
        inside += interval.low <= 0.4 <= interval.high
    assert 0.90 <= inside / 200 <= 0.99
    assert ratio_interval([1, 1], [1, 1]).low == 1


def words(seed: int, count: int, vocabulary: str) -> str:
    return " ".join(random.Random(seed).choices(vocabulary.split(), k=count))


def corpus() -> list[Document]:
    parts = {"en": "the cat sat on a mat", "de": "der Hund saß auf dem Stuhl", "ja": "犬は椅子に"}
    documents = [Document(words(i, 400, v), part) for part, v in parts.items() for i in range(5)]
    documents[10:] = [Document("".join(random.Random(i).choices("犬は椅子に座る", k=900)), "ja") for i in range(5)]
    return [*documents, Document("short", "en"), Document(words(9, 900, "only one"), "fr")]


def test_a_task_from_text_asks_what_only_the_text_answers() -> None:
    documents = corpus()
    task = true_continuation(documents, per_part=2, seed=3)
    assert [q.about["part"] for q in task.questions] == ["de", "de", "en", "en", "ja", "ja"]
    answers = []
    for q in task.questions:
        part = q.about["part"]
        assert len(q.context) == 300
        assert [len(choice) for choice in q.choices] == [60] * 4
        holders = [[d for d in documents if c in d.text and d.part == part] for c in q.choices]
        assert all(holders)
        assert any(q.context + q.choices[q.answer] in d.text for d in holders[q.answer])
        if part != "ja":
            assert all(choice.startswith(" ") for choice in q.choices)
        answers.append(q.answer)
    assert true_continuation(documents, per_part=2, seed=3) == task
    assert true_continuation(documents, per_part=2, seed=4) != task
    fewer = [d for d in documents if d.part != "en"]
    assert true_continuation(fewer, per_part=2, seed=3).questions == task.questions[:2] + task.questions[4:]
    many = true_continuation([Document(words(i, 4000, "the cat sat on a mat"), "en") for i in range(8)], per_part=200)
    counts = np.bincount([q.answer for q in many.questions], minlength=4)
    assert counts.min() > 0.5 * counts.mean()


def test_a_task_from_text_needs_enough_of_it() -> None:
    with pytest.raises(GrainlineError, match="4 documents or more of one part"):
        true_continuation([Document(words(i, 400, "a b c"), "en") for i in range(3)])


def test_a_model_answers_a_task(tmp_path: Path) -> None:
    task = true_continuation(corpus(), per_part=3, context_characters=20, choice_characters=10)
    told: list[int] = []
    result = task.run(ModelScorer(tiny_model(max_positions=128), ByteTokenizer()), told.append)
    assert sum(told) == task.size == 36
    table = report(None, [result])
    paths = save(tmp_path / "out", table, [result])
    assert json.loads(paths[0].read_text()) == json.loads(json.dumps(table))
    rows = [json.loads(line) for line in paths[1].read_text().splitlines()]
    assert len(rows) == 9
    accuracy = sum(row["scores"]["accuracy"][0] for row in rows) / 9
    assert accuracy == table["tasks"][0]["scores"]["accuracy"]["value"]
    # What is kept is a task file again, with the same outcome.
    again = read_task(paths[1]).run(ModelScorer(tiny_model(max_positions=128), ByteTokenizer()))
    assert [s.scores for s in again.samples] == [s.scores for s in result.samples]


def test_files_say_what_kind_they_are(tmp_path: Path) -> None:
    choice, passage = tmp_path / "quiz.jsonl", tmp_path / "rest.jsonl"
    choice.write_text('{"context": "1 + 1 =", "choices": [" 2", " 3"], "answer": 0, "level": 1}\n\n', encoding="utf-8")
    passage.write_text('{"context": "", "continuation": "é"}', encoding="utf-8")
    quiz = find_task(str(choice), [])
    assert isinstance(quiz, MultipleChoice)
    assert quiz.questions == (Question("1 + 1 =", (" 2", " 3"), 0, {"level": 1}),)
    assert quiz.name == "quiz"
    assert read_task(passage) == Continuation("rest", (Passage("", "é"),))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "holds no examples"),
        ("{", "line 1: is not JSON"),
        ("[1]", "line 1: must be an object"),
        ('{"context": "a", "choises": ["b", "c"], "answer": 0}', "'continuation' is missing"),
        ('{"contxt": "a", "continuation": "b"}', "Did you mean 'context' by 'contxt'"),
        ('{"context": "a", "choices": ["b"], "answer": 0}', "two or more texts"),
        ('{"context": "a", "choices": ["b", ""], "answer": 0}', "none empty"),
        ('{"context": "a", "choices": ["b", "c"], "answer": 2}', "0 to 1, not 2"),
        ('{"context": 1, "continuation": "b"}', "context: must be a text, not int"),
        ('{"context": "a", "continuation": ""}', "continuation: is empty"),
        ('{"context": "a", "continuation": "b"}\n{"context": "a"}', "line 2"),
    ],
)
def test_bad_files_are_answered_by_line(tmp_path: Path, lines: str, said: str) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text(lines, encoding="utf-8")
    with pytest.raises(DocumentError, match=said) as error:
        read_task(path)
    assert str(path) in str(error.value)


def test_unknown_tasks_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(GrainlineError, match="Did you mean 'true-continuation'"):
        find_task("true-continuations", [])
    with pytest.raises(DocumentError, match="no such file"):
        find_task(str(tmp_path / "none.jsonl"), [])
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DocumentError, match="not UTF-8"):
        find_task(str(tmp_path / "bytes.jsonl"), [])
