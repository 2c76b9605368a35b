"""Checkpoints: torch's DCP over safetensors and JSON; atomic, checksummed, written in the background."""

from typing import TYPE_CHECKING

from grainline._lazy import lazy_exports

if TYPE_CHECKING:
    from grainline.train.checkpoint.folder import CheckpointFolder
    from grainline.train.checkpoint.layout import CheckpointError, verify
    from grainline.train.checkpoint.reading import CheckpointSource, load, newest
    from grainline.train.checkpoint.writer import CheckpointWriter

__all__ = ["CheckpointError", "CheckpointFolder", "CheckpointSource", "CheckpointWriter", "load", "newest", "verify"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "CheckpointError": "layout",
        "CheckpointFolder": "folder",
        "CheckpointSource": "reading",
        "CheckpointWriter": "writer",
        "load": "reading",
        "newest": "reading",
        "verify": "layout",
    },
)
