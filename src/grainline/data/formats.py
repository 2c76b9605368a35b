"""One file's texts: plain text, JSON lines (each also compressed) and Parquet, a document at a time in memory."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import zstandard

from grainline.documents import GrainlineError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

PLAIN, JSON_LINES, PARQUET = (".txt", ".md"), (".jsonl",), (".parquet",)
COMPRESSED = (".gz", ".zst", ".xz")
SUFFIXES = (*PLAIN, *JSON_LINES, *PARQUET)

TEXT_KEYS = ("text", "content")  # the first that a record has
PART_KEYS = ("part", "language", "lang")
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Record:
    """A text, and the part that its record names, if it does."""

    text: str
    part: str | None = None


def kind_of(path: Path) -> str | None:
    """The suffix that says how a file is read, such as ".jsonl" for a.jsonl.gz; None if it isn't read."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSED:
        return suffixes[0] if suffixes[0] in PLAIN + JSON_LINES else None
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else None


def records(path: Path, piece_bytes: int) -> Iterator[Record]:
    """Texts of a file in order; a plain text longer than `piece_bytes` comes in pieces that make it up again."""
    kind = kind_of(path)
    if kind in PARQUET:
        return _parquet_records(path)
    if kind in JSON_LINES:
        return _json_records(path)
    return (Record(text) for text in _pieces(path, piece_bytes))


def text_bytes(path: Path) -> int:
    """About how many bytes of text the file holds, without reading all of it."""
    size = path.stat().st_size
    if kind_of(path) in PARQUET:
        file, column, _ = _parquet_columns(path)
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
        return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)
    if path.suffix.lower() in COMPRESSED:
        with _opened(path) as (file, raw):
            beginning = len(file.read(CHUNK_BYTES))
            return beginning if beginning < CHUNK_BYTES else int(size / raw.tell() * beginning)
    return size


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """(the file's bytes, decompressed; the file as it is). What can't be read or is damaged is a GrainlineError."""
    try:
        with path.open("rb") as raw, _decompressed(path, raw) as file:
            yield file, raw
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise GrainlineError(f"{path}: damaged, or not a {path.suffix} file ({error}).") from None
    except OSError as error:
        raise GrainlineError(f"{path}: can't be read: {error.strerror or error}.") from None


