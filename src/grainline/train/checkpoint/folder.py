"""The checkpoints of one run under one folder: which there are, which is used, which are kept."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from grainline.train.checkpoint.layout import MANIFEST

NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class CheckpointFolder:
    """Checkpoints by step; the newest `keep` of them are kept (None: all)."""

    path: Path
    keep: int | None = None

    def at(self, step: int) -> Path:
        """The folder of one checkpoint, whether it is there or not."""
        return self.path / f"step-{step:08}"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in order. One that was never finished has none."""
        found = (NAME.fullmatch(p.name) for p in self.path.glob("step-*") if (p / MANIFEST).is_file())
        return sorted(int(m[1]) for m in found if m)

    def prune(self) -> None:
        """Delete all but the newest `keep`."""
        if self.keep is not None:
            for step in self.steps()[: -self.keep]:
                remove(self.at(step))

    def discard_after(self, step: int) -> None:
        """Delete checkpoints of later steps: a resumed run writes them anew."""
        for later in self.steps():
            if later > step:
                remove(self.at(later))

    def clear_partial(self) -> None:
        """Delete what a killed run had begun to write."""
        for partial in self.path.glob(".step-*"):
            shutil.rmtree(partial, ignore_errors=True)


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint so that a reader never meets half of it."""
    doomed = checkpoint.with_name(f".{checkpoint.name}.deleted")
    shutil.rmtree(doomed, ignore_errors=True)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)
