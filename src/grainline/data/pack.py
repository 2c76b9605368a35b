"""Text → token shards, once: documents are split by the hash of their text, encoded, and laid end to end.

A packed folder holds train-*.bin and valid-*.bin (token ids; before each document's stands the separator),
valid.jsonl (the held-out documents as text) and index.json. It appears as a whole or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from math import inf, nextafter
from pathlib import Path

import numpy as np

from grainline.data.building import building
from grainline.data.files import Found, find_text
from grainline.data.packed import INDEX, SCHEMA_VERSION, VALID_TEXT, Count, Packed
from grainline.data.readers import TextDocument, read_text
from grainline.data.shards import SHARD_TOKENS, ShardWriter, Split, token_dtype
from grainline.data.split import position
from grainline.data.tokenizer import Tokenizer
from grainline.documents import GrainlineError

BATCH_BYTES = 4 << 20  # of text encoded at once

Documents = Callable[[], Iterable[TextDocument]]  # begins them anew
Progress = Callable[[int, int], None]  # is told the bytes of text packed so far, and the tokens made of them


def pack(
    sources: Sequence[str | Path] | Found,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    validation_fraction: float = 0.02,
    max_bytes: int | None = None,
    progress: Progress | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> Packed:
    """Pack what `read_text` reads. If `folder` already holds just that, from unchanged files, nothing is done.

    About `validation_fraction` of the documents are held out, by the hash of their text, and at least one. Raises
    GrainlineError for what can't be read, fewer than two different documents, or a full disk.
    """
    found = sources if isinstance(sources, Found) else find_text(sources)
    return pack_documents(
        lambda: read_text(found, max_bytes),
        tokenizer,
        folder,
        fingerprint=f"{found.fingerprint} {max_bytes}",
        validation_fraction=validation_fraction,
        skipped=found.skipped,
        progress=progress,
        shard_tokens=shard_tokens,
    )


def pack_documents(
    documents: Documents,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    fingerprint: str,
    validation_fraction: float = 0.02,
    skipped: Mapping[str, int] | None = None,
    progress: Progress | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> Packed:
    """The same for any documents; `fingerprint` must change when they do."""
    folder = Path(folder)
    if not 0 < validation_fraction < 1:
        raise GrainlineError(f"validation_fraction {validation_fraction}: must lie between 0 and 1.")
    if folder.exists() and not (folder / INDEX).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise GrainlineError(f"{folder}: is there, and isn't packed text. Name another folder, or remove it.")
    separator_id = tokenizer.separator_id
    inputs = (SCHEMA_VERSION, fingerprint, tokenizer.fingerprint, validation_fraction, shard_tokens)
    fingerprint = hashlib.sha256(repr(inputs).encode()).hexdigest()
    with building(folder) as workplace:
        if (folder / INDEX).is_file():
            old = Packed.load(folder)
            if old.fingerprint == fingerprint:
                return old
        packing = _Packing(workplace, tokenizer, shard_tokens, progress)
        try:
            packing.run(documents, validation_fraction)
            packed = Packed(
                folder=folder,
                fingerprint=fingerprint,
                tokenizer=tokenizer.fingerprint,
                vocab_size=tokenizer.vocab_size,
                separator_id=separator_id,
                counts=packing.counts,
                shards={split: writer.sizes for split, writer in packing.writers.items()},
                skipped=skipped or {},
            )
            packed.save(workplace)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise GrainlineError(
                f"{folder}: no space left on the disk after {packing.bytes / 1e6:.0f} MB of text "
                f"({shutil.disk_usage(workplace).free / 1e6:.0f} MB are free). "
                "Free some, name a folder on another disk, or read less with max_bytes."
            ) from None
    return packed


class _Packing:
    """The work of one call."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, shard_tokens: int, progress: Progress | None) -> None:
        self.folder, self.tokenizer, self.shard_tokens, self.progress = folder, tokenizer, shard_tokens, progress
        self.dtype = token_dtype(tokenizer.vocab_size)
        self.separator = np.array([tokenizer.separator_id], self.dtype)

    def run(self, documents: Documents, fraction: float) -> None:
        """Write all documents; if one side gets none, once more with the border moved past one document."""
        lowest, highest = self._write(documents(), fraction)
        if all(self.writers[split].sizes for split in ("train", "valid")):
            return
        if not lowest < highest:
            number = sum(count.documents for of in self.counts.values() for count in of.values())
            raise GrainlineError(
                f"{number} document{'s' if number != 1 else ''}, and no two different ones: one must be held out and "
                "one learnt from. Give more text, or separate its documents (by blank lines, in files or JSON lines)."
            )
        self._write(documents(), highest if lowest < fraction else nextafter(lowest, inf))

    def _write(self, documents: Iterable[TextDocument], fraction: float) -> tuple[float, float]:
        """Returns the lowest and highest position of any document."""
        for left in self.folder.iterdir():
            left.unlink()
        self.writers: dict[Split, ShardWriter] = {
            split: ShardWriter(self.folder, split, self.dtype, self.shard_tokens) for split in ("train", "valid")
        }
        self.counts: dict[Split, dict[str, Count]] = {"train": {}, "valid": {}}
        self.bytes = self.tokens = 0
        lowest, highest = inf, -inf
        batch: list[TextDocument] = []
        size = 0
        try:
            with (self.folder / VALID_TEXT).open("w", encoding="utf-8") as held_out:
                for document in documents:
                    place = position(document.text)
                    lowest, highest = min(lowest, place), max(highest, place)
                    if place < fraction:
                        held_out.write(json.dumps(asdict(document), ensure_ascii=False) + "\n")
                    batch.append(document)
                    size += len(document.text)
                    if size >= BATCH_BYTES:
                        self._encode(batch, fraction)
                        batch, size = [], 0
                self._encode(batch, fraction)
        finally:
            for writer in self.writers.values():
                writer.close()
        return lowest, highest

    def _encode(self, batch: Sequence[TextDocument], fraction: float) -> None:
        for document, ids in zip(batch, self.tokenizer.encode_batch([d.text for d in batch]), strict=True):
            split: Split = "valid" if position(document.text) < fraction else "train"
            self.writers[split].write(self.separator)
            self.writers[split].write(np.array(ids, self.dtype))
            count = self.counts[split].setdefault(document.part, Count())
            length = len(document.text.encode("utf-8"))
            count.documents += 1
            count.bytes += length
            count.tokens += 1 + len(ids)
            self.bytes += length
            self.tokens += 1 + len(ids)
        if self.progress is not None:
            self.progress(self.bytes, self.tokens)
