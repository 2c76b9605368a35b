"""The corpus that ships with the package: prose in eight languages, and Python code. See corpus/SOURCES.md."""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterator
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def version() -> str:
    """Changes with the corpus."""
    return hashlib.sha256((CORPUS / "index.json").read_bytes()).hexdigest()


def parts() -> dict[str, int]:
    """Bytes of text by part: the language, or "code"."""
    index = json.loads((CORPUS / "index.json").read_text(encoding="utf-8"))
    return {name: part["bytes"] for name, part in index["parts"].items()}


def texts() -> Iterator[tuple[str, str, str]]:
    """(text, source, part), interleaved so that any beginning holds the same share of every part."""
    sizes = parts()
    streams = {part: _read(part) for part in sizes}
    taken = dict.fromkeys(sizes, 0)
    while streams:
        part = min(streams, key=lambda part: taken[part] / sizes[part])
        found = next(streams[part], None)
        if found is None:
            del streams[part]
        else:
            taken[part] += len(found[0].encode("utf-8"))
            yield (*found, part)


def _read(part: str) -> Iterator[tuple[str, str]]:
    import orjson

    with lzma.open(CORPUS / f"{part}.jsonl.xz", "rb") as lines:
        for line in lines:
            document = orjson.loads(line)
            yield document["text"], document["source"]
