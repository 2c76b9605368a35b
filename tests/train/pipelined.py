"""What each of two ranks runs: started by test_pipelined.py under torchrun, with a folder to work in."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch

from grainline.documents import GrainlineError, Plan, Recipe
from grainline.train import train
from grainline.train.loop import Loop

PIPELINES = {
    "1f1b": {"schedule": "1f1b", "cut": [2, 4]},
    "zb-v": {"schedule": "zb-v", "microbatches": 4, "cut": [1, 2, 2, 1]},
    "recomputed": {"schedule": "gpipe", "recompute": "always", "cut": [4, 2], "microbatches": 3},
    "vocab2": {"schedule": "1f1b", "cut": [2, 4], "vocabulary": "vocab2"},
    "vocab1": {"schedule": "v-half", "cut": [1, 2, 2, 1], "vocabulary": "vocab1", "microbatches": 3},
}
WRONG = {
    "too many micro-batches": {"microbatches": 9},
    "a cut of too few cells": {"cut": [1, 1]},
    "no such schedule": {"schedule": "2f2b"},
}


def main(folder: Path) -> None:
    recipe = Recipe.load(folder / "recipe.toml")

    def run(name: str, pipeline: dict[str, object], recipe: Recipe = recipe, timeline: int | None = None) -> None:
        plan = Plan.parse({"execution": {"threads": 1}, "pipeline": {"ranks": 2, **pipeline}})
        train(recipe, plan, out=folder / name, data=folder / "data", quiet=True, timeline=timeline)

    for name, pipeline in PIPELINES.items():
        run(name, pipeline)
    run("resumed-by-pipeline", PIPELINES["1f1b"])
    run("resumed-by-another-cut", {"schedule": "1f1b", "cut": [4, 2]})
    run("resumed-by-vocab2", PIPELINES["vocab2"])
    run("wsm", PIPELINES["1f1b"], Recipe.load(folder / "wsm.toml"))
    said = {}
    try:
        run("wrong", PIPELINES["1f1b"], timeline=recipe.training.steps + 1)
    except GrainlineError as error:
        said["a timeline of no step"] = str(error)
    for name, pipeline in WRONG.items():
        try:
            run("wrong", pipeline)
        except GrainlineError as error:
            said[name] = str(error)
    gradients = Loop._gradients

    def poisoned(loop: Loop, step: int) -> Any:
        """At step 3 a weight of the router of layer 1 is NaN, on the rank that has it."""
        block = loop.setup.model.blocks[1]
        if step == 3 and block is not None:
            with torch.no_grad():
                block.ffn.router.weight_ED[0, 0] = math.nan  # type: ignore[union-attr, index]
        return gradients(loop, step)

    Loop._gradients = poisoned  # type: ignore[method-assign]
    for name in ("recomputed", "zb-v", "vocab2"):
        try:
            run(f"poisoned-{name}", PIPELINES[name])
        except GrainlineError as error:
            said[f"poisoned, {name}"] = str(error)
    (folder / f"said-{os.environ['RANK']}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
