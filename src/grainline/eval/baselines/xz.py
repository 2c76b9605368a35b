"""What `xz -9` needs for held-out text after it has read the training text: the compressor that everyone has.

The cost of a part is size(training text + part) − size(training text), as the stream is compressed once more from the
same state. A compressor's state can't be copied from Python, but a process can: this module runs itself as a child,
which reads the training text once and forks for every part. That is exact, and costs one pass instead of one per part.

The dictionary is xz -9's 64 MiB, or as large as all text together if that is more, so that nothing is forgotten. Within
a part xz also learns from the documents before, which no other model here does: the comparison favours xz.
"""

from __future__ import annotations

import json
import lzma
import os
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import BinaryIO

from grainline.documents import GrainlineError

DICTIONARY_BYTES = 64 << 20  # of xz -9
LARGEST_DICTIONARY_BYTES = 1536 << 20  # of the format's encoder
PIECE = 1 << 16
LENGTH = struct.Struct("<q")


def xz_bits(training: Iterable[str | bytes], parts: Mapping[str, Iterable[str | bytes]]) -> dict[str, int]:
    """Bits that each part costs after the training text; documents are concatenated as they come."""
    prime = [_bytes(text) for text in training]
    texts = {name: b"".join(map(_bytes, part)) for name, part in parts.items()}
    total = sum(map(len, prime)) + max(map(len, texts.values()), default=0)
    child = subprocess.Popen(
        [sys.executable, "-m", __name__, str(min(max(total, DICTIONARY_BYTES), LARGEST_DICTIONARY_BYTES))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # The child answers only after all of its input, so that filling its pipe here can't meet a full pipe there.
    frames = b"".join(LENGTH.pack(len(block)) + block for block in (b"".join(prime), *texts.values()))
    answer, complaint = child.communicate(frames)
    if child.returncode:
        raise GrainlineError(f"The xz baseline failed: {complaint.decode(errors='replace').strip()[-400:]}")
    return {name: 8 * size for name, size in zip(texts, json.loads(answer), strict=True)}


def _bytes(text: str | bytes) -> bytes:
    return text.encode("utf-8") if isinstance(text, str) else text


def _child(dictionary_bytes: int, source: BinaryIO) -> list[int]:
    """Sizes, beyond the primer's own, of each block after the first."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": dictionary_bytes}]
    compressor = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=filters)
    primer, *blocks = _frames(source)
    # In pieces: the encoder leaves the last one it was given lying until more comes, and each fork would do it again.
    written = sum(len(compressor.compress(primer[at : at + PIECE])) for at in range(0, len(primer), PIECE))
    alone = _finished_in_a_fork(compressor, written, b"")
    return [_finished_in_a_fork(compressor, written, block) - alone for block in blocks]


def _frames(source: BinaryIO) -> Iterable[bytes]:
    while header := source.read(LENGTH.size):
        yield source.read(LENGTH.unpack(header)[0])


def _finished_in_a_fork(compressor: lzma.LZMACompressor, written: int, block: bytes) -> int:
    """The whole stream's size, had it ended with this block; the compressor itself stays as it is."""
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        size = written + len(compressor.compress(block)) + len(compressor.flush())
        os.write(writer, LENGTH.pack(size))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        told = answer.read()
    os.waitpid(process, 0)
    if len(told) != LENGTH.size:
        raise SystemExit("a compressing process ended early; it needs about 700 MB of memory")
    return int(LENGTH.unpack(told)[0])


if __name__ == "__main__":
    print(json.dumps(_child(int(sys.argv[1]), sys.stdin.buffer)))
