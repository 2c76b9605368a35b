"""The xz baseline against the plain definition: compress training text with and without the part after it."""

from __future__ import annotations

import lzma
import random

import pytest

from grainline.documents import GrainlineError
from grainline.eval.baselines import xz
from grainline.eval.baselines.xz import xz_bits


def text(seed: int, words: int) -> str:
    rng = random.Random(seed)
    vocabulary = ["".join(rng.choices("aeioulrstn", k=rng.randrange(2, 9))) for _ in range(300)]
    return " ".join(random.Random(seed + 1000).choices(vocabulary, k=words))


def size(data: bytes) -> int:
    return len(lzma.compress(data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9}]))


def test_equals_compressing_twice() -> None:
    training = [text(0, 20_000), text(1, 20_000)]
    parts = {"known": [text(0, 3000), text(1, 3000)], "new": [text(2, 3000)], "empty": []}
    joined = "".join(training).encode()
    expected = {k: 8 * (size(joined + "".join(v).encode()) - size(joined)) for k, v in parts.items()}
    assert xz_bits(training, parts) == expected
    assert expected["empty"] == 0 < expected["known"]


def test_training_text_helps_what_is_like_it() -> None:
    known, new = [text(0, 5000)], [text(2, 5000)]
    primed = xz_bits(known, {"known": known, "new": new})
    alone = xz_bits([], {"known": known, "new": new})
    assert primed["known"] < 0.05 * alone["known"]
    assert primed["new"] > 0.5 * alone["new"]


def test_a_failing_child_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xz, "DICTIONARY_BYTES", 1)  # below the format's least: the encoder refuses
    monkeypatch.setattr(xz, "LARGEST_DICTIONARY_BYTES", 1)
    with pytest.raises(GrainlineError, match="xz baseline failed"):
        xz_bits(["text"], {"part": ["text"]})
