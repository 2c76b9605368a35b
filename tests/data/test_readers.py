"""Readers: what is read from each format, in which order, under a budget, and what bad input is told."""

import gzip
import json
import lzma
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from grainline.data import builtin
from grainline.data.files import find_text, refuse_inside
from grainline.data.formats import _pieces, text_bytes
from grainline.data.readers import TextDocument, read_text
from grainline.documents import GrainlineError


def texts(*sources: Path | str, max_bytes: int | None = None) -> list[str]:
    return [document.text for document in read_text(sources, max_bytes)]


def jsonl(path: Path, *records: object) -> Path:
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    pack = {".gz": gzip.compress, ".zst": zstandard.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
    path.write_bytes(pack(lines))
    return path


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".xz"])
def test_json_lines_plain_and_compressed(tmp_path: Path, suffix: str) -> None:
    path = jsonl(tmp_path / f"a.jsonl{suffix}", {"text": "Größe"}, {"content": "two", "language": "en"}, {"text": " "})
    assert list(read_text([path])) == [TextDocument("Größe", str(path), "a"), TextDocument("two", str(path), "en")]


def test_zstd_of_several_frames_is_read_to_the_end(tmp_path: Path) -> None:
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(b"one ") + zstandard.compress(b"two"))
    assert texts(tmp_path / "a.txt.zst") == ["one two"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"id": [1, 2, 3], "text": pa.array(["a", None, "b"]).cast(kind), "lang": ["x", "y", None]})
    pq.write_table(table, tmp_path / "t.parquet")
    documents = list(read_text([tmp_path / "t.parquet"]))
    assert [(d.text, d.part) for d in documents] == [("a", "x"), ("b", "t")]


def test_folders_are_walked_in_order_and_other_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "b" / ".git").mkdir(parents=True)
    for name in ("z.txt", "b/a.md", "b/.git/x.txt", ".hidden.txt", "p.png", "q.png", "Makefile"):
        (tmp_path / name).write_text(name)
    assert texts(tmp_path) == ["z.txt", "b/a.md"]
    assert find_text([tmp_path]).skipped == {".png": 2, "Makefile": 1}
    assert texts(tmp_path / "**" / "*.md", tmp_path / "z.txt", tmp_path) == ["b/a.md", "z.txt"]


def test_parts_are_file_names_or_of_many_files_their_folders(tmp_path: Path) -> None:
    for name in ("de.txt", "en.x.txt"):
        (tmp_path / name).write_text(name)
    assert [document.part for document in read_text([tmp_path])] == ["de", "en"]
    for i in range(40):
        (tmp_path / f"{i}.txt").write_text("text")
    assert {document.part for document in read_text([tmp_path])} == {tmp_path.name}


@given(st.text(alphabet="ab\n \r€😀", max_size=400), st.integers(4, 40))
def test_pieces_make_up_the_file_again(tmp_path_factory: pytest.TempPathFactory, text: str, piece_bytes: int) -> None:
    path = tmp_path_factory.getbasetemp() / "pieces.txt"
    path.write_bytes(text.encode())
    pieces = list(_pieces(path, piece_bytes))
    assert "".join(pieces) == text
    assert all(0 < len(piece.encode()) <= piece_bytes for piece in pieces)


def test_pieces_end_at_blank_lines_and_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    paragraph = "word " * 30 + "\n\n"
    (tmp_path / "a.txt").write_text("\ufeff" + paragraph * 100, encoding="utf-8")
    pieces = texts(tmp_path / "a.txt")
    assert "".join(pieces) == paragraph * 100
    assert len(pieces) > 5
    assert all(piece.endswith("\n\n") and len(piece) <= 2048 for piece in pieces)


def test_a_budget_takes_the_same_share_of_every_file(tmp_path: Path) -> None:
    sizes = {"a.jsonl": 400, "b.jsonl.gz": 200, "c.parquet": 300}
    for name, count in sizes.items():
        rows = [{"text": f"{name} {i} " + "x" * 990} for i in range(count)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name) if "parquet" in name else jsonl(
            tmp_path / name, *rows
        )
    read = list(read_text([tmp_path], max_bytes=90_000))
    assert sum(len(document.text.encode()) for document in read) <= 90_000
    taken = Counter(Path(document.source).name for document in read)
    for name, count in sizes.items():
        assert taken[name] == pytest.approx(count / 10, rel=0.1)


