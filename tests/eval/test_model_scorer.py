"""Scores of a model against a plain loop that runs it on one window at a time."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import pytest
import torch

from grainline.documents import GrainlineError
from grainline.eval.bits_per_byte import bits_per_byte, score_documents
from grainline.eval.likelihood import Query
from grainline.eval.model_scorer import ModelScorer
from grainline.models.model import Model

from .tiny import BOS, ByteTokenizer, tiny_model, uniform_model


@dataclass(frozen=True)
class Document:
    text: str
    source: str = "memory"
    part: str = "en"


def texts(count: int, longest: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("abc dé犬", k=rng.randrange(1, longest))) for _ in range(count)]


def by_hand(model: Model, ids: list[int], first: int, window: int) -> float:
    """Bits of ids[first:], one target at a time; each sees what the documented windows show it."""
    total, stop = 0.0, max(window, first - 1 + window // 2)
    for target in range(first, len(ids)):
        while target > stop:
            stop += window // 2
        start = max(0, min(stop, len(ids) - 1) - window)
        logits_V = model(torch.tensor([ids[start:target]]))[0, -1].double()
        total -= logits_V.log_softmax(-1)[ids[target]].item() / math.log(2)
    return total


def test_equals_a_plain_loop_over_windows() -> None:
    model, tokenizer = tiny_model(), ByteTokenizer()
    documents = texts(6, 40)
    answers = ModelScorer(model, tokenizer, window=8).score([Query(text) for text in documents])
    for text, answer in zip(documents, answers, strict=True):
        assert answer.bits == pytest.approx(by_hand(model, [BOS, *tokenizer.encode(text)], 1, 8), rel=1e-5)
        assert answer.bytes == answer.tokens == len(text.encode())


@pytest.mark.parametrize("batch_tokens", [1, 50, 10_000])
def test_batches_change_nothing(batch_tokens: int) -> None:
    model, queries = tiny_model(), [Query(text) for text in texts(20, 100)]
    alone = [ModelScorer(model, ByteTokenizer()).score([query])[0] for query in queries]
    together = ModelScorer(model, ByteTokenizer(), batch_tokens=batch_tokens).score(queries)
    assert [a.bits for a in together] == pytest.approx([a.bits for a in alone], rel=1e-5)


def test_a_uniform_model_costs_log2_of_the_vocabulary_per_token() -> None:
    documents = [Document("aéa"), Document("犬" * 50, part="ja"), Document("", part="ja"), Document("abab")]
    scores = bits_per_byte(uniform_model(), ByteTokenizer(pairs=[b"ab"]), documents)
    assert [(p.part, p.documents, p.bytes, p.tokens) for p in scores.parts] == [("en", 2, 8, 6), ("ja", 1, 150, 150)]
    assert scores.parts[0].bits_per_byte == pytest.approx(math.log2(300) * 6 / 8)
    assert scores.parts[1].bits_per_byte == pytest.approx(math.log2(300))
    assert scores.total.bits_per_byte == pytest.approx(math.log2(300) * 156 / 158)


def test_text_after_a_context_is_scored_from_the_token_that_holds_its_start() -> None:
    model, tokenizer = tiny_model(), ByteTokenizer(pairs=[b"c "])
    scorer = ModelScorer(model, tokenizer)
    whole = [BOS, *tokenizer.encode("abc dd")]
    clean, spanning = scorer.score([Query(" dd", context="ab"), Query(" dd", context="abc")])
    assert clean.tokens == len(tokenizer.encode(" dd"))
    assert spanning.bits == pytest.approx(by_hand(model, whole, 3, 64), rel=1e-5)  # "c " is one token, scored whole
    assert spanning.tokens == 3
    assert spanning.bytes == 3


def test_a_context_longer_than_the_window_keeps_its_end() -> None:
    model, tokenizer = tiny_model(), ByteTokenizer()
    (answer,) = ModelScorer(model, tokenizer, window=8).score([Query("dcba", context="abcd" * 10)])
    ids = [BOS, *tokenizer.encode("abcd" * 10 + "dcba")]
    assert answer.bits == pytest.approx(by_hand(model, ids, 41, 8), rel=1e-5)


def test_progress_counts_every_document_once() -> None:
    told: list[int] = []
    documents = [Document(text) for text in [*texts(5, 200), ""]]
    score_documents(ModelScorer(tiny_model(), ByteTokenizer(), window=8), documents, told.append)
    assert sum(told) == 6


def test_what_cannot_be_scored_is_said() -> None:
    with pytest.raises(GrainlineError, match="no text to score"):
        bits_per_byte(tiny_model(), ByteTokenizer(), [Document("")])
    with pytest.raises(GrainlineError, match="between 2 and the model's 64"):
        ModelScorer(tiny_model(), ByteTokenizer(), window=65)
    tokenizer = ByteTokenizer()
    tokenizer.bos_token_id = None
    with pytest.raises(GrainlineError, match="no beginning- or end-of-text"):
        ModelScorer(tiny_model(), tokenizer)
