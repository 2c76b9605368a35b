"""Text from wherever a person has it, as documents in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from grainline.data import builtin
from grainline.data.files import Found, find_text
from grainline.data.formats import records, text_bytes
from grainline.documents import GrainlineError

# A plain file is cut into about 256 pieces (with the others'), so that some can be held out, of these sizes in bytes.
PIECES, SMALLEST_PIECE, LARGEST_PIECE = 256, 2 << 10, 64 << 10


@dataclass(frozen=True)
class TextDocument:
    """`source` says where it was read; `part` is what figures are kept by: a language, a section, a file's name."""

    text: str
    source: str
    part: str


def read_text(sources: Sequence[str | Path] | Found, max_bytes: int | None = None) -> Iterator[TextDocument]:
    """Documents of "builtin", files, folders and globs of .txt, .md, .jsonl (each also .gz, .zst, .xz) and .parquet.

    A JSON line's or Parquet row's text is its `text` (or `content`), its part its `part` (or `language`, `lang`), or
    else the file's name, or the folder's if there are many files. With `max_bytes`, no more than so many bytes of text
    are read, and about the same share of each file and of each part of the built-in corpus. Empty texts are left out.
    Raises GrainlineError, at once for what can't be found and while reading for what can't be read.
    """
    found = sources if isinstance(sources, Found) else find_text(sources)
    if max_bytes is not None and max_bytes < 1:
        raise GrainlineError(f"max_bytes is {max_bytes}: must be positive.")
    return _read(found, max_bytes)


def _read(found: Found, max_bytes: int | None) -> Iterator[TextDocument]:
    sizes = [text_bytes(path) for path in found.files]
    corpus = sum(builtin.parts().values()) if found.builtin else 0
    total = sum(sizes) + corpus
    share = 1.0 if max_bytes is None else max_bytes / max(total, 1)  # may be > 1: sizes are estimates
    # Of all that is there, not of the budget: the same documents, and the same of them held out, whatever is read.
    piece_bytes = min(LARGEST_PIECE, max(SMALLEST_PIECE, total // PIECES))

    allowed = 0.0  # bytes that may have been read once the present file is done
    taken = smallest = 0
    for path, size in [*([(None, corpus)] if found.builtin else []), *zip(found.files, sizes, strict=True)]:
        allowed += share * size
        for document in _documents(path, found, piece_bytes):
            length = len(document.text.encode("utf-8"))
            if max_bytes is not None and taken + length > min(allowed, max_bytes):
                smallest = min(smallest or length, length)
                break
            taken += length
            yield document
    if not taken and smallest:
        raise GrainlineError(f"max_bytes {max_bytes} is less than any first document ({smallest} bytes): allow more.")
    if not taken:
        names = ", ".join(map(str, found.files[:3])) + (", …" if len(found.files) > 3 else "")
        raise GrainlineError(f"{names}: no text in there, only white space or nothing.")


def _documents(path: Path | None, found: Found, piece_bytes: int) -> Iterator[TextDocument]:
    if path is None:
        yield from (TextDocument(*fields) for fields in builtin.texts())
        return
    part = found.part(path)
    for record in records(path, piece_bytes):
        if record.text and not record.text.isspace():
            yield TextDocument(record.text, str(path), record.part or part)
