"""Sequences: each token is predicted once in an epoch, and any sequence is the same however it is asked for."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from grainline.data.dataset import TokenDataset
from grainline.data.pack import pack_documents
from grainline.data.readers import TextDocument, read_text
from grainline.data.tokenizer import Tokenizer
from grainline.documents import GrainlineError

S = 16


@pytest.fixture(scope="module")
def documents() -> list[TextDocument]:
    return list(read_text(["builtin"], max_bytes=60_000))


@pytest.fixture(scope="module")
def tokenizer(documents: list[TextDocument]) -> Tokenizer:
    return Tokenizer.train((d.text for d in documents), 500)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, documents: list[TextDocument], tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("data") / "packed"
    pack_documents(lambda: documents, tokenizer, folder, fingerprint="", validation_fraction=0.2, shard_tokens=1001)
    return folder


@pytest.fixture(scope="module")
def ring(folder: Path) -> np.ndarray:
    return np.concatenate([np.fromfile(path, "<u2") for path in sorted(folder.glob("train-*.bin"))]).astype(np.int64)


def test_sequences_are_cut_from_the_ring_of_all_tokens(folder: Path, ring: np.ndarray) -> None:
    dataset = TokenDataset.open(folder, "train", S, seed=3)
    assert dataset.tokens == len(ring)
    assert len(dataset) == len(ring) // S
    starts = dataset.starts(0, len(dataset))
    for row, start in zip(dataset.sequences(0, len(dataset)), starts, strict=True):
        assert row.dtype == np.int64
        assert row.tolist() == [ring[(start + i) % len(ring)] for i in range(S + 1)]


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_an_epoch_predicts_every_token_once(folder: Path, epoch: int) -> None:
    dataset = TokenDataset.open(folder, "train", S, seed=3)
    starts = dataset.starts(epoch * len(dataset), len(dataset))
    predicted = Counter(int(start + 1 + i) % dataset.tokens for start in starts for i in range(S))
    assert set(predicted.values()) == {1}
    assert len(predicted) == dataset.tokens - dataset.tokens % S


def test_epochs_and_seeds_differ_in_order_and_in_borders(folder: Path) -> None:
    dataset, other = (TokenDataset.open(folder, "train", S, seed=seed) for seed in (3, 4))
    n = len(dataset)
    first, second, seeded = dataset.starts(0, n), dataset.starts(n, n), other.starts(0, n)
    assert len({int(starts.min()) % S for starts in (first, second, seeded)}) > 1
    assert not np.array_equal(np.argsort(first), np.argsort(second))
    assert not np.array_equal(np.argsort(first), np.argsort(seeded))
    assert (np.diff(first) == S).sum() < 0.02 * n + 3  # hardly any neighbours stay neighbours


def test_any_sequence_is_the_same_however_it_is_asked_for(folder: Path) -> None:
    whole = TokenDataset.open(folder, "train", S, seed=1)
    n = 2 * len(whole) + 5
    expected = whole.sequences(0, n)
    for workers in (1, 3):
        for worker in range(workers):
            mine = TokenDataset.open(folder, "train", S, seed=1)
            for number in range(worker, n, 7 * workers):
                assert np.array_equal(mine.sequences(number, 1)[0], expected[number])
    resumed = TokenDataset.open(folder, "train", S, seed=1)
    assert np.array_equal(resumed.sequences(len(whole) - 3, 11), expected[len(whole) - 3 : len(whole) + 8])
    assert whole.sequences(5, 0).shape == (0, S + 1)


def test_an_epochs_text_is_the_documents_bytes(folder: Path, tokenizer: Tokenizer, ring: np.ndarray) -> None:
    dataset = TokenDataset.open(folder, "train", S)
    starts = dataset.starts(0, len(dataset))
    pieces = dict(zip(starts.tolist(), dataset.text(0, len(dataset), tokenizer), strict=True))
    for number in (0, 5, len(dataset) - 1):
        ids = dataset.sequences(number, 1)[0, 1:].tolist()
        assert pieces[int(starts[number])].decode(errors="replace") == tokenizer.decode(ids)
    predicted = {(int(start) + 1 + i) % len(ring) for start in starts for i in range(S)}
    rest = [int(ring[place]) for place in range(len(ring)) if place not in predicted]
    rest_bytes = sum(len(tokenizer.token_bytes(id)) for id in rest if id != dataset.separator_id)
    assert sum(map(len, pieces.values())) + rest_bytes == dataset.bytes


def test_too_little_text_says_how_much_is_needed(tmp_path: Path, tokenizer: Tokenizer) -> None:
    few = [TextDocument("one two three", "", "p"), TextDocument("four five", "", "p")]
    pack_documents(lambda: few, tokenizer, tmp_path / "p", fingerprint="")
    with pytest.raises(GrainlineError, match=r"the train split has \d+ tokens, a sequence needs 65: give more"):
        TokenDataset.open(tmp_path / "p", "train", 64)
    with pytest.raises(GrainlineError, match=r"a batch of 100 × 4 tokens needs 401.*or training.batch_tokens"):
        TokenDataset.open(tmp_path / "p", "train", 4, batch_sequences=100)
    with pytest.raises(GrainlineError, match=r"the valid split .* raise data.validation_fraction"):
        TokenDataset.open(tmp_path / "p", "valid", 64)
    assert len(TokenDataset.open(tmp_path / "p", "train", 2)) >= 1


def test_a_shard_cut_short_is_noticed(tmp_path: Path, tokenizer: Tokenizer, documents: list[TextDocument]) -> None:
    packed = pack_documents(lambda: documents, tokenizer, tmp_path / "p", fingerprint="")
    path = packed.folder / "train-00000.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(GrainlineError, match=r"train-00000.bin: has \d+ bytes, its index says \d+. Delete"):
        TokenDataset.open(tmp_path / "p", "train", S)
    path.unlink()
    with pytest.raises(GrainlineError, match="has 0 bytes"):
        TokenDataset.open(tmp_path / "p", "train", S)
