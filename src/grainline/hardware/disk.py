"""How fast a folder's disk reads and writes a large file, past the system's cache as far as the system allows it."""

from __future__ import annotations

import mmap
import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grainline.documents import GrainlineError

BLOCK = 4 << 20
IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
F_NOCACHE = 48  # macOS's fcntl command


@dataclass(frozen=True)
class DiskRates:
    """Sequential, in blocks of 4 MiB, one at a time."""

    folder: str
    file_bytes: int
    read_bytes_per_second: float
    write_bytes_per_second: float  # until the system says that it is on the disk
    how: str  # how reading went past the cache

    def table(self, command: str) -> dict[str, Any]:
        """As a disk of a Cluster."""
        return {
            "name": self.folder,
            "read_bytes_per_second": self.read_bytes_per_second,
            "write_bytes_per_second": self.write_bytes_per_second,
            "source": "measured",
            "reference": f"{command}, {self.how}",
        }


def disk_rates(folder: Path, file_bytes: int, tries: int = 2) -> DiskRates:
    """Write a file that has no name, so that nothing can be left behind, and read it; the best of `tries` readings.

    A virtual machine's disk may still be read from its host's cache. Raises GrainlineError where the folder is in
    memory, can't be written, or has too little room.
    """
    kind = file_system(folder)
    if kind in IN_MEMORY:
        raise GrainlineError(f"{folder} is in memory ({kind}): name a folder on a disk with --disk.")
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise GrainlineError(f"{folder}: {error.strerror}; name another folder with --disk.") from None
    if free < 2 * file_bytes:
        raise GrainlineError(
            f"{folder} has {free / 1e6:,.0f} MB free, and measuring it needs {2 * file_bytes / 1e6:,.0f}."
        )
    blocks = max(1, file_bytes // BLOCK)
    try:
        file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
    except OSError as error:
        raise GrainlineError(f"{folder}: {error.strerror}; name another folder with --disk.") from None
    with file, mmap.mmap(-1, BLOCK) as buffer:  # its own pages, so aligned
        buffer.write(os.urandom(BLOCK))  # that no file system can make smaller
        start = time.perf_counter()
        for _ in range(blocks):
            file.write(buffer)
        os.fsync(file.fileno())
        written = time.perf_counter() - start
        readings = [_read(file.fileno(), buffer, blocks) for _ in range(tries)]
    seconds, how = min(readings)
    size = blocks * BLOCK
    return DiskRates(str(folder), size, size / seconds, size / written, how)


def file_system(folder: Path) -> str:
    """Its kind, as Linux names it: "ext4", "tmpfs"; "" where that isn't told."""
    found = (Path(), "")
    path = folder.resolve()
    with suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, where, kind, *_ = line.split()
            mount = Path(where.replace("\\040", " "))
            if (path == mount or mount in path.parents) and len(mount.parts) >= len(found[0].parts):
                found = (mount, kind)
    return found[1]


def _read(file: int, buffer: mmap.mmap, blocks: int) -> tuple[float, str]:
    """Seconds of reading it all, and how."""
    reader, how = _past_the_cache(file)
    try:
        start = time.perf_counter()
        for i in range(blocks):
            if os.preadv(reader, [buffer], i * BLOCK) != BLOCK:
                raise GrainlineError("the file that was measured became shorter meanwhile: the disk fails, or is full.")
        return time.perf_counter() - start, how
    finally:
        if reader != file:
            os.close(reader)


def _past_the_cache(file: int) -> tuple[int, str]:
    """A descriptor to read by: O_DIRECT, else after asking the system to forget what it has cached."""
    if hasattr(os, "O_DIRECT"):
        with suppress(OSError):
            return os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_DIRECT), "O_DIRECT"
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        return file, "dropped from the cache before (posix_fadvise)"
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(file, F_NOCACHE, 1)
        return file, "F_NOCACHE"
    return file, "perhaps from the cache"
