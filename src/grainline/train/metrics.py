"""metrics.jsonl: a line for each step that is logged, in step order and without repeats, also over interruptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from grainline.documents import GrainlineError, write_atomically


class MetricsLog:
    """Appends lines to a file. Opening it after a resume drops the lines of later steps: they will be written again."""

    def __init__(self, path: Path, resumed_at: int) -> None:
        kept = [line for line in read_metrics(path) if line["step"] <= resumed_at]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Append one step; it is in the file when this returns."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """No more lines."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, oldest first; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


class TensorBoard(Protocol):
    """The part of torch's SummaryWriter that is used."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...
    def close(self) -> None: ...


def open_tensorboard(folder: Path, resumed_at: int) -> TensorBoard:
    """A TensorBoard writer; what an earlier start wrote of later steps than `resumed_at` is hidden.

    Raises GrainlineError where TensorBoard isn't installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise GrainlineError(
            "logging.tensorboard is on, but TensorBoard isn't installed. "
            "Install it: python -m pip install 'grainline[tensorboard]'"
        ) from None
    writer: TensorBoard = SummaryWriter(str(folder), purge_step=resumed_at + 1)
    return writer


def to_tensorboard(board: TensorBoard, line: dict[str, Any]) -> None:
    """Every number of a metrics line."""
    for key, value in line.items():
        if key != "step" and isinstance(value, int | float):
            board.add_scalar(key, value, line["step"])