def test_a_budget_skips_among_many_small_files(tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / f"{i:03}.txt").write_text(f"{i:04}" * 25)
    numbers = [int(text[:4]) for text in texts(tmp_path, max_bytes=1000)]
    assert len(numbers) == 10
    assert all(abs(number - 10 * i) < 11 for i, number in enumerate(numbers))


def test_the_built_in_corpus_is_what_its_index_says() -> None:
    documents = list(read_text(["builtin"]))
    sizes = Counter[str]()
    for document in documents:
        sizes[document.part] += len(document.text.encode())
    assert sizes == builtin.parts()
    assert len(sizes) >= 6
    assert len({document.text for document in documents}) == len(documents)
    assert all(600 <= len(document.text.encode()) < 70_000 for document in documents)


def test_any_beginning_of_the_built_in_corpus_is_a_fair_mix() -> None:
    sizes = builtin.parts()
    taken = Counter[str]()
    for document in read_text(["builtin"], max_bytes=4_000_000):
        taken[document.part] += len(document.text.encode())
    assert 3_900_000 < sum(taken.values()) <= 4_000_000
    for part, size in sizes.items():
        assert taken[part] / size == pytest.approx(4e6 / sum(sizes.values()), abs=70_000 / size)


def test_the_corpus_fits_its_size_and_states_its_sources() -> None:
    files = list(builtin.CORPUS.iterdir())
    assert sum(path.stat().st_size for path in files) < 6_000_000
    stated = (builtin.CORPUS / "SOURCES.md").read_text(encoding="utf-8")
    names = {source.split("/")[0] for _, source, _ in builtin.texts()}
    assert all(f"| `{name}` |" in stated for name in names)


def refused(*sources: Path | str, max_bytes: int | None = None) -> str:
    with pytest.raises(GrainlineError) as error:
        texts(*sources, max_bytes=max_bytes)
    return str(error.value)


