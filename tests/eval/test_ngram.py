"""The n-gram baseline against a dictionary implementation that follows Chen and Goodman's formulas byte by byte."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from grainline.documents import GrainlineError
from grainline.eval.baselines import ngram
from grainline.eval.baselines.ngram import NGram, discounts

TEXT = "the cat sat on the mat and the dog sat on the log; ein Hund saß auf dem Stuhl 犬 🙂"
WORDS = (*TEXT.split(), "\n")


def documents(seed: int, count: int = 30, words: int = 40) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=words)) for _ in range(count)]


class SlowKneserNey:
    """Interpolated modified Kneser–Ney with dictionaries: one loop per definition."""

    def __init__(self, texts: list[str], order: int) -> None:
        self.order = order
        self.counts: list[Counter[bytes]] = [Counter() for _ in range(order + 1)]
        for text in texts:
            padded = bytes(order) + text.encode()
            for end in range(order, len(padded)):
                self.counts[order][padded[end - order : end + 1]] += 1
        for length in range(order - 1, -1, -1):
            self.counts[length] = Counter(gram[1:] for gram in self.counts[length + 1])
        self.discounts = [discounts(np.array(list(c.values()))) for c in self.counts]
        self.followers: list[dict[bytes, list[int]]] = [defaultdict(list) for _ in range(order + 1)]
        for length in range(order + 1):
            for gram, count in self.counts[length].items():
                self.followers[length][gram[:-1]].append(count)

    def probability(self, context: bytes, byte: int, length: int) -> float:
        if length < 0:
            return 1 / 256
        context = context[len(context) - length :]
        shorter = self.probability(context[1:], byte, length - 1)
        counts = self.followers[length].get(context)
        if not counts:
            return shorter
        d = self.discounts[length]
        count = self.counts[length][context + bytes([byte])]
        left = sum(d[min(c, 3)] for c in counts) / sum(counts)
        return max(count - d[min(count, 3)], 0) / sum(counts) + left * shorter


@pytest.mark.parametrize("order", [0, 1, 2, 5, 7])
def test_equals_the_dictionary_implementation(order: int) -> None:
    fast, slow = NGram.train(documents(0), order), SlowKneserNey(documents(0), order)
    unseen = documents(1, count=2)[0] + " zebra Ω"
    padded = bytes(order) + unseen.encode()
    expected = [slow.probability(padded[i : i + order], padded[i + order], order) for i in range(len(unseen.encode()))]
    np.testing.assert_allclose(fast.probabilities(unseen), expected, rtol=1e-12)
    assert fast.bits(unseen) == pytest.approx(-np.log2(expected).sum(), rel=1e-12)


@pytest.mark.parametrize("order", [0, 3, 5, 7])
def test_a_distribution_sums_to_one_after_any_context(order: int) -> None:
    model, rng = NGram.train(documents(0), order), random.Random(2)
    seen = b"the cat sat"
    contexts = [b"", seen, "🙂".encode(), b"\xff" * 9, *(rng.randbytes(rng.randrange(12)) for _ in range(50))]
    for context in contexts:
        p = model.distribution(context)
        assert p.shape == (256,)
        assert p.min() > 0
        assert p.sum() == pytest.approx(1, abs=1e-12)
    text = b"the cat sat on"
    assert model.distribution(text[:7])[text[7]] == pytest.approx(model.probabilities(text)[7], rel=1e-12)


def test_text_sorted_in_chunks_gives_the_same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = NGram.train(documents(0, count=60), 4)
    monkeypatch.setattr(ngram, "CHUNK_BYTES", 100)
    chunked = NGram.train(iter(documents(0, count=60)), 4)
    for a, b in zip(whole.orders, chunked.orders, strict=True):
        np.testing.assert_array_equal(a.grams, b.grams)
        np.testing.assert_array_equal(a.seen, b.seen)


def test_longer_contexts_and_more_text_help() -> None:
    held_out = documents(9, count=5)

    def bits(order: int, count: int) -> float:
        model = NGram.train(documents(0, count=count), order)
        return sum(map(model.bits, held_out))

    assert bits(5, 100) < bits(2, 100) < bits(0, 100)
    assert bits(5, 100) < bits(5, 5)


def test_a_document_knows_nothing_of_the_one_before_it() -> None:
    model = NGram.train(["ab", "ab", "ab"], 2)
    assert model.probabilities("a")[0] == model.distribution(b"")[ord("a")] > 0.5
    assert model.distribution(b"b")[ord("a")] < 0.5  # no document has an 'a' after its 'b'


def test_what_cannot_be_counted_is_said() -> None:
    with pytest.raises(GrainlineError, match="between 0 and 7"):
        NGram.train(["text"], 8)
    with pytest.raises(GrainlineError, match="no text"):
        NGram.train([""], 5)


def test_discounts_are_chen_and_goodmans() -> None:
    counts = np.array([1] * 10 + [2] * 4 + [3] * 2 + [4])  # Y = 10/18
    np.testing.assert_allclose(discounts(counts), [0, 1 - 2 * 4 / 18, 2 - 3 * 2.5 / 9, 3 - 4 * 2.5 / 9], rtol=1e-12)
    np.testing.assert_array_equal(discounts(np.array([200, 300])), [0, 0.5, 1, 1.5])
