"""Likelihood tasks: those in files, and those that are made from text."""

from collections.abc import Callable
from typing import Any

from grainline.documents import nearest
from grainline.documents.errors import GrainlineError
from grainline.eval.tasks.read import read_task
from grainline.eval.tasks.task import EvalTask, Sample, TaskResult
from grainline.eval.tasks.true_continuation import true_continuation

__all__ = ["MADE_FROM_TEXT", "EvalTask", "Sample", "TaskResult", "find_task", "read_task", "true_continuation"]

MADE_FROM_TEXT: dict[str, Callable[..., EvalTask]] = {
    "true-continuation": true_continuation,
}


def find_task(name: str, documents: Any) -> EvalTask:
    """The task of a JSONL file, or the one of this name made from `documents`."""
    if name in MADE_FROM_TEXT:
        return MADE_FROM_TEXT[name](documents)
    if name.endswith(".jsonl"):
        return read_task(name)
    raise GrainlineError(f"--task {name}: neither a .jsonl file nor a known task.{nearest(name, MADE_FROM_TEXT)}")
