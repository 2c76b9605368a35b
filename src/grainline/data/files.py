"""Which files a person means: files, folders and globs, in an order that doesn't depend on the file system."""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grainline.data import builtin
from grainline.data.formats import COMPRESSED, SUFFIXES, kind_of
from grainline.documents import GrainlineError, nearest

FEW_FILES = 32  # each of so few files is a part of its own; of more, each folder


@dataclass(frozen=True)
class Found:
    """What was found: the built-in corpus or not, files in order, and how many others folders held, by suffix."""

    builtin: bool
    files: tuple[Path, ...]
    skipped: Mapping[str, int]

    @property
    def fingerprint(self) -> str:
        """Changes when the files found, or any's size or time of change, do."""
        digest = hashlib.sha256(builtin.version().encode() if self.builtin else b"")
        for path in self.files:
            status = path.stat()
            digest.update(f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def part(self, path: Path) -> str:
        """The part that a file's texts belong to, unless they say so themselves."""
        return path.name.split(".", 1)[0] if len(self.files) <= FEW_FILES else path.resolve().parent.name


def find_text(sources: Sequence[str | Path]) -> Found:
    """Resolve "builtin", files, folders (searched recursively) and globs (`**` too). Each file counts once.

    Raises GrainlineError if a name matches nothing, or a file that was named isn't of a kind that is read. In folders,
    and among the matches of a glob, other files are skipped and counted; hidden ones aren't looked at.
    """
    if isinstance(sources, str | Path):
        sources = [sources]
    if not sources:
        raise GrainlineError(f"No text to read: name files, folders or globs of {_kinds()}, or 'builtin'.")
    files: dict[Path, None] = {}
    skipped: Counter[str] = Counter()
    for source in sources:
        if str(source) != "builtin":
            found = _matches(Path(source).expanduser(), skipped)
            files.update(dict.fromkeys(found))
    return Found("builtin" in map(str, sources), tuple(files), dict(sorted(skipped.items())))


def refuse_inside(folder: Path, sources: Sequence[str | Path]) -> None:
    """Raise GrainlineError if a folder or glob among `sources` takes in `folder`, which is there.

    What is written to it (a log, a model card) would be read as text, and change the text under a run that goes on.
    """
    place = folder.resolve()
    for source in sources:
        for root in _searched(Path(source).expanduser()) if str(source) != "builtin" else ():
            inside = place.is_relative_to(root)
            if inside and not any(name.startswith(".") for name in place.relative_to(root).parts):
                raise GrainlineError(
                    f"{source}: is searched for text, and {folder} lies in it: what is written there would be read "
                    "too. Write to a folder elsewhere (--out), or name the text more closely."
                )


def _searched(source: Path) -> Iterator[Path]:
    """Folders that are gone through for this source."""
    if source.is_dir():
        yield source.resolve()
    elif glob.has_magic(str(source)):
        yield from (Path(name).resolve() for name in glob.glob(str(source), recursive=True) if os.path.isdir(name))
        if "**" in source.parts:
            fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), source.parts))
            yield Path(*fixed).resolve()


def _matches(source: Path, skipped: Counter[str]) -> list[Path]:
    if source.is_file():
        if kind_of(source) is None:
            raise GrainlineError(f"{source}: files of this kind aren't read. Read are {_kinds()}.")
        return [source]
    if source.is_dir():
        matches, kind = list(_walk(source)), "folder"
    elif glob.has_magic(str(source)):
        names = [Path(name) for name in sorted(glob.glob(str(source), recursive=True))]
        matches = [path for name in names for path in (_walk(name) if name.is_dir() else [name])]
        kind = "glob"
        if not matches:
            raise GrainlineError(f"{source}: this glob matches no file.")
    else:
        siblings = [path.name for path in source.parent.iterdir()] if source.parent.is_dir() else []
        hint = nearest(source.name, siblings) if siblings else f" Nor is there a folder {source.parent}."
        raise GrainlineError(f"{source}: no such file or folder.{hint if 'mean' in hint or 'Nor' in hint else ''}")
    read = [path for path in matches if kind_of(path) is not None]
    others = Counter(path.suffix.lower() or path.name for path in matches if kind_of(path) is None)
    if not read:
        held = ", ".join(f"{count} × {suffix}" for suffix, count in others.most_common(5)) or "no files"
        raise GrainlineError(f"{source}: nothing to read in this {kind} ({held}). Read are {_kinds()}.")
    skipped.update(others)
    return read


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(names) if not name.startswith("."))


def _kinds() -> str:
    return f"{' '.join(SUFFIXES)} (all but .parquet also as {' '.join(COMPRESSED)})"
