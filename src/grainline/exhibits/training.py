"""Training runs for exhibits: several at a time, and each recipe once per command, whichever claims ask for it."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any

from grainline.documents import Recipe
from grainline.exhibits.frame import Scale

RESULT = "result.json"
"""What a run writes last."""


@dataclass(frozen=True)
class Run:
    """What came of a recipe: held-out bits per byte at the end, and metrics.jsonl."""

    bits_per_byte: float  # of the final model; wsm: of the merged one
    last_bits_per_byte: float  # of the last step's weights
    metrics: Sequence[dict[str, Any]]
    model: Path  # folder of the final model, for as long as the scale's folder is there

    def curve(self) -> tuple[list[int], list[float]]:
        """(tokens, held-out bits per byte) during training."""
        seen = [line for line in self.metrics if "validation_bits_per_byte" in line]
        return [line["tokens"] for line in seen], [line["validation_bits_per_byte"] for line in seen]


def trained(recipes: Sequence[Recipe], scale: Scale) -> list[Run]:
    """Train what hasn't come to its end in the scale's folder yet, and return all runs in order.

    Tokenizer and packed text are shared. Each run computes on one CPU thread: models this small gain little from more,
    as many runs as there are cores go on at a time, and figures don't depend on the number of cores.
    """
    outs = [scale.folder / _key(recipe) for recipe in recipes]
    todo = {out: recipe for out, recipe in zip(outs, recipes, strict=True) if not (out / RESULT).is_file()}
    if scale.quick:  # too short to be worth starting processes for
        for out, recipe in todo.items():
            scale.tell(_train(recipe, out))
    elif todo:
        _train_in_processes(todo, scale)
    return [_read(out) for out in outs]


def _train_in_processes(todo: Mapping[Path, Recipe], scale: Scale) -> None:
    from grainline.hardware import look

    workers, others = min(len(todo), look(measure=False).threads), set(active_children())
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            for done in as_completed([pool.submit(_train, recipe, out) for out, recipe in todo.items()]):
                scale.tell(done.result())
        except BaseException:  # Ctrl-C among them: a worker would go on with the next run; nothing here is resumed
            for worker in set(active_children()) - others:
                worker.kill()
            raise


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on for minutes, with nobody to tell."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train(recipe: Recipe, out: Path) -> str:
    """Run a recipe; returns a line that says what came of it."""
    from grainline.documents import Plan
    from grainline.train import train

    plan = Plan.parse({"execution": {"threads": 1, "device": "cpu"}})
    result = train(recipe, plan, out=out, data=out.parent / "data", quiet=True)
    return f"{recipe.name}: {result.validation_bits_per_byte:.4f} bits per byte, {result.seconds:.0f} s"


def _read(out: Path) -> Run:
    from grainline.train import TrainResult, read_metrics

    result = TrainResult.load(out / RESULT)
    assert result is not None
    # Both losses are of the same text, so bits per byte are in proportion to them.
    last = result.validation_bits_per_byte * result.last_validation_loss / result.validation_loss
    return Run(result.validation_bits_per_byte, last, read_metrics(out / "metrics.jsonl"), result.model)


def _key(recipe: Recipe) -> str:
    return hashlib.sha256(json.dumps(recipe.tables(), sort_keys=True).encode()).hexdigest()[:16]