def _decompressed(path: Path, raw: IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast(AbstractContextManager[IO[bytes]], gzip.GzipFile(fileobj=raw))
    if suffix == ".xz":
        return lzma.LZMAFile(raw)
    if suffix == ".zst":
        return cast(AbstractContextManager[IO[bytes]], io.BufferedReader(_Zstandard(raw), CHUNK_BYTES))
    return nullcontext(raw)


class _Zstandard(io.RawIOBase):
    """Frames one after the other. zstandard's own reader takes a file that was cut short for a whole one."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self._ready = raw, b""
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready:
            data = self._frame.unused_data if self._frame.eof else b""
            data = data or self._raw.read(1 << 16)
            if not data:
                if self._begun and not self._frame.eof:
                    raise EOFError("ends before its end-of-frame marker")
                return 0
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._ready, self._begun = self._frame.decompress(data), True
        size = min(len(target), len(self._ready))
        target[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


# --- plain text -------------------------------------------------------------------------------------------------------


def _pieces(path: Path, piece_bytes: int) -> Iterator[str]:
    """Cut after the last blank line, or else line, or else word, of every `piece_bytes` bytes."""
    with _opened(path) as (file, _):
        position = 0  # of the buffer's first byte
        buffer = file.read(piece_bytes + 1)
        if buffer.startswith(b"\xef\xbb\xbf"):  # a byte order mark is no text
            position, buffer = 3, buffer[3:] + file.read(3)
        while len(buffer) > piece_bytes:
            cut = _cut(buffer, piece_bytes)
            yield _decoded(buffer[:cut], path, position)
            position += cut
            buffer = buffer[cut:] + file.read(cut)
        if buffer:
            yield _decoded(buffer, path, position)


def _cut(buffer: bytes, limit: int) -> int:
    for end in (b"\n\n", b"\r\n\r\n", b"\n", b" "):
        found = buffer.rfind(end, limit // 4, limit)
        if found >= 0:
            return found + len(end)
    cut = limit
    while limit - cut < 4 and buffer[cut] & 0xC0 == 0x80:  # not inside a character
        cut -= 1
    return cut


def _decoded(data: bytes, path: Path, position: int) -> str:
    nul = data.find(b"\0")
    if nul >= 0:
        raise GrainlineError(
            f"{path}: byte {position + nul} is 0: this is a binary file, or text in UTF-16 or UTF-32. "
            "Leave it out, or convert it to UTF-8."
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, position + error.start, data[error.start]) from None


def _not_utf8(where: str | Path, offset: int, byte: int) -> GrainlineError:
    return GrainlineError(
        f"{where}: byte {offset} (0x{byte:02x}) isn't UTF-8. Convert the file, "
        "for example with iconv -f LATIN1 -t UTF-8 (if Latin-1 is what it is in)."
    )


# --- JSON lines -------------------------------------------------------------------------------------------------------


def _json_records(path: Path) -> Iterator[Record]:
    import orjson

    with _opened(path) as (file, _):
        position = 0
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    tables = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    _decoded(line, path, position)  # bytes that aren't text are the better reason
                    why = f"{error.msg} at character {error.pos + 1}"
                    raise GrainlineError(f"{path}, line {number}: isn't JSON: {why}.") from None
                if not isinstance(tables, dict):
                    raise GrainlineError(
                        f"{path}, line {number}: every line must be an object with a text in it, "
                        f'such as {{"text": "…"}}; this one is {_kind(tables)}.'
                    )
                yield _record(tables, f"{path}, line {number}")
            position += len(line)


def _kind(value: object) -> str:
    """What JSON calls it."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _record(table: Mapping[str, Any], where: str) -> Record:
    key = _first(TEXT_KEYS, table)
    if key is None:
        raise _no_text(where, "key", list(table))
    if not isinstance(table[key], str):
        raise GrainlineError(f"{where}: '{key}' must be a string; this one is {_kind(table[key])}.")
    part = _first(PART_KEYS, table)
    return Record(table[key], None if part is None or table[part] is None else str(table[part]))


def _first(keys: Sequence[str], found: Mapping[str, Any] | Sequence[str]) -> str | None:
    return next((key for key in keys if key in found), None)


def _no_text(where: str | Path, what: str, found: list[str]) -> GrainlineError:
    close = [name for name in found if any(key in name.lower() for key in TEXT_KEYS)]
    hint = f" Rename '{close[0]}' to 'text' if that's where the text is." if close else ""
    names = ", ".join(map(repr, found)) or "none at all"
    return GrainlineError(f"{where}: no {what} 'text' (or 'content'). Found: {names}.{hint}")


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _parquet_columns(path: Path) -> tuple[ParquetFile, str, str | None]:
    """(the file, its column of texts, its column of parts)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise GrainlineError(f"{path}: damaged, or not a Parquet file ({error}).") from None
    schema = file.schema_arrow
    column = _first(TEXT_KEYS, schema.names)
    if column is None:
        raise _no_text(path, "column", schema.names)
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise GrainlineError(f"{path}: column '{column}' must hold strings; it holds {kind}.")
    return file, column, _first(PART_KEYS, schema.names)


def _parquet_records(path: Path) -> Iterator[Record]:
    import pyarrow as pa

    file, column, part = _parquet_columns(path)
    row = 0
    try:
        for batch in file.iter_batches(batch_size=256, columns=[column, *([part] if part else [])]):
            parts = batch[part].to_pylist() if part else [None] * len(batch)
            for scalar, name in zip(batch[column], parts, strict=True):
                try:
                    text = scalar.as_py()
                except UnicodeDecodeError as error:
                    where = f"{path}, row {row} of column '{column}'"
                    raise _not_utf8(where, error.start, error.object[error.start]) from None
                row += 1
                if text is not None:
                    yield Record(text, None if name is None else str(name))
    except (pa.ArrowException, OSError) as error:
        raise GrainlineError(f"{path}: damaged after row {row} ({error}).") from None
