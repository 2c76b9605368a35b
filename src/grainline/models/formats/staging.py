"""Saving a folder's files whole or not at all, beside whatever else is in the folder.

Files are first written to a hidden folder inside it. Once all are there and on disk, a list of them is written: from
then on the save counts, and moving the files into place is finished by the next reader or writer if it is cut off.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from grainline.documents import GrainlineError, write_atomically

_STAGE, _LIST = ".saving", "files.json"
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")


@contextlib.contextmanager
def staged(folder: Path, needed_bytes: int = 0) -> Iterator[Path]:
    """Yield an empty folder to write into; its files replace those of the same names in `folder` when the block ends.

    Weight files of an earlier save that aren't written again are removed; other files stay. If the block raises, or the
    process dies, `folder` is as it was. GrainlineError if the disk is or becomes full, or can't be written.
    """
    stage = folder / _STAGE
    created = not folder.exists()
    try:
        finish(folder)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(stage, ignore_errors=True)  # of a save that was cut off before it counted
        stage.mkdir()
        free = shutil.disk_usage(folder).free
        if free < needed_bytes:
            raise OSError(errno.ENOSPC, f"{needed_bytes / 1e6:,.1f} MB are needed and {free / 1e6:,.1f} MB are free")
        yield stage
        files = sorted(path.name for path in stage.iterdir())
        for path in stage.iterdir():
            path.chmod(0o644)  # safetensors writes for its own user alone
            _to_disk(path)
        write_atomically(stage / _LIST, json.dumps(files))
    except BaseException as error:
        shutil.rmtree(stage, ignore_errors=True)
        if created:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError) or "os error" in str(error):  # safetensors wraps the system's errors
            why = getattr(error, "strerror", None) or error
            raise GrainlineError(f"{folder}: can't be saved: {why}. What was there before is unchanged.") from None
        raise
    _to_disk(stage)
    finish(folder)


def finish(folder: Path) -> None:
    """Move the files of a save that counts into place, if there is one."""
    stage = folder / _STAGE
    if not (stage / _LIST).exists():
        return
    files = json.loads((stage / _LIST).read_text())
    for path in sorted(stage.iterdir()):
        if path.name in files:
            os.replace(path, folder / path.name)
    for path in folder.iterdir():
        if _WEIGHTS.fullmatch(path.name) and path.name not in files:
            path.unlink()
    _to_disk(folder)
    shutil.rmtree(stage)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
