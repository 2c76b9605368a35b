"""Packing: every document on its side and whole, once; folders are whole, reused, replaced, never half."""

import errno
import hashlib
import json
import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from grainline.data.pack import pack, pack_documents
from grainline.data.packed import Packed, validation_documents
from grainline.data.readers import TextDocument, read_text
from grainline.data.shards import ShardWriter
from grainline.data.tokenizer import Tokenizer
from grainline.documents import GrainlineError


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train((d.text for d in read_text(["builtin"], max_bytes=200_000)), 600)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    for part, word in (("de", "Größe"), ("en", "size")):
        rows = [{"text": f"{word} {i} " * (1 + i % 7)} for i in range(60)]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def held_out(text: str, fraction: float) -> bool:
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    return number / 2**64 < fraction


def naive_tokens(documents: Sequence[TextDocument], tokenizer: Tokenizer) -> list[int]:
    return [id for document in documents for id in [tokenizer.separator_id, *tokenizer.encode(document.text)]]


def stored(packed: Packed, split: str) -> list[int]:
    files = sorted(packed.folder.glob(f"{split}-*.bin"))
    return [int(id) for file in files for id in np.fromfile(file, "<u2")]


@pytest.mark.parametrize("shard_tokens", [1 << 20, 100])
def test_against_doing_it_naively(text: Path, tmp_path: Path, tokenizer: Tokenizer, shard_tokens: int) -> None:
    documents = list(read_text([text]))
    packed = pack([text], tokenizer, tmp_path / "p", validation_fraction=0.2, shard_tokens=shard_tokens)
    for split, inside in (("train", False), ("valid", True)):
        expected = [d for d in documents if held_out(d.text, 0.2) == inside]
        assert stored(packed, split) == naive_tokens(expected, tokenizer)
        assert packed.documents(split) == len(expected) > 5  # type: ignore[arg-type]
        for part in ("de", "en"):
            of_part = [d for d in expected if d.part == part]
            count = packed.counts[split][part]  # type: ignore[index]
            assert count.documents == len(of_part)
            assert count.bytes == sum(len(d.text.encode()) for d in of_part)
            assert count.tokens == len(naive_tokens(of_part, tokenizer))
    assert list(validation_documents(packed.folder)) == [d for d in documents if held_out(d.text, 0.2)]
    files = len(list(packed.folder.glob("train-*.bin")))
    assert files == -(-packed.tokens("train") // shard_tokens)
    assert Packed.load(packed.folder).counts == packed.counts


def test_a_document_is_on_the_same_side_wherever_it_stands(text: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    documents = list(read_text([text]))
    sides = []
    for name, order in (("a", documents), ("b", documents[::-1]), ("c", documents[30:90])):
        pack_documents(lambda order=order: order, tokenizer, tmp_path / name, fingerprint=name, validation_fraction=0.2)
        sides.append({d.text for d in validation_documents(tmp_path / name)})
    assert sides[0] == sides[1]
    assert sides[2] == sides[0] & {d.text for d in documents[30:90]}


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "train", np.dtype("<u4"))
    writer.write(np.array([0, 70_000]))
    writer.close()
    assert np.fromfile(tmp_path / "train-00000.bin", "<u4").tolist() == [0, 70_000]


def test_the_same_inputs_do_nothing_and_others_pack_again(text: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = tmp_path / "p"
    first = pack([text], tokenizer, folder)
    stamp = (folder / "index.json").stat().st_mtime_ns
    again = pack([text], tokenizer, folder)
    assert (first.reused, again.reused) == (False, True)
    assert (folder / "index.json").stat().st_mtime_ns == stamp
    assert again.fingerprint == first.fingerprint

    assert not pack([text], tokenizer, folder, validation_fraction=0.1).reused
    assert not pack([text], tokenizer, folder, max_bytes=2000).reused
    other = Tokenizer.train(["other text"], 300)
    assert not pack([text], other, folder).reused
    (text / "en.jsonl").write_text('{"text": "changed"}\n')
    assert not pack([text], other, folder).reused
    assert pack([text], other, folder).reused
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "text"]


def test_one_document_is_held_out_even_of_few(tmp_path: Path, tokenizer: Tokenizer) -> None:
    documents = [TextDocument(f"document {i}", "", "p") for i in range(5)]
    for fraction in (1e-9, 1 - 1e-9):
        packed = pack_documents(
            lambda: documents, tokenizer, tmp_path / str(fraction), fingerprint="", validation_fraction=fraction
        )
        assert packed.documents("train") + packed.documents("valid") == 5
        assert min(packed.documents("train"), packed.documents("valid")) == 1
        assert stored(packed, "valid") == naive_tokens(list(validation_documents(packed.folder)), tokenizer)


@pytest.mark.parametrize(("copies", "said"), [(1, "1 document, and no two"), (3, "3 documents, and no two")])
def test_too_few_documents(tmp_path: Path, tokenizer: Tokenizer, copies: int, said: str) -> None:
    documents = [TextDocument("the same", "", "p")] * copies
    with pytest.raises(GrainlineError, match=said):
        pack_documents(lambda: documents, tokenizer, tmp_path / "p", fingerprint="")
    assert list(tmp_path.iterdir()) == []


def test_skipped_files_are_counted(text: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    (text / "a.png").write_bytes(b"")
    pack([text], tokenizer, tmp_path / "p")
    assert Packed.load(tmp_path / "p").skipped == {".png": 1}


def test_progress_ends_at_everything(text: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    told: list[tuple[int, int]] = []
    packed = pack([text], tokenizer, tmp_path / "p", progress=lambda *now: told.append(now))
    assert told[-1] == (
        packed.bytes("train") + packed.bytes("valid"),
        packed.tokens("train") + packed.tokens("valid"),
    )


def test_an_error_leaves_the_old_folder_as_it_was(text: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = tmp_path / "p"
    old = pack([text], tokenizer, folder)
    (text / "zz.jsonl").write_text('{"text": "fine"}\nbroken\n')
    with pytest.raises(GrainlineError, match="line 2: isn't JSON"):
        pack([text], tokenizer, folder)
    assert Packed.load(folder).fingerprint == old.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "text"]


def test_a_killed_process_leaves_nothing_that_looks_finished(text: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = tmp_path / "p"
    tokenizer.save(tmp_path / "t")
    code = (
        "import time\n"
        "import grainline.data.pack\n"
        "from grainline.data.pack import pack_documents\n"
        "from grainline.data.readers import TextDocument\n"
        "from grainline.data.tokenizer import Tokenizer\n"
        "grainline.data.pack.BATCH_BYTES = 10\n"
        "def documents():\n"
        "    for i in range(3):\n"
        "        yield TextDocument(f'{i} ' * 20, '', 'p')\n"
        "    print('half', flush=True)\n"
        "    time.sleep(60)\n"
        f"pack_documents(documents, Tokenizer.load({str(tmp_path / 't')!r}), {str(folder)!r}, fingerprint='')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not folder.exists()
    assert any((tmp_path / ".p.partial").glob("train-*.bin"))
    pack([text], tokenizer, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "t", "text"]


def test_two_processes_pack_one_after_the_other(text: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = tmp_path / "p"
    context = multiprocessing.get_context("fork")
    results = context.Queue()

    def work(delay: float) -> None:
        def documents() -> list[TextDocument]:
            time.sleep(delay)
            return list(read_text([text]))

        results.put(pack_documents(documents, tokenizer, folder, fingerprint="same").reused)

    workers = [context.Process(target=work, args=(delay,)) for delay in (0.5, 0.5, 0.5)]
    for worker in workers:
        worker.start()
    assert sorted(results.get(timeout=30) for _ in workers) == [False, True, True]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "text"]


def test_a_full_disk_is_told_and_leaves_nothing(
    text: Path, tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: ShardWriter, ids: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ShardWriter, "write", full)
    with pytest.raises(GrainlineError, match="no space left on the disk"):
        pack([text], tokenizer, tmp_path / "p")
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_folders_that_are_something_else(text: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(GrainlineError, match="isn't packed text"):
        pack([text], tokenizer, text)
    assert len(list(text.iterdir())) == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(GrainlineError, match="isn't packed text"):
        pack([text], tokenizer, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    pack([text], tokenizer, tmp_path / "link")
    assert (tmp_path / "empty" / "index.json").is_file()
    assert (tmp_path / "link").is_symlink()


def test_indexes_that_do_not_hold(text: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(GrainlineError, match="holds no packed text"):
        Packed.load(tmp_path)
    folder = pack([text], tokenizer, tmp_path / "p").folder
    tables = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(tables | {"schema_version": 99}))
    with pytest.raises(GrainlineError, match="schema_version 99"):
        Packed.load(folder)
    (folder / "index.json").write_text("{")
    with pytest.raises(GrainlineError, match=r"isn't the index of packed text \(JSONDecode.*pack the text again"):
        Packed.load(folder)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_fractions_that_leave_nothing(text: Path, tmp_path: Path, tokenizer: Tokenizer, fraction: float) -> None:
    with pytest.raises(GrainlineError, match="must lie between 0 and 1"):
        pack([text], tokenizer, tmp_path / "p", validation_fraction=fraction)
