"""Reading and writing files: what isn't a document is told so, and a write is whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from grainline.documents import DocumentError, GrainlineError, Plan, make_folder, read_tables, write_atomically


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.toml", b"x = = 1", "is not well-formed TOML: .*line 1"),
        ("a.toml", b"x = 1\nx = 2\n\ny = 1", "is not well-formed TOML: .*line 2"),
        ("a.json", b'{"x": 1,', "is not well-formed JSON: .*line 1 column"),
        ("a.json", b'{"x": 1, "x": 2}', "the key 'x' is given 2 times"),
        ("a.json", b"[1, 2]", "must hold a table of keys at the top"),
        ("a.toml", b"\xff\xfe\x00x", "is not UTF-8 text"),
        ("a.yaml", b"x: 1", "is not well-formed TOML"),
    ],
)
def test_what_is_no_document_is_told_so(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DocumentError, match=words) as caught:
        read_tables(path)
    assert str(path) in str(caught.value)


def test_no_file_and_no_file_but_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="no such file"):
        Plan.load(tmp_path / "none.toml")
    with pytest.raises(DocumentError, match="is a folder"):
        Plan.load(tmp_path)


@pytest.mark.parametrize("name", ["plan.toml", "plan.json"])
def test_a_byte_order_mark_is_passed_over(tmp_path: Path, name: str) -> None:
    Plan().save(tmp_path / name)
    marked = b"\xef\xbb\xbf" + (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(marked)
    assert Plan.load(tmp_path / name) == Plan()


def test_only_toml_and_json_are_written(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"ends in \.toml or \.json"):
        Plan().save(tmp_path / "plan.yaml")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.toml"
    write_atomically(path, "old\n")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new\n" * 1000)
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_on_the_way_are_made_and_others_may_read(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "plan.json"
    Plan().save(path)
    assert Plan.load(path) == Plan()
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(("name", "why"), [("plan.json", "File exists"), ("plan.json/runs/mine", "Not a directory")])
def test_a_file_in_the_way_of_a_folder_is_told(tmp_path: Path, name: str, why: str) -> None:
    Plan().save(tmp_path / "plan.json")
    for make in (make_folder, lambda folder: write_atomically(folder / "new.txt", "text")):
        with pytest.raises(GrainlineError, match=rf"{name}: no folder can be made there \({why}\)\. Name another\."):
            make(tmp_path / name)