def test_names_that_match_nothing(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("text")
    assert "no such file or folder. Did you mean 'corpus.txt'?" in refused(tmp_path / "korpus.txt")
    assert "matches no file" in refused(tmp_path / "*.md")
    assert "Nor is there a folder" in refused(tmp_path / "no" / "a.txt")
    assert "name files" in refused()


def test_a_folder_to_write_to_must_not_be_searched_for_text(tmp_path: Path) -> None:
    run = tmp_path / "notes" / "runs" / "mine"
    run.mkdir(parents=True)
    for source in ("notes", "notes/runs/mine", "no*", "notes/*", "notes/**/*.md", "**/*.txt"):
        with pytest.raises(GrainlineError, match=r"is searched for text, and .*mine lies in it.*\(--out\)"):
            refuse_inside(run, ["builtin", str(tmp_path / source)])
    (tmp_path / "notes" / "runs" / "a.txt").write_text("text")
    for source in ("notes/runs/a.txt", "notes/runs/*.txt", "other", "oth*"):
        refuse_inside(run, ["builtin", str(tmp_path / source)])
    refuse_inside(tmp_path / "notes" / ".runs" / "mine", [tmp_path / "notes"])


def test_kinds_that_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    assert "a.pdf: files of this kind aren't read. Read are .txt .md .jsonl .parquet" in refused(tmp_path / "a.pdf")
    assert "nothing to read in this folder (1 × .pdf)" in refused(tmp_path)
    assert "nothing to read in this glob (1 × .pdf)" in refused(tmp_path / "*")


def test_empty_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text(" \n")
    assert "no text in there" in refused(tmp_path / "a.txt")
    assert "no text in there" in refused(tmp_path)
    (tmp_path / "c.txt").write_text("text")
    assert texts(tmp_path) == ["text"]


def test_binary_and_other_encodings_are_named_by_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc\n\n" * 1000 + b"\x00\x01")
    assert f"{path}: byte 5000 is 0" in refused(path)
    path.write_bytes(("é\n\n" * 1000).encode() + "è".encode("latin-1") + b" tail")
    assert f"{path}: byte 4000 (0xe8) isn't UTF-8" in refused(path)
    path.write_bytes(b"\xef\xbb\xbfa\xff")
    assert f"{path}: byte 4 (0xff)" in refused(path)
    path.write_bytes("text".encode("utf-16"))
    assert "UTF-16" in refused(path) or "isn't UTF-8" in refused(path)
    path.write_bytes("cut short: é".encode()[:-1])
    assert f"{path}: byte 11 (0xc3)" in refused(path)


def test_json_lines_that_do_not_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b"\n')
    assert f"{path}, line 3: isn't JSON: unexpected end of data at character 14." in refused(path)
    path.write_text('{"text": "a"}\n["b"]\n')
    assert "line 2: every line must be an object" in refused(path)
    path.write_text('{"id": 1, "Text_raw": "a"}\n')
    message = refused(path)
    assert "line 1: no key 'text' (or 'content'). Found: 'id', 'Text_raw'." in message
    assert "Rename 'Text_raw' to 'text'" in message
    path.write_text('{"text": 5}\n')
    assert "line 1: 'text' must be a string; this one is a number." in refused(path)
    path.write_bytes(b'{"text": "a"}\n{"text": "\xe8"}\n')
    assert f"{path}: byte 24 (0xe8) isn't UTF-8" in refused(path)


def test_parquet_that_does_not_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["a"]}), path)
    assert f"{path}: no column 'text' (or 'content'). Found: 'body'." in refused(path)
    pq.write_table(pa.table({"text": [1]}), path)
    assert "column 'text' must hold strings; it holds int64" in refused(path)
    path.write_bytes(b"PAR1 not really")
    assert "damaged, or not a Parquet file" in refused(path)
    strings = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\3\0\0\0"), pa.py_buffer(b"ab\xff")])
    pq.write_table(pa.table({"text": strings}), path)
    assert "row 0 of column 'text': byte 2 (0xff) isn't UTF-8" in refused(path)


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz"])
def test_damaged_compressed_files(tmp_path: Path, suffix: str) -> None:
    path = jsonl(tmp_path / f"a.jsonl{suffix}", *({"text": f"{i * i}"} for i in range(10_000)))
    path.write_bytes(path.read_bytes()[:-200])
    assert f"{path}: damaged" in refused(path)
    path.write_bytes(b"no such stream at all")
    assert f"{path}: damaged" in refused(path)


def test_budgets_that_are_too_small(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 1000)
    assert "max_bytes 10 is less than any first document (1000 bytes)" in refused(tmp_path / "a.txt", max_bytes=10)
    assert "must be positive" in refused(tmp_path / "a.txt", max_bytes=0)


def test_what_was_found_has_a_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = find_text([path]).fingerprint
    assert find_text([path, path]).fingerprint == before
    assert find_text([path, "builtin"]).fingerprint != before
    path.write_text("other")
    assert find_text([path]).fingerprint != before


def test_a_budget_does_not_move_the_borders_of_documents(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {i}: {'word ' * 40}\n\n" for i in range(5000)))
    whole = texts(tmp_path)
    few = texts(tmp_path, max_bytes=100_000)
    assert 10 < len(few) < len(whole) / 10
    assert set(few) <= set(whole)


def test_a_budget_above_a_wrong_estimate_reads_everything(tmp_path: Path) -> None:
    """The beginning of a compressed file says little of the rest."""
    rows = [{"text": f"{i}" * 20} for i in range(100_000)] + [{"text": "x" * 4000}] * 1000
    path = jsonl(tmp_path / "a.jsonl.gz", *rows)
    size = sum(len(row["text"]) for row in rows)
    assert text_bytes(path) < 0.9 * size
    assert len(texts(path, max_bytes=2 * size)) == len(rows)
