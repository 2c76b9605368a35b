"""Run tasks and keep what they found: a summary, and one line per sample so that any score can be looked into."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grainline.documents import write_atomically
from grainline.eval.scores import Scores
from grainline.eval.tasks import TaskResult


def report(scores: Scores | None, results: Sequence[TaskResult]) -> dict[str, Any]:
    """All scores as plain values: {"bits_per_byte": …, "tasks": […]}, each where there is one."""
    text = {} if scores is None else {"bits_per_byte": scores.table()}
    return text | ({"tasks": [result.table() for result in results]} if results else {})


def save(folder: Path, table: dict[str, Any], results: Sequence[TaskResult]) -> list[Path]:
    """Write scores.json (`table`) and TASK.samples.jsonl for each task; returns the paths."""
    paths = [folder / "scores.json"]
    write_atomically(paths[0], json.dumps(table, indent=2, ensure_ascii=False) + "\n")
    for result in results:
        rows = [{**sample.record, "scores": dict(sample.scores)} for sample in result.samples]
        paths.append(folder / f"{result.task}.samples.jsonl")
        write_atomically(paths[-1], "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return paths
