"""A folder that appears as a whole or not at all, however the work on it ends."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grainline.documents import make_folder


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder` to write to, which takes its place at the end if anything was written.

    An error or interruption removes it and leaves `folder` as it was; what a killed process left is removed by the
    next. One process builds at a time: others wait at the door, and should then look at what there is.
    """
    folder = folder.resolve()  # a link to elsewhere stays one
    make_folder(folder.parent)
    partial = folder.with_name(f".{folder.name}.partial")
    lock = _locked(partial)
    try:
        for left in partial.iterdir():
            _remove(left)
        yield partial
        if any(partial.iterdir()):
            _swap(partial, folder)
        else:
            partial.rmdir()
    except BaseException:
        _remove(partial)
        raise
    finally:
        os.close(lock)


def _locked(partial: Path) -> int:
    """Holds the folder itself, since it is what the processes have in common."""
    while True:
        partial.mkdir(exist_ok=True)
        try:
            lock = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:
            continue  # finished between the two lines
        fcntl.flock(lock, fcntl.LOCK_EX)
        if partial.is_dir() and os.path.samestat(os.fstat(lock), partial.stat()):
            return lock
        os.close(lock)  # it has become the finished folder while this process waited


def _swap(partial: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    _remove(old)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
